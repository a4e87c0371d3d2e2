// Grouped convolution and its two gradients, direct, channels last: x [N, H, W, C], w [kh, kw, C / groups, O].
//
// The work is cut into panels of up to two vectors of result channels. For some panels and a few rows of an image,
// the source pixels that the windows meet are copied to a slab, small enough for the cache, with their padding.
// - Groups narrower than a vector: a vector holds several groups. The i-th channel of each group is spread over
//   its group's lanes by a shuffle, so that no multiplication is wasted.
// - Wider groups: each source channel is broadcast over the panel's lanes; many source channels are taken in turns,
//   a slab of some at a time.
#ifndef RESNEXT_JAX_GROUPED_CONV_H_
#define RESNEXT_JAX_GROUPED_CONV_H_

#include "common.h"

namespace grouped_conv {

// Processors with 16 lanes have 1 MiB or more of level 2 cache, those with 8 as little as 256 KiB.
constexpr int kRegisters = kLanes == 16 ? 24 : 12;                      // accumulators
constexpr int64_t kSlabFloats = (kLanes == 16 ? 96 : 24) * 1024;        // of a work item, for the level 2 cache
constexpr int64_t kWeightFloats = (kLanes == 16 ? 16 : 5) * 1024;       // of a panel at a time
constexpr int64_t kKernelGradFloats = (kLanes == 16 ? 96 : 48) * 1024;  // of a work item of the kernel's gradient
constexpr int64_t kKernelGradDepth = 96;                                // source channels at a time, of one group
constexpr int64_t kPart = 4 * kLanes;    // result channels of a work item, where there are as many
constexpr int64_t kKernelGradPart = 128; // the same of the kernel's gradient

// Rows of accumulators, each of some vectors, that are worked on at once.
template <int Vectors>
constexpr int kMostRows = std::min(kRegisters / Vectors, 8);

struct Image {
  int64_t n, h, w, c;
};

struct Conv {
  Image x, y;
  int64_t kh, kw, stride[2], pad[2], dilation[2], groups;

  // As `cpu_conv.py` writes it.
  explicit Conv(ffi::Span<const int64_t> s)
      : x{s[0], s[1], s[2], s[3]},
        y{s[8], s[9], s[10], s[11]},
        kh(s[4]), kw(s[5]), stride{s[12], s[13]}, pad{s[14], s[15]}, dilation{s[16], s[17]}, groups(s[18]) {}

  int64_t inputs() const { return x.c / groups; }   // of a group
  int64_t outputs() const { return y.c / groups; }  // of a group
  int64_t taps() const { return kh * kw; }
};

// Along one axis, results first, first + out_step, ... meet under tap k the source positions start,
// start + in_step, ...; which may lie outside of the source.
struct Phase {
  struct Tap {
    int64_t k, start;
  };
  int64_t first, count;
  std::vector<Tap> taps;
};

struct Axis {
  int64_t in_step, out_step;
  std::vector<Phase> phases;

  // The source positions that results meet, those from `first` to `last` of each phase: [low, high).
  std::pair<int64_t, int64_t> Extent(int64_t first, int64_t last) const {
    int64_t low = INT64_MAX, high = INT64_MIN;
    for (const Phase& phase : phases)
      for (const Phase::Tap& tap : phase.taps) {
        low = std::min(low, tap.start + first * in_step);
        high = std::max(high, tap.start + std::min(last, phase.count - 1) * in_step + 1);
      }
    return low < high ? std::make_pair(low, high) : std::make_pair<int64_t, int64_t>(0, 0);
  }
  std::pair<int64_t, int64_t> Extent() const { return Extent(0, INT64_MAX); }
};

// y from x: one phase, source positions a stride apart.
inline Axis Forward(int64_t results, int64_t taps, int64_t stride, int64_t pad, int64_t dilation) {
  Phase phase{0, results, {}};
  for (int64_t k = 0; k < taps; ++k) phase.taps.push_back({k, k * dilation - pad});
  return {stride, 1, {phase}};
}

// dx from dy: results a stride apart meet the same taps.
inline Axis Backward(int64_t results, int64_t taps, int64_t stride, int64_t pad, int64_t dilation) {
  Axis axis{1, stride, {}};
  for (int64_t first = 0; first < std::min(stride, results); ++first) {
    Phase phase{first, (results - first + stride - 1) / stride, {}};
    for (int64_t k = 0; k < taps; ++k) {
      const int64_t position = first + pad - k * dilation;
      if (position % stride == 0) phase.taps.push_back({k, position / stride});
    }
    axis.phases.push_back(phase);
  }
  return axis;
}

// Result channels [channel, channel + vectors * kLanes), from source channels [source, source + depth).
struct Panel {
  int64_t channel, source, depth;
  int vectors;
};

// Panels of a convolution from groups of `depth` source channels to groups of `width` result channels.
inline std::vector<Panel> Panels(int64_t groups, int64_t depth, int64_t width) {
  std::vector<Panel> panels;
  if (width < kLanes) {
    for (int64_t c = 0; c < groups * width; c += kLanes) panels.push_back({c, c, kLanes, 1});
    return panels;
  }
  for (int64_t group = 0; group < groups; ++group)
    for (int64_t c = 0; c < width;) {
      const int vectors = width - c >= 2 * kLanes ? 2 : 1;
      panels.push_back({group * width + c, group * depth, depth, vectors});
      c += vectors * kLanes;
    }
  return panels;
}

// Neighbouring panels that a work item does: those of about `channels`, of one group where that is wide enough.
inline int64_t PanelsTogether(const std::vector<Panel>& panels, int64_t channels, int64_t width) {
  return std::max<int64_t>(1, std::min(channels, std::max(width, kPart)) / (panels[0].vectors * kLanes));
}

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

// sum[p] += (channel I of each group of pixel p) * weights[I], for I in [0, Group).
template <int Group, int P, size_t... I>
void AddGroups(Vec (&sum)[P][1], const float* const (&pixels)[P], int64_t offset, const float* weights,
               std::index_sequence<I...>) {
  for (int p = 0; p < P; ++p) {
    const Vec pixel = Load(pixels[p] + offset);
    ((sum[p][0] += Spread<Group, I>(pixel) * Load(weights + I * kLanes)), ...);
  }
}

// A result pixel: where its window begins in the slab, in pixels, and where it goes.
struct Pixel {
  int64_t window, result;
};

// Channels under a tap of the window: where they lie in the slab, from the window's beginning, and which rows of a
// panel's weights are theirs.
struct TapOffset {
  int64_t source, weights, depth;
};

// Adds a tap to a list, as a part of the last one where it follows on it.
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
  float* result;
  bool add;  // to the result, or set it
};

// P result pixels of one panel. Group is the width of groups narrower than a vector, else 0.
template <int Group, int Vectors, int P>
void Tile(const Tiles& tiles, const Pixel* pixels) {
  Vec sum[P][Vectors] = {};
  const float* windows[P];
  for (int p = 0; p < P; ++p) windows[p] = tiles.slab + pixels[p].window * tiles.channels;
  if (tiles.add)
    for (int p = 0; p < P; ++p)
      for (int v = 0; v < Vectors; ++v) sum[p][v] = Load(tiles.result + pixels[p].result + v * kLanes);
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
    for (int v = 0; v < Vectors; ++v) Store(tiles.result + pixels[p].result + v * kLanes, sum[p][v]);
}

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

// Copies rows [top, top + height) and columns [left, left + width) of some channels of one image, 0 outside of it.
inline void CopySlab(const float* image, const Image& shape, int64_t channel, int64_t channels, int64_t top,
                     int64_t height, int64_t left, int64_t width, float* slab) {
  const int64_t from = std::clamp<int64_t>(-left, 0, width), to = std::clamp<int64_t>(shape.w - left, from, width);
  for (int64_t y = top; y < top + height; ++y, slab += width * channels) {
    if (y < 0 || y >= shape.h) {
      std::memset(slab, 0, sizeof(float) * width * channels);
      continue;
    }
    std::memset(slab, 0, sizeof(float) * from * channels);
    std::memset(slab + to * channels, 0, sizeof(float) * (width - to) * channels);
    const float* row = image + (y * shape.w + left) * shape.c + channel;
    for (int64_t x = from; x < to; ++x)
      std::memcpy(slab + x * channels, row + x * shape.c, sizeof(float) * channels);
  }
}

// Calls run with the group width as a constant where groups are narrower than a vector, else with 0.
template <typename Run>
void WithGroup(int64_t width, const Run& run) {
  if (width >= kLanes) return run(std::integral_constant<int, 0>());
  if (width == 1) return run(std::integral_constant<int, 1>());
  if (width == 2) return run(std::integral_constant<int, 2>());
  if constexpr (kLanes > 4)
    if (width == 4) return run(std::integral_constant<int, 4>());
  if constexpr (kLanes > 8)
    if (width == 8) return run(std::integral_constant<int, 8>());
}

// Rows of the result that a work item does: few enough for the slab to fit, and for all threads to have work.
inline int64_t RowsTogether(int64_t rows, int64_t row_floats, int64_t items, int64_t threads) {
  const int64_t fitting = std::max<int64_t>(1, kSlabFloats / std::max<int64_t>(1, row_floats));
  const int64_t chunks = (8 * threads + items - 1) / items;
  return std::clamp<int64_t>(std::min(fitting, (rows + chunks - 1) / chunks), 1, rows);
}

// Images that a work item does, under the same conditions.
inline int64_t ImagesTogether(int64_t images, int64_t image_floats, int64_t items, int64_t threads) {
  return std::clamp<int64_t>(std::min(kSlabFloats / image_floats, images * items / (4 * threads)), 1, images);
}

// y from x (transposed = false), or dx from dy (true).
inline void Correlate(ffi::ThreadPool& pool, const Conv& conv, bool transposed, const float* original,
                      const float* kernel, float* result) {
  const Image& from = transposed ? conv.y : conv.x;
  const Image& to = transposed ? conv.x : conv.y;
  const int64_t depth = transposed ? conv.outputs() : conv.inputs(), width = to.c / conv.groups;
  const auto axis = transposed ? Backward : Forward;
  const Axis rows = axis(to.h, conv.kh, conv.stride[0], conv.pad[0], conv.dilation[0]);
  const Axis columns = axis(to.w, conv.kw, conv.stride[1], conv.pad[1], conv.dilation[1]);
  const std::vector<Panel> panels = Panels(conv.groups, depth, width);

  // Weights of each panel, [taps, depth of a group, lanes].
  const int64_t panel_size = conv.taps() * depth * panels[0].vectors * kLanes;
  const std::unique_ptr<float[]> packed(new float[panels.size() * panel_size]);
  ParallelFor(pool, panels.size(), [&](int64_t p) {
    const int64_t lanes = panels[p].vectors * kLanes, channel = panels[p].channel;
    for (int64_t k = 0; k < conv.taps(); ++k) {
      const float* tap = kernel + k * conv.inputs() * conv.y.c;
      float* out = packed.get() + p * panel_size + k * depth * lanes;
      if (!transposed) {
        for (int64_t i = 0; i < depth; ++i)
          std::memcpy(out + i * lanes, tap + i * conv.y.c + channel, sizeof(float) * lanes);
        continue;
      }
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const int64_t group = (channel + lane) / width, own = (channel + lane) % width;
        const float* from = tap + own * conv.y.c + group * depth;
        for (int64_t i = 0; i < depth; ++i) out[i * lanes + lane] = from[i];
      }
    }
  });

  int64_t left, right;
  std::tie(left, right) = columns.Extent();
  const int64_t together = PanelsTogether(panels, kPart, width);
  const int64_t parts = (panels.size() + together - 1) / together;
  const int64_t depth_most = std::max<int64_t>(8, kWeightFloats / (conv.taps() * panels[0].vectors * kLanes));
  const int64_t slab_row = (right - left) * std::max(kPart, std::min(depth, depth_most)) * rows.in_step;
  const int64_t rows_each = RowsTogether(to.h, slab_row, parts * to.n, pool.num_threads());
  const int64_t chunks = (to.h + rows_each - 1) / rows_each;
  const int64_t images_most = ImagesTogether(to.n, slab_row * to.h, parts, pool.num_threads());
  const int64_t batches = (to.n + images_most - 1) / images_most;

  WithGroup(width, [&](auto group) {
    ParallelFor(pool, parts * batches * chunks, [&](int64_t item) {
      const int64_t chunk = item % chunks, batch = item / chunks % batches, part = item / chunks / batches;
      const int64_t n0 = batch * images_most, images = std::min(images_most, to.n - n0);
      const auto begin = panels.begin() + part * together;
      const auto end = panels.begin() + std::min<int64_t>((part + 1) * together, panels.size());
      const int64_t y0 = chunk * rows_each, y1 = std::min(y0 + rows_each, to.h);
      const auto [low, high] = rows.Extent(y0 / rows.out_step, (y1 - 1) / rows.out_step);

      const int64_t source = begin->source, sources = (end - 1)->source + (end - 1)->depth - source;
      const int64_t turns = sources == depth ? (depth + depth_most - 1) / depth_most : 1;
      thread_local std::vector<float> slab;
      thread_local std::vector<Pixel> pixels;
      std::vector<TapOffset> taps;
      for (int64_t turn = 0, first = 0; turn < turns; ++turn) {
        const int64_t channels = (sources - first + turns - turn - 1) / (turns - turn);
        const int64_t each = turns == 1 ? depth : channels;   // of them, a group's
        const int64_t size = (high - low) * (right - left);  // of an image's slab, in pixels
        slab.resize(std::max<size_t>(slab.size(), images * size * channels + 1));
        for (int64_t image = 0; image < images; ++image)
          CopySlab(original + (n0 + image) * from.h * from.w * from.c, from, source + first, channels, low, high - low,
                   left, right - left, slab.data() + image * size * channels);
        for (int64_t y = y0; y < std::min(y0 + rows.out_step, y1); ++y)
          for (const Phase& across : columns.phases) {
            pixels.clear();
            for (int64_t image = 0; image < images; ++image)
              for (int64_t row = y; row < y1; row += rows.out_step)
                for (int64_t column = 0; column < across.count; ++column) {
                  const int64_t from_row = row / rows.out_step * rows.in_step - low;
                  const int64_t to_row = (n0 + image) * to.h + row;
                  pixels.push_back({image * size + from_row * (right - left) + column * columns.in_step - left,
                                    (to_row * to.w + across.first + column * columns.out_step) * to.c});
                }
            taps.clear();
            for (const Phase::Tap& i : rows.phases[y % rows.out_step].taps)
              for (const Phase::Tap& j : across.taps)
                AddTap({(i.start * (right - left) + j.start) * channels, (i.k * conv.kw + j.k) * depth + first, each},
                       taps);
            for (auto panel = begin; panel != end; ++panel) {
              const Tiles tiles{slab.data() + panel->source - source,
                                channels,
                                taps,
                                packed.get() + (panel - panels.begin()) * panel_size,
                                result + panel->channel,
                                turn > 0};
              if (group > 0 || panel->vectors == 1)
                AllTiles<group, 1>(tiles, pixels);
              else if constexpr (group == 0)
                AllTiles<0, 2>(tiles, pixels);
            }
          }
        first += channels;
      }
    });
  });
}

// Rows of pixels of x and of the result's gradients that meet under one tap, and the sums of their products.
struct Products {
  int64_t images;
  const float* x;
  int64_t x_image, x_row, x_step;
  const float* g;
  int64_t g_image, g_row, g_step;
  int64_t rows, columns;
  float* sums;
  int64_t sums_step;  // from one channel of x to the next
};

// sums[I] += (channel I of each group of the pixels) * gradients.
template <int Group, size_t... I>
void AddProducts(const Products& p, std::index_sequence<I...>) {
  constexpr int kPixels = Group < 8 ? 8 / Group : 1;  // with sums of their own, to hide the latency of additions
  Vec sum[kPixels][Group] = {};
  for (int64_t row = 0; row < p.images * p.rows; ++row) {
    const int64_t image = row / p.rows, y = row % p.rows;
    const float *x = p.x + image * p.x_image + y * p.x_row, *g = p.g + image * p.g_image + y * p.g_row;
    int64_t left = p.columns;
    for (; left >= kPixels; left -= kPixels)
      for (int q = 0; q < kPixels; ++q, x += p.x_step, g += p.g_step) {
        const Vec pixel = Load(x), gradient = Load(g);
        ((sum[q][I] += Spread<Group, I>(pixel) * gradient), ...);
      }
    for (; left > 0; --left, x += p.x_step, g += p.g_step) {
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
    const float *x = p.x + image * p.x_image + y * p.x_row + first, *g = p.g + image * p.g_image + y * p.g_row;
    for (int64_t column = 0; column < p.columns; ++column, x += p.x_step, g += p.g_step) {
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
      Store(out, Load(out) + sum[i][v]);
    }
}

template <int Vectors, int Depth>
void AddOuterProductsOf(int64_t depth, const Products& products, int64_t first) {
  if (depth == Depth) {
    AddOuterProducts<Vectors, Depth>(products, first);
  } else if constexpr (Depth > 1) {
    AddOuterProductsOf<Vectors, Depth - 1>(depth, products, first);
  }
}

// The same for any number of channels of x.
template <int Vectors>
void AddAllOuterProducts(int64_t depth, const Products& products) {
  constexpr int kMost = kMostRows<Vectors>;
  int64_t first = 0;
  for (int64_t left = (depth + kMost - 1) / kMost; left > 0; --left) {
    const int64_t count = (depth - first + left - 1) / left;
    AddOuterProductsOf<Vectors, kMost>(count, products, first);
    first += count;
  }
}

// dw from x and dy. Images are divided among work items, whose sums are added up at the end.
inline void KernelGrad(ffi::ThreadPool& pool, const Conv& conv, const float* x, const float* g, float* result) {
  const int64_t size = conv.taps() * conv.inputs() * conv.y.c;
  const std::vector<Panel> panels = Panels(conv.groups, conv.inputs(), conv.outputs());
  const int64_t together = PanelsTogether(panels, kKernelGradPart, conv.outputs());
  const int64_t parts = (panels.size() + together - 1) / together;
  const int64_t shares = std::clamp<int64_t>((2 * pool.num_threads() + parts - 1) / parts, 1, conv.x.n);
  std::vector<float> partial((shares - 1) * size);
  std::memset(result, 0, sizeof(float) * size);

  const Axis rows = Forward(conv.y.h, conv.kh, conv.stride[0], conv.pad[0], conv.dilation[0]);
  const Axis columns = Forward(conv.y.w, conv.kw, conv.stride[1], conv.pad[1], conv.dilation[1]);
  int64_t left, right;
  std::tie(left, right) = columns.Extent();

  WithGroup(conv.outputs(), [&](auto group) {
    ParallelFor(pool, parts * shares, [&](int64_t item) {
      const int64_t share = item % shares, part = item / shares;
      const auto begin = panels.begin() + part * together;
      const auto end = panels.begin() + std::min<int64_t>((part + 1) * together, panels.size());
      float* sums = share == 0 ? result : partial.data() + (share - 1) * size;
      const int64_t source = begin->source, inputs = (end - 1)->source + (end - 1)->depth - source;
      const int64_t channel = begin->channel, outputs = (end - 1)->channel + (end - 1)->vectors * kLanes - channel;
      const int64_t turns = inputs == conv.inputs() ? (inputs + kKernelGradDepth - 1) / kKernelGradDepth : 1;
      const int64_t depth = turns == 1 ? inputs : kKernelGradDepth;
      // Neighbouring taps whose pixels and sums lie side by side are done at once.
      const int64_t merged = inputs == conv.inputs() && turns == 1 && conv.dilation[1] == 1 ? conv.kw : 1;
      const int64_t row_floats = (right - left) * depth * rows.in_step + conv.y.w * outputs;
      const int64_t rows_fit = std::max<int64_t>(1, kKernelGradFloats / row_floats);
      const int64_t rows_each = std::min(rows_fit, conv.y.h), images_each = std::max<int64_t>(1, rows_fit / conv.y.h);
      thread_local std::vector<float> slab, gradients;

      for (int64_t n = conv.x.n * share / shares; n < conv.x.n * (share + 1) / shares; n += images_each)
        for (int64_t y0 = 0; y0 < conv.y.h; y0 += rows_each) {
          const int64_t images = std::min(images_each, conv.x.n * (share + 1) / shares - n);
          const int64_t count = std::min(rows_each, conv.y.h - y0);
          const int64_t top = y0 * rows.in_step - conv.pad[0];
          const int64_t height = (count - 1) * rows.in_step + (conv.kh - 1) * conv.dilation[0] + 1;
          slab.resize(std::max<size_t>(slab.size(), images * height * (right - left) * depth));
          gradients.resize(std::max<size_t>(gradients.size(), images * count * conv.y.w * outputs));
          const int64_t g_image = count * conv.y.w;
          for (auto panel = begin; panel != end; ++panel)
            for (int64_t image = 0; image < images; ++image) {
              const int64_t lanes = panel->vectors * kLanes;
              CopySlab(g + (n + image) * conv.y.h * conv.y.w * conv.y.c, conv.y, panel->channel, lanes, y0, count, 0,
                       conv.y.w, gradients.data() + ((panel->channel - channel) * images + image * lanes) * g_image);
            }
          for (int64_t first = 0; first < inputs; first += depth) {
            const int64_t channels = std::min(depth, inputs - first);
            const int64_t each = turns == 1 ? conv.inputs() : channels;  // of them, a group's
            for (int64_t image = 0; image < images; ++image)
              CopySlab(x + (n + image) * conv.x.h * conv.x.w * conv.x.c, conv.x, source + first, channels, top, height,
                       left, right - left, slab.data() + image * height * (right - left) * channels);
            const int64_t x_step = channels * columns.in_step, x_row = (right - left) * channels * rows.in_step;
            for (auto panel = begin; panel != end; ++panel)
              for (const Phase::Tap& i : rows.phases[0].taps)
                for (int64_t j = 0; j < conv.kw; j += merged) {
                  const int64_t lanes = panel->vectors * kLanes;
                  const int64_t pixel = i.k * conv.dilation[0] * (right - left) + j * conv.dilation[1];
                  const Products products{images,
                                          slab.data() + pixel * channels + panel->source - source,
                                          height * (right - left) * channels,
                                          x_row,
                                          x_step,
                                          gradients.data() + (panel->channel - channel) * images * g_image,
                                          g_image * lanes,
                                          conv.y.w * lanes,
                                          lanes,
                                          count,
                                          conv.y.w,
                                          sums + ((i.k * conv.kw + j) * conv.inputs() + first) * conv.y.c + panel->channel,
                                          conv.y.c};
                  if constexpr (group > 0)
                    AddProducts<group>(products, std::make_index_sequence<group>());
                  else if (panel->vectors == 1)
                    AddAllOuterProducts<1>(merged * each, products);
                  else
                    AddAllOuterProducts<2>(merged * each, products);
                }
          }
        }
    });
  });
  for (int64_t share = 1; share < shares; ++share) {
    const float* more = partial.data() + (share - 1) * size;
    for (int64_t i = 0; i < size; ++i) result[i] += more[i];
  }
}

}  // namespace grouped_conv

using Numbers = ffi::Span<const int64_t>;

inline ffi::Error GroupedConv(ffi::ThreadPool pool, Numbers spec, Array x, Array w, Result y) {
  grouped_conv::Correlate(pool, grouped_conv::Conv(spec), false, x.typed_data(), w.typed_data(), y->typed_data());
  return ffi::Error::Success();
}

inline ffi::Error GroupedConvInputGrad(ffi::ThreadPool pool, Numbers spec, Array g, Array w, Result dx) {
  grouped_conv::Correlate(pool, grouped_conv::Conv(spec), true, g.typed_data(), w.typed_data(), dx->typed_data());
  return ffi::Error::Success();
}

inline ffi::Error GroupedConvKernelGrad(ffi::ThreadPool pool, Numbers spec, Array x, Array g, Result dw) {
  grouped_conv::KernelGrad(pool, grouped_conv::Conv(spec), x.typed_data(), g.typed_data(), dw->typed_data());
  return ffi::Error::Success();
}

#define RESNEXT_JAX_CONV_HANDLER(name, function)                        \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, function,                         \
                                ffi::Ffi::Bind()                        \
                                    .Ctx<ffi::ThreadPool>()             \
                                    .Attr<Numbers>("spec")              \
                                    .Arg<Array>()                       \
                                    .Arg<Array>()                       \
                                    .Ret<Array>())

RESNEXT_JAX_CONV_HANDLER(grouped_conv_forward, GroupedConv);
RESNEXT_JAX_CONV_HANDLER(grouped_conv_input_grad, GroupedConvInputGrad);
RESNEXT_JAX_CONV_HANDLER(grouped_conv_kernel_grad, GroupedConvKernelGrad);

#endif  // RESNEXT_JAX_GROUPED_CONV_H_
