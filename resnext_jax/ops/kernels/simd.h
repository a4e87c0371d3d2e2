// Vectors of floats, as wide as the processor has them.
#ifndef RESNEXT_JAX_SIMD_H_
#define RESNEXT_JAX_SIMD_H_

#include <cstddef>
#include <cstdint>
#include <utility>

#if defined(__SSE__)
#include <immintrin.h>
#endif

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

// Stores past the caches, which must be whole lines in the end. EndStreams comes before others may read them.
inline void Stream(float* aligned, Vec v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(aligned, (__m512)v);
#elif defined(__AVX2__)
  _mm256_stream_ps(aligned, (__m256)v);
#elif defined(__SSE__)
  _mm_stream_ps(aligned, (__m128)v);
#else
  Store(aligned, v);
#endif
}
inline void EndStreams() {
#if defined(__SSE__)
  _mm_sfence();
#endif
}

// The first `count` values; the others are 0, or stay as they are.
inline Vec LoadFirst(const float* p, int64_t count) {
  if (count >= kLanes) return Load(p);
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_loadu_ps((__mmask16{1} << count) - 1, p);
#else
  Vec v{};
  for (int i = 0; i < kLanes; ++i)
    if (i < count) v[i] = p[i];
  return v;
#endif
}
inline void StoreFirst(float* p, int64_t count, Vec v) {
  if (count >= kLanes) return Store(p, v);
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, (__mmask16{1} << count) - 1, (__m512)v);
#else
  for (int i = 0; i < kLanes; ++i)
    if (i < count) p[i] = v[i];
#endif
}

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
