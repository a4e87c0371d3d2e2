// Sums over pixels of products of a channel of x with the gradients of a panel's channels, kept in registers.
#ifndef RESNEXT_JAX_CONV_PRODUCTS_H_
#define RESNEXT_JAX_CONV_PRODUCTS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "conv_tiles.h"
#include "simd.h"

namespace conv {

// Floats from one image, row and pixel to the next.
struct Steps {
  int64_t image, row, pixel;
};

// The pixels of x and of the result's gradients that meet under one tap, and the sums of their products.
struct Products {
  int64_t images, rows, columns;
  const float* x;
  Steps x_steps;
  const float* g;
  Steps g_steps;
  float* sums;
  int64_t sums_step;  // from one channel of x to the next
  int64_t channels;   // of the panel: the sums of other lanes are of no account
};

// sums[I] += (channel I of each group of the pixels) * gradients.
template <int Group, size_t... I>
void AddProducts(const Products& p, std::index_sequence<I...>) {
  constexpr int kPixels =
      Group < 8 ? 8 / Group : 1;  // with sums of their own, to hide the latency of additions
  Vec sum[kPixels][Group] = {};
  for (int64_t row = 0; row < p.images * p.rows; ++row) {
    const int64_t image = row / p.rows, y = row % p.rows;
    const float* x = p.x + image * p.x_steps.image + y * p.x_steps.row;
    const float* g = p.g + image * p.g_steps.image + y * p.g_steps.row;
    int64_t left = p.columns;
    for (; left >= kPixels; left -= kPixels)
      for (int q = 0; q < kPixels; ++q, x += p.x_steps.pixel, g += p.g_steps.pixel) {
        const Vec pixel = Load(x), gradient = Load(g);
        ((sum[q][I] += Spread<Group, I>(pixel) * gradient), ...);
      }
    for (; left > 0; --left, x += p.x_steps.pixel, g += p.g_steps.pixel) {
      const Vec pixel = Load(x), gradient = Load(g);
      ((sum[0][I] += Spread<Group, I>(pixel) * gradient), ...);
    }
  }
  for (int i = 0; i < Group; ++i) {
    Vec total = Load(p.sums + i * p.sums_step);
    for (int q = 0; q < kPixels; ++q) total += sum[q][i];
    Store(p.sums + i * p.sums_step, total);
  }
}

// sums[i] += x[i] * gradients, for `Depth` channels i of x from `first` on, and a panel's lanes.
template <int Vectors, int Depth>
void AddOuterProducts(const Products& p, int64_t first) {
  Vec sum[Depth][Vectors] = {};
  for (int64_t row = 0; row < p.images * p.rows; ++row) {
    const int64_t image = row / p.rows, y = row % p.rows;
    const float* x = p.x + image * p.x_steps.image + y * p.x_steps.row + first;
    const float* g = p.g + image * p.g_steps.image + y * p.g_steps.row;
    for (int64_t column = 0; column < p.columns; ++column, x += p.x_steps.pixel, g += p.g_steps.pixel) {
      Vec gradient[Vectors];
      for (int v = 0; v < Vectors; ++v) gradient[v] = Load(g + v * kLanes);
      for (int i = 0; i < Depth; ++i) {
        const Vec value = Fill(x[i]);
        for (int v = 0; v < Vectors; ++v) sum[i][v] += value * gradient[v];
      }
    }
  }
  for (int i = 0; i < Depth; ++i)
    for (int v = 0; v < Vectors; ++v) {
      float* out = p.sums + (first + i) * p.sums_step + v * kLanes;
      const int64_t count = p.channels - v * kLanes;
      StoreFirst(out, count, LoadFirst(out, count) + sum[i][v]);
    }
}

// Makes `depth` <= Depth a constant.
template <int Vectors, int Depth>
void AddOuterProductsOf(int64_t depth, const Products& products, int64_t first) {
  if (depth == Depth) {
    AddOuterProducts<Vectors, Depth>(products, first);
  } else if constexpr (Depth > 1) {
    AddOuterProductsOf<Vectors, Depth - 1>(depth, products, first);
  }
}

// Channels of x whose sums stay in registers. With 12 in the place of 8, gradients of dense and 1x1
// convolutions take 0.9 of the time (a Xeon with AVX-512).
template <int Vectors>
constexpr int kMostChannels = std::min(kRegisters / Vectors, kLanes == 16 ? 12 : 8);

// The same for any number of channels of x.
template <int Vectors>
void AddAllOuterProducts(int64_t depth, const Products& products) {
  constexpr int kMost = kMostChannels<Vectors>;
  int64_t first = 0;
  for (int64_t left = (depth + kMost - 1) / kMost; left > 0; --left) {
    const int64_t count = (depth - first + left - 1) / left;
    AddOuterProductsOf<Vectors, kMost>(count, products, first);
    first += count;
  }
}

}  // namespace conv

#endif  // RESNEXT_JAX_CONV_PRODUCTS_H_
