// Vectors, and loops over the threads of XLA's own pool.
#ifndef RESNEXT_JAX_COMMON_H_
#define RESNEXT_JAX_COMMON_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::ResultBuffer<ffi::F32>;

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef Vec UnalignedVec __attribute__((aligned(4)));
typedef int32_t IntVec __attribute__((vector_size(4 * kLanes)));

inline Vec Load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
inline void Store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }
inline Vec Fill(float value) { return value - Vec{}; }

// Calls body(i) for every i in [0, count), on the calling thread and on whatever threads of the pool are free.
// The caller never waits for a task that has not begun, so that nested or concurrent loops cannot block each other.
template <typename Body>
void ParallelFor(ffi::ThreadPool& pool, int64_t count, const Body& body) {
  struct Progress {
    std::atomic<int64_t> next{0}, done{0};
  };
  const int64_t helpers = std::min<int64_t>(pool.num_threads(), count) - 1;
  if (helpers <= 0) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  auto progress = std::make_shared<Progress>();
  // A task that starts late finds nothing left, and does not touch the body, which may be gone by then.
  auto work = [progress, count, body = &body] {
    for (int64_t i; (i = progress->next.fetch_add(1)) < count;) {
      (*body)(i);
      progress->done.fetch_add(1, std::memory_order_release);
    }
  };
  for (int64_t h = 0; h < helpers; ++h) {
    auto task = work;
    pool.Schedule(std::move(task));
  }
  work();
  while (progress->done.load(std::memory_order_acquire) < count) std::this_thread::yield();
}

#endif  // RESNEXT_JAX_COMMON_H_
