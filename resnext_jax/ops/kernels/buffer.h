// Memory for the values that inner loops read again and again.
#ifndef RESNEXT_JAX_BUFFER_H_
#define RESNEXT_JAX_BUFFER_H_

#include <cstdint>
#include <memory>
#include <new>

// Memory for values, in whole cache lines: what is loaded across them takes twice as long. It grows, and
// keeps nothing when it does.
template <typename Value>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t count) { Reserve(count); }

  Value* Reserve(int64_t count) {
    if (count > count_) {
      data_.reset(static_cast<Value*>(operator new(count * sizeof(Value), kLine)));
      count_ = count;
    }
    return data_.get();
  }
  Value* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kLine{64};
  struct Free {
    void operator()(Value* data) const { operator delete(data, kLine); }
  };
  std::unique_ptr<Value, Free> data_;
  int64_t count_ = 0;
};

#endif  // RESNEXT_JAX_BUFFER_H_
