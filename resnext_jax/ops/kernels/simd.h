// Vectors of floats, as wide as the processor has them.
#ifndef RESNEXT_JAX_SIMD_H_
#define RESNEXT_JAX_SIMD_H_

#include <cstddef>
#include <cstdint>
#include <utility>

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
typedef uint32_t UnsignedVec __attribute__((vector_size(4 * kLanes)));
typedef uint16_t HalfVec __attribute__((vector_size(2 * kLanes)));

inline Vec Load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
inline void Store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }
inline Vec Fill(float value) { return value - Vec{}; }

// Lane l of the result is lane l / Group * Group + I of v.
template <int Group, int I, size_t... L>
Vec Spread(Vec v, std::index_sequence<L...>) {
#if defined(__clang__)
  return __builtin_shufflevector(v, v, (L / Group * Group + I)...);
#else
  return __builtin_shuffle(v, IntVec{(L / Group * Group + I)...});
#endif
}

template <int Group, int I>
Vec Spread(Vec v) {
  return Spread<Group, I>(v, std::make_index_sequence<kLanes>());
}

#endif  // RESNEXT_JAX_SIMD_H_
