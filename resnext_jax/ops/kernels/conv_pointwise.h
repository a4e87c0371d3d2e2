// y from x for windows of one pixel and one group: the product of a matrix of pixels and one of weights.
//
// A work item is some pixels of the result and some neighbouring panels of its channels. It takes the source
// channels a block at a time, so that the weights of a panel stay in the first cache, or near it, and the
// block of all its pixels in the second. The first tile of pixels reads a panel's weights where they lie, and
// packs them for the others on the way.
#ifndef RESNEXT_JAX_CONV_POINTWISE_H_
#define RESNEXT_JAX_CONV_POINTWISE_H_

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "buffer.h"
#include "conv_shape.h"
#include "conv_target.h"
#include "parallel.h"
#include "simd.h"

namespace conv {

// Measured on a Xeon with AVX-512 in layers of ResNeXt-50, batch 8, with noise of a few per cent. Tiles of 8
// or 12 pixels, and items of 784 pixels with blocks of 256, take 0.98 to 1.05 of the time; items of 200
// pixels 1.04. A result of 26 MB that goes past the caches takes 0.8 of the time, as its lines aren't read
// before they are written. Those for AVX2 were not varied.
constexpr int kPointVectors = 2;                         // of a panel
constexpr int64_t kPointLanes = kPointVectors * kLanes;  // of a panel
constexpr int kPointRows = kLanes == 16 ? 14 : 6;        // pixels of a tile
constexpr int64_t kPointDepth = 512;                     // source channels of a block
constexpr int64_t kPointPixels = 392;                    // of an item, at most
constexpr int64_t kStreamedFloats = 4 << 20;             // a result of more than these goes past the caches
constexpr int64_t kLineFloats = 16;                      // of a cache line

// What the tiles of a panel have in common, for a block of source channels.
struct PointTiles {
  int64_t depth;        // source channels of the block
  int64_t source_step;  // from one pixel to the next
  const float* kernel;  // the weights of the panel, where they lie
  int64_t kernel_step;  // from one source channel to the next
  float* packed;        // where they are packed
  Target<float> to;     // from the panel's first channel on
  int64_t step;         // from one pixel of the result to the next
  int64_t results;      // channels of the panel
  bool first, last;     // blocks: sums begin, and are whole
  bool stream;          // results go past the caches
};

// Sums of a tile. A loop over an array that is not unrolled keeps it in memory, so those that are loaded or
// stored are copies.
template <int Rows>
using PointSums = Vec[Rows][kPointVectors];

template <int Rows>
void CopySums(const PointSums<Rows>& from, PointSums<Rows>& to) {
  for (int p = 0; p < Rows; ++p)
    for (int v = 0; v < kPointVectors; ++v) to[p][v] = from[p][v];
}

// `Rows` pixels. The first tile of a panel packs its weights.
template <bool Pack, int Rows>
void PointTile(const PointTiles& tiles, const float* source, int64_t result) {
  constexpr int64_t kAhead = 12;  // source channels
  const auto place = [&](int64_t p, int64_t v) { return result + p * tiles.step + v * kLanes; };
  const auto count = [&](int v) { return std::max<int64_t>(0, tiles.results - v * kLanes); };  // of channels
  PointSums<Rows> stored = {}, sum;
  if (!tiles.first)
    for (int p = 0; p < Rows; ++p)
      for (int v = 0; v < kPointVectors; ++v)
        stored[p][v] = LoadFirst(tiles.to.result + place(p, v), count(v));
  CopySums<Rows>(stored, sum);
  const bool adds_shortcut = tiles.last && tiles.to.shortcut, fetches_result = tiles.first && !tiles.stream;
  const float *kernel = tiles.kernel, *next = source + Rows * tiles.source_step;
  float* packed = tiles.packed;
  for (int64_t i = 0; i < tiles.depth; ++i, packed += kPointLanes) {
    Vec weights[kPointVectors];
    for (int v = 0; v < kPointVectors; ++v) {
      if constexpr (Pack) {
        __builtin_prefetch(kernel + kAhead * tiles.kernel_step + v * kLanes);
        weights[v] = LoadFirst(kernel + v * kLanes, count(v));
        Store(packed + v * kLanes, weights[v]);
      } else {
        __builtin_prefetch(packed + kAhead * kPointLanes + v * kLanes);
        weights[v] = Load(packed + v * kLanes);
      }
    }
    if constexpr (Pack) kernel += tiles.kernel_step;
    // A few lines each time: those of the next tile's pixels, and those that this one's results meet.
    __builtin_prefetch(next + i % kLineFloats * tiles.source_step + i / kLineFloats * kLineFloats);
    if (i < Rows * kPointVectors) {
      const int64_t met = place(i / kPointVectors, i % kPointVectors);
      if (fetches_result) __builtin_prefetch(tiles.to.result + met, 1);
      if (adds_shortcut) __builtin_prefetch(tiles.to.shortcut + met);
    }
    for (int p = 0; p < Rows; ++p) {
      const Vec value = Fill(source[p * tiles.source_step + i]);
      for (int v = 0; v < kPointVectors; ++v) sum[p][v] += value * weights[v];
    }
  }
  CopySums<Rows>(sum, stored);
  for (int p = 0; p < Rows; ++p)
    for (int v = 0; v < kPointVectors; ++v) {
      const int64_t at = place(p, v);
      const Vec value = tiles.last ? Finish(tiles.to, at, v * kLanes, count(v), stored[p][v]) : stored[p][v];
      if (tiles.stream)
        Stream(tiles.to.result + at, value);
      else
        StoreFirst(tiles.to.result + at, count(v), value);
    }
}

// Makes `count` <= Rows a constant.
template <bool Pack, int Rows>
void PointTileOf(int64_t count, const PointTiles& tiles, const float* source, int64_t result) {
  if (count == Rows) {
    PointTile<Pack, Rows>(tiles, source, result);
  } else if constexpr (Rows > 1) {
    PointTileOf<Pack, Rows - 1>(count, tiles, source, result);
  }
}

// `count` pixels, in tiles of nearly equal size.
inline void AllPointTiles(const PointTiles& tiles, const float* source, int64_t count) {
  const int64_t pieces = Pieces(count, kPointRows);
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t low = count * piece / pieces, high = count * (piece + 1) / pieces;
    const auto tile = piece == 0 ? PointTileOf<true, kPointRows> : PointTileOf<false, kPointRows>;
    tile(high - low, tiles, source + low * tiles.source_step, low * tiles.step);
  }
}

// How the work is divided.
struct PointPlan {
  Shape shape;
  int64_t pixels, pieces;      // of the result; how many pieces they are divided into
  int64_t panels, parts;       // how many panels; how many parts they are divided into
  int64_t depth_each, blocks;  // source channels of a block; how many such blocks there are
  bool in_place;               // source pixels are read where they lie
  bool stream;                 // results go past the caches

  PointPlan(const Shape& s, int64_t threads) : shape(s) {
    pixels = s.y.n * s.y.h * s.y.w;
    pieces = Pieces(pixels, kPointPixels);
    panels = Pieces(s.y.c, kPointLanes);
    parts = std::min(Pieces(4 * threads, pieces), panels);
    blocks = Pieces(s.x.c, kPointDepth);
    depth_each = Pieces(s.x.c, blocks);
    in_place = s.x.h == s.y.h && s.x.w == s.y.w;
    stream = blocks == 1 && s.y.c % kPointLanes == 0 && pixels * s.y.c > kStreamedFloats;
  }

  int64_t items() const { return pieces * parts; }
};

// Whether these are windows of one pixel and one group, without padding.
inline bool IsPointwise(const Shape& s) {
  const auto inside = [](int64_t x, int64_t y, int64_t stride) { return (y - 1) * stride < x; };
  return s.taps() == 1 && s.groups == 1 && s.pad[0] == 0 && s.pad[1] == 0 &&
         inside(s.x.h, s.y.h, s.stride[0]) && inside(s.x.w, s.y.w, s.stride[1]);
}

// Source channels of some pixels of the result, a step apart.
struct PointSource {
  const float* first;
  int64_t step;

  // The channels [channel, channel + depth). What is not read in place is copied.
  PointSource(const PointPlan& plan, const float* source, Range pixels, int64_t channel, int64_t depth) {
    const Shape& s = plan.shape;
    if (plan.in_place) {
      first = source + pixels.low * s.x.c + channel;
      step = s.x.c;
      return;
    }
    thread_local Buffer<float> copy;
    float* to = copy.Reserve(pixels.size() * depth);
    first = to;
    step = depth;
    for (int64_t pixel = pixels.low; pixel < pixels.high; ++pixel, to += depth) {
      const int64_t column = pixel % s.y.w, row = pixel / s.y.w % s.y.h, image = pixel / s.y.w / s.y.h;
      const int64_t from = (image * s.x.h + row * s.stride[0]) * s.x.w + column * s.stride[1];
      std::memcpy(to, source + from * s.x.c + channel, sizeof(float) * depth);
    }
  }
};

inline void PointItem(const PointPlan& plan, int64_t index, const float* source, const float* kernel,
                      const Target<float>& to) {
  thread_local Buffer<float> packed;
  packed.Reserve(plan.depth_each * kPointLanes);
  const Shape& s = plan.shape;
  const int64_t piece = index / plan.parts, part = index % plan.parts;
  const Range pixels{plan.pixels * piece / plan.pieces, plan.pixels * (piece + 1) / plan.pieces};
  const Range panels{plan.panels * part / plan.parts, plan.panels * (part + 1) / plan.parts};
  const bool aligned = reinterpret_cast<uintptr_t>(to.result) % (sizeof(float) * kLineFloats) == 0;
  for (int64_t first = 0; first < s.x.c; first += plan.depth_each) {
    const int64_t depth = std::min(plan.depth_each, s.x.c - first);
    const PointSource rows(plan, source, pixels, first, depth);
    for (int64_t panel = panels.low; panel < panels.high; ++panel) {
      const int64_t channel = panel * kPointLanes;
      const PointTiles tiles{depth,
                             rows.step,
                             kernel + first * s.y.c + channel,
                             s.y.c,
                             packed.data(),
                             to.At(pixels.low * s.y.c + channel, channel),
                             s.y.c,
                             std::min(kPointLanes, s.y.c - channel),
                             first == 0,
                             first + depth == s.x.c,
                             plan.stream && aligned};
      AllPointTiles(tiles, rows.first, pixels.size());
    }
  }
  if (plan.stream) EndStreams();
}

// y from x.
inline void Pointwise(ffi::ThreadPool& pool, const Shape& shape, const float* source, const float* kernel,
                      const Target<float>& to) {
  const PointPlan plan(shape, pool.num_threads());
  ParallelFor(pool, plan.items(), [&](int64_t index) { PointItem(plan, index, source, kernel, to); });
}

}  // namespace conv

#endif  // RESNEXT_JAX_CONV_POINTWISE_H_
