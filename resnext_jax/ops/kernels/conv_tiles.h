// Tiles: a few result pixels times one panel of result channels, summed up in registers.
//
// - Groups narrower than a vector: a vector holds several groups. The i-th channel of each group is spread
// over its
//   group's lanes by a shuffle, so that no multiplication is wasted.
// - Wider groups: each source channel is broadcast over the panel's lanes.
#ifndef RESNEXT_JAX_CONV_TILES_H_
#define RESNEXT_JAX_CONV_TILES_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "conv_target.h"
#include "simd.h"

namespace conv {

// Accumulators: AVX-512 has 32 vector registers and AVX2 16; the others hold weights and source pixels.
constexpr int kRegisters = kLanes == 16 ? 24 : 12;

// Rows of accumulators, each of `Vectors` vectors, that are worked on at once. With 12 or 6 in the place of 8
// the layers of ResNeXt-50 take 1.05 or 1.0 to 1.1 of the time (a Xeon with AVX-512).
template <int Vectors>
constexpr int kMostRows = std::min(kRegisters / Vectors, 8);

// A result pixel: where its window begins in the slab, in pixels, and where it goes in the result.
struct Pixel {
  int64_t window, result;
};

// The channels under a tap of the window: where they lie in the slab, seen from the window's beginning, and
// which rows of a panel's weights belong to them.
struct TapOffset {
  int64_t source, weights, depth;
};

// Adds a tap to a list. If it follows directly on the last one, both become one.
inline void AddTap(const TapOffset& tap, std::vector<TapOffset>& taps) {
  if (!taps.empty() && taps.back().source + taps.back().depth == tap.source &&
      taps.back().weights + taps.back().depth == tap.weights)
    taps.back().depth += tap.depth;
  else
    taps.push_back(tap);
}

// What the tiles of a panel have in common.
struct Tiles {
  const float* slab;
  int64_t channels;  // of a pixel in the slab
  const std::vector<TapOffset>& taps;
  const float* weights;
  Target<float> to;  // from the panel's first channel on
  int64_t results;   // channels of the panel
  bool add;          // add to the result rather than set it
  bool finish;       // the sums are whole with these taps
};

// sum[p] += (channel I of each group of pixel p) * weights[I], for I in [0, Group).
template <int Group, int P, size_t... I>
void AddGroups(Vec (&sum)[P][1], const float* const (&pixels)[P], int64_t offset, const float* weights,
               std::index_sequence<I...>) {
  for (int p = 0; p < P; ++p) {
    const Vec pixel = Load(pixels[p] + offset);
    ((sum[p][0] += Spread<Group, I>(pixel) * Load(weights + I * kLanes)), ...);
  }
}

// P result pixels of one panel. Group is the width of groups narrower than a vector, else 0.
template <int Group, int Vectors, int P>
void Tile(const Tiles& tiles, const Pixel* pixels) {
  Vec sum[P][Vectors] = {};
  const float* windows[P];
  for (int p = 0; p < P; ++p) windows[p] = tiles.slab + pixels[p].window * tiles.channels;
  if (tiles.add)
    for (int p = 0; p < P; ++p)
      for (int v = 0; v < Vectors; ++v)
        sum[p][v] = LoadFirst(tiles.to.result + pixels[p].result + v * kLanes, tiles.results - v * kLanes);
  for (const TapOffset& tap : tiles.taps) {
    const float* w = tiles.weights + tap.weights * Vectors * kLanes;
    if constexpr (Group > 0) {
      AddGroups<Group, P>(sum, windows, tap.source, w, std::make_index_sequence<Group>());
    } else {
      for (int64_t i = tap.source; i < tap.source + tap.depth; ++i, w += Vectors * kLanes) {
        Vec row[Vectors];
        for (int v = 0; v < Vectors; ++v) row[v] = Load(w + v * kLanes);
        for (int p = 0; p < P; ++p) {
          const Vec value = Fill(windows[p][i]);
          for (int v = 0; v < Vectors; ++v) sum[p][v] += value * row[v];
        }
      }
    }
  }
  for (int p = 0; p < P; ++p)
    for (int v = 0; v < Vectors; ++v) {
      const int64_t place = pixels[p].result + v * kLanes, count = tiles.results - v * kLanes;
      const Vec result = tiles.finish ? Finish(tiles.to, place, v * kLanes, count, sum[p][v]) : sum[p][v];
      StoreFirst(tiles.to.result + place, count, result);
    }
}

// Makes `count` <= P a constant.
template <int Group, int Vectors, int P>
void TileOf(int64_t count, const Tiles& tiles, const Pixel* pixels) {
  if (count == P) {
    Tile<Group, Vectors, P>(tiles, pixels);
  } else if constexpr (P > 1) {
    TileOf<Group, Vectors, P - 1>(count, tiles, pixels);
  }
}

// All pixels, in tiles of nearly equal size.
template <int Group, int Vectors>
void AllTiles(const Tiles& tiles, const std::vector<Pixel>& pixels) {
  constexpr int kMost = kMostRows<Vectors>;
  const Pixel *next = pixels.data(), *end = next + pixels.size();
  for (int64_t left = (end - next + kMost - 1) / kMost; left > 0; --left) {
    const int64_t count = (end - next + left - 1) / left;
    TileOf<Group, Vectors, kMost>(count, tiles, next);
    next += count;
  }
}

}  // namespace conv

#endif  // RESNEXT_JAX_CONV_TILES_H_
