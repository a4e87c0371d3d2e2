// Sums of batch normalisation over the pixels of x [pixels, channels], float32 or bfloat16.
//
// Chunks of neighbouring pixels are work items. Each reads its pixels once and adds them up in float32, in
// sums that stay in the cache; the chunks' sums are added up in float64 and in order, so threads do not
// change the result.
#ifndef RESNEXT_JAX_BATCH_NORM_H_
#define RESNEXT_JAX_BATCH_NORM_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "parallel.h"
#include "simd.h"

namespace batch_norm {

constexpr int64_t kChunkFloats = 32 * 1024;
constexpr int64_t kChunkPixels = 256;  // at most: rounding errors grow with it
constexpr int64_t kTogether = 4;       // pixels added up before the sums are loaded and stored

struct Chunks {
  int64_t pixels, channels, each, count;

  Chunks(int64_t pixels, int64_t channels) : pixels(pixels), channels(channels) {
    each = std::clamp<int64_t>(kChunkFloats / channels, kTogether, kChunkPixels);
    count = (pixels + each - 1) / each;
  }
  int64_t size(int64_t chunk) const { return std::min(each, pixels - chunk * each); }
  int64_t start(int64_t chunk) const { return chunk * each * channels; }  // in x
};

// Vectors of channels, or single ones, as floats.
template <typename V>
V Get(const float* p) {
  V v;
  std::memcpy(&v, p, sizeof(V));
  return v;
}

// bfloat16: the upper half of a float.
template <typename V>
V Get(const uint16_t* p) {
  typedef std::conditional_t<std::is_same_v<V, float>, uint16_t, HalfVec> Half;
  typedef std::conditional_t<std::is_same_v<V, float>, uint32_t, UnsignedVec> Whole;
  Half half;
  std::memcpy(&half, p, sizeof(half));
  Whole whole;
  if constexpr (std::is_same_v<V, float>)
    whole = half;
  else
    whole = __builtin_convertvector(half, UnsignedVec);
  whole <<= 16;
  V v;
  std::memcpy(&v, &whole, sizeof(V));
  return v;
}

template <typename V>
void Add(float* p, V v) {
  v += Get<V>(p);
  std::memcpy(p, &v, sizeof(V));
}

// Calls add(V(), pixel, count, channel) for all channels, in vectors as far as they go, of runs of kTogether
// pixels and of the single pixels left over. The count is a constant.
template <typename Add>
void ForRuns(int64_t pixels, int64_t channels, const Add& add) {
  const auto run = [&](int64_t pixel, auto count) {
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) add(Vec(), pixel, count, c);
    for (; c < channels; ++c) add(float(), pixel, count, c);
  };
  int64_t pixel = 0;
  for (; pixel + kTogether <= pixels; pixel += kTogether)
    run(pixel, std::integral_constant<int64_t, kTogether>());
  for (; pixel < pixels; ++pixel) run(pixel, std::integral_constant<int64_t, 1>());
}

// Adds to the sums of x - shift and of its square.
template <typename T, typename S>
void AddMoments(int64_t pixels, int64_t channels, const T* x, const S* shift, float* sum, float* square) {
  ForRuns(pixels, channels, [=](auto zero, int64_t pixel, auto count, int64_t c) {
    using V = decltype(zero);
    V s = zero, q = zero;
    for (int64_t p = pixel; p < pixel + count; ++p) {
      const V d = Get<V>(x + p * channels + c) - Get<V>(shift + c);
      s += d, q += d * d;
    }
    Add(sum + c, s), Add(square + c, q);
  });
}

// Mean and biased variance. Each chunk is seen from the mean of a quarter of its pixels, so that neither a
// large mean nor a pixel far off cancels much: squares seen from there are at most 5 times those seen from
// the chunk's mean.
template <typename T>
void Moments(ffi::ThreadPool& pool, const Chunks& chunks, const T* x, float* mean, float* var) {
  const int64_t channels = chunks.channels;
  // Of each chunk: where it is seen from, the sum of x seen from there, and that of its square.
  std::vector<float> parts(chunks.count * 3 * channels);
  ParallelFor(pool, chunks.count, [&](int64_t chunk) {
    float *shift = parts.data() + chunk * 3 * channels, *sum = shift + channels, *square = sum + channels;
    const T* pixels = x + chunks.start(chunk);
    const int64_t quarter = (chunks.size(chunk) + 3) / 4;
    AddMoments(quarter, channels, pixels, pixels, sum, square);
    for (int64_t c = 0; c < channels; ++c) shift[c] = Get<float>(pixels + c) + sum[c] / quarter;
    std::fill(sum, square + channels, 0.0f);
    AddMoments(chunks.size(chunk), channels, pixels, shift, sum, square);
  });

  std::vector<double> centre(channels), squares(channels);
  const auto for_chunks = [&](const auto& add) {
    for (int64_t chunk = 0; chunk < chunks.count; ++chunk) {
      const float* part = parts.data() + chunk * 3 * channels;
      const double n = chunks.size(chunk);
      for (int64_t c = 0; c < channels; ++c) add(c, n, part[c], part[channels + c], part[2 * channels + c]);
    }
  };
  for_chunks([&](int64_t c, double n, double shift, double sum, double) {
    centre[c] += (n * shift + sum) / chunks.pixels;
  });
  for_chunks([&](int64_t c, double n, double shift, double sum, double square) {
    const double offset = shift + sum / n - centre[c];
    squares[c] += square - sum * sum / n + n * offset * offset;
  });
  for (int64_t c = 0; c < channels; ++c) mean[c] = centre[c], var[c] = squares[c] / chunks.pixels;
}

// Adds to the sums of g (x - mean) and of g. With Relu, g is 0 where (x - mean) factor + bias is not
// positive.
template <bool Relu, typename T>
void AddSums(int64_t pixels, int64_t channels, const T* g, const T* x, const float* mean, const float* factor,
             const float* bias, float* product, float* sum) {
  ForRuns(pixels, channels, [=](auto zero, int64_t pixel, auto count, int64_t c) {
    using V = decltype(zero);
    V s = zero, q = zero;
    for (int64_t p = pixel; p < pixel + count; ++p) {
      const V d = Get<V>(x + p * channels + c) - Get<V>(mean + c);
      V value = Get<V>(g + p * channels + c);
      if constexpr (Relu) value = d * Get<V>(factor + c) + Get<V>(bias + c) > zero ? value : zero;
      s += value, q += value * d;
    }
    Add(product + c, q), Add(sum + c, s);
  });
}

template <typename T>
void Sums(ffi::ThreadPool& pool, const Chunks& chunks, bool relu, const T* g, const T* x, const float* mean,
          const float* factor, const float* bias, float* product, float* sum) {
  const int64_t channels = chunks.channels;
  std::vector<float> sums(chunks.count * 2 * channels);
  ParallelFor(pool, chunks.count, [&](int64_t chunk) {
    const int64_t start = chunks.start(chunk);
    float* own = sums.data() + chunk * 2 * channels;
    (relu ? AddSums<true, T> : AddSums<false, T>)(chunks.size(chunk), channels, g + start, x + start, mean,
                                                  factor, bias, own, own + channels);
  });
  std::vector<double> total(2 * channels);
  for (int64_t chunk = 0; chunk < chunks.count; ++chunk)
    for (int64_t i = 0; i < 2 * channels; ++i) total[i] += sums[chunk * 2 * channels + i];
  for (int64_t c = 0; c < channels; ++c) product[c] = total[c], sum[c] = total[channels + c];
}

}  // namespace batch_norm

#endif  // RESNEXT_JAX_BATCH_NORM_H_
