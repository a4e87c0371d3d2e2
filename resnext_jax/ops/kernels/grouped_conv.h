// Grouped convolution and its two gradients, direct, channels last: x [N, H, W, C], w [kh, kw, C / groups, O].
//
// The work is cut into panels of up to two vectors of result channels. For each panel and a few rows of an image,
// the source pixels that the windows meet are copied to a slab, small enough for the cache, with its padding.
// - Groups narrower than a vector: a vector holds several groups. The i-th channel of each group is spread over
//   its group's lanes by a shuffle, so that no multiplication is wasted.
// - Wider groups: each source channel is broadcast over the panel's lanes.
#ifndef RESNEXT_JAX_GROUPED_CONV_H_
#define RESNEXT_JAX_GROUPED_CONV_H_

#include "common.h"

namespace grouped_conv {

constexpr int64_t kItemChannels = 32;        // channels of a work item: whole cache lines of each pixel
constexpr int64_t kSlabFloats = 24 * 1024;   // of a work item, for the level 2 cache
constexpr int kRegisters = kLanes == 16 ? 24 : 12;  // accumulators

struct Image {
  int64_t n, h, w, c;
};

struct Conv {
  Image x, y;
  int64_t kh, kw, stride[2], pad[2], dilation[2], groups;

  // The layout is that of `grouped_conv.py`.
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

  // The source positions met by results of phase-local positions below `count`: [low, high).
  void Extent(int64_t* low, int64_t* high) const {
    *low = INT64_MAX, *high = INT64_MIN;
    for (const Phase& phase : phases)
      for (const Phase::Tap& tap : phase.taps) {
        *low = std::min(*low, tap.start);
        *high = std::max(*high, tap.start + (phase.count - 1) * in_step + 1);
      }
    if (*low > *high) *low = *high = 0;
  }
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

// Neighbouring panels that are worked on together: those of about kItemChannels.
inline int64_t PanelsTogether(const std::vector<Panel>& panels) {
  return std::max<int64_t>(1, kItemChannels / (panels[0].vectors * kLanes));
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

// sum[p] += (channel I of each group of pixels[p]) * weights[I], for I in [0, Group).
template <int Group, int P, size_t... I>
void AddGroups(Vec (&sum)[P][1], const float* pixels, int64_t step, const float* weights, std::index_sequence<I...>) {
  for (int p = 0; p < P; ++p) {
    const Vec pixel = Load(pixels + p * step);
    ((sum[p][0] += Spread<Group, I>(pixel) * Load(weights + I * kLanes)), ...);
  }
}

struct TapOffset {
  int64_t source, weights;
};

// P result pixels of one panel. Group is the width of groups narrower than a vector, else 0.
template <int Group, int Vectors, int P>
void Tile(const float* source, int64_t step, const std::vector<TapOffset>& taps, const float* weights, int64_t depth,
          float* result, int64_t result_step) {
  Vec sum[P][Vectors] = {};
  for (const TapOffset& tap : taps) {
    const float* pixels = source + tap.source;
    const float* w = weights + tap.weights;
    if constexpr (Group > 0) {
      AddGroups<Group, P>(sum, pixels, step, w, std::make_index_sequence<Group>());
    } else {
      for (int64_t i = 0; i < depth; ++i, w += Vectors * kLanes) {
        Vec row[Vectors];
        for (int v = 0; v < Vectors; ++v) row[v] = Load(w + v * kLanes);
        for (int p = 0; p < P; ++p) {
          const Vec value = Fill(pixels[p * step + i]);
          for (int v = 0; v < Vectors; ++v) sum[p][v] += value * row[v];
        }
      }
    }
  }
  for (int p = 0; p < P; ++p)
    for (int v = 0; v < Vectors; ++v) Store(result + p * result_step + v * kLanes, sum[p][v]);
}

template <int Group, int Vectors, int P>
void TileOf(int count, const float* source, int64_t step, const std::vector<TapOffset>& taps, const float* weights,
            int64_t depth, float* result, int64_t result_step) {
  if (count == P) {
    Tile<Group, Vectors, P>(source, step, taps, weights, depth, result, result_step);
  } else if constexpr (P > 1) {
    TileOf<Group, Vectors, P - 1>(count, source, step, taps, weights, depth, result, result_step);
  }
}

// A row of result pixels, in tiles of nearly equal size.
template <int Group, int Vectors>
void Row(int64_t count, const float* source, int64_t step, const std::vector<TapOffset>& taps, const float* weights,
         int64_t depth, float* result, int64_t result_step) {
  constexpr int kMost = kRegisters / Vectors < 8 ? kRegisters / Vectors : 8;
  for (int64_t tiles = (count + kMost - 1) / kMost; tiles > 0; --tiles) {
    const int64_t p = (count + tiles - 1) / tiles;
    TileOf<Group, Vectors, kMost>(p, source, step, taps, weights, depth, result, result_step);
    count -= p, source += p * step, result += p * result_step;
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

// y from x (transposed = false), or dx from dy (true).
inline void Correlate(ffi::ThreadPool& pool, const Conv& conv, bool transposed, const float* source,
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
  std::vector<float> packed(panels.size() * panel_size);
  ParallelFor(pool, panels.size(), [&](int64_t p) {
    float* out = packed.data() + p * panel_size;
    for (int64_t k = 0; k < conv.taps(); ++k)
      for (int64_t i = 0; i < depth; ++i)
        for (int64_t lane = 0; lane < panels[p].vectors * kLanes; ++lane) {
          const int64_t group = (panels[p].channel + lane) / width, own = (panels[p].channel + lane) % width;
          const int64_t input = transposed ? own : i, output = group * conv.outputs() + (transposed ? i : own);
          *out++ = kernel[(k * conv.inputs() + input) * conv.y.c + output];
        }
  });

  int64_t left, right, top, bottom;
  columns.Extent(&left, &right);
  rows.Extent(&top, &bottom);
  const int64_t together = PanelsTogether(panels);
  const int64_t parts = (panels.size() + together - 1) / together;
  const int64_t channels_most = panels[std::min<int64_t>(together, panels.size()) - 1].source + panels[0].depth;
  const int64_t slab_row = (right - left) * channels_most * rows.in_step;
  const int64_t rows_each = RowsTogether(to.h, slab_row, parts * to.n, pool.num_threads());
  const int64_t chunks = (to.h + rows_each - 1) / rows_each;

  WithGroup(width, [&](auto group) {
    ParallelFor(pool, parts * to.n * chunks, [&](int64_t item) {
      const int64_t chunk = item % chunks, n = item / chunks % to.n, part = item / chunks / to.n;
      const auto begin = panels.begin() + part * together;
      const auto end = panels.begin() + std::min<int64_t>((part + 1) * together, panels.size());
      const int64_t y0 = chunk * rows_each, y1 = std::min(y0 + rows_each, to.h);
      // The source rows that these results meet.
      const int64_t p0 = y0 / rows.out_step, p1 = (y1 - 1) / rows.out_step;
      int64_t low = INT64_MAX, high = INT64_MIN;
      for (const Phase& phase : rows.phases)
        for (const Phase::Tap& tap : phase.taps) {
          low = std::min(low, tap.start + p0 * rows.in_step);
          high = std::max(high, tap.start + p1 * rows.in_step + 1);
        }
      if (low > high) low = high = 0;
      const int64_t channel = begin->source, channels = (end - 1)->source + (end - 1)->depth - channel;
      thread_local std::vector<float> slab;
      slab.resize(std::max<size_t>(slab.size(), (high - low) * (right - left) * channels + 1));
      CopySlab(source + n * from.h * from.w * from.c, from, channel, channels, low, high - low, left, right - left,
               slab.data());

      std::vector<TapOffset> taps;
      for (auto panel = begin; panel != end; ++panel) {
        const int64_t weights_step = depth * panel->vectors * kLanes;
        const float* weights = packed.data() + (panel - panels.begin()) * panel_size;
        for (int64_t y = y0; y < y1; ++y)
          for (const Phase& across : columns.phases) {
            const Phase& down = rows.phases[y % rows.out_step];
            const int64_t row = y / rows.out_step * rows.in_step - low;
            taps.clear();
            for (const Phase::Tap& i : down.taps)
              for (const Phase::Tap& j : across.taps)
                taps.push_back({((row + i.start) * (right - left) + j.start - left) * channels,
                                (i.k * conv.kw + j.k) * weights_step});
            const float* pixels = slab.data() + panel->source - channel;
            float* out = result + ((n * to.h + y) * to.w + across.first) * to.c + panel->channel;
            const int64_t step = columns.in_step * channels, out_step = columns.out_step * to.c;
            if (group > 0 || panel->vectors == 1)
              Row<group, 1>(across.count, pixels, step, taps, weights, depth, out, out_step);
            else if constexpr (group == 0)
              Row<0, 2>(across.count, pixels, step, taps, weights, depth, out, out_step);
          }
      }
    });
  });
}

// sums[I] += (channel I of each group of the pixels) * gradients, over rows of pixels.
template <int Group, size_t... I>
void AddProducts(const float* x, int64_t x_row, int64_t x_step, const float* g, int64_t g_row, int64_t g_step,
                 int64_t rows, int64_t columns, float* result, int64_t result_step, std::index_sequence<I...>) {
  constexpr int kPixels = Group < 8 ? 8 / Group : 1;  // with sums of their own, to hide the latency of additions
  Vec sum[kPixels][Group] = {};
  for (int64_t r = 0; r < rows; ++r) {
    const float *a = x + r * x_row, *b = g + r * g_row;
    int64_t p = 0;
    for (; p + kPixels <= columns; p += kPixels)
      for (int q = 0; q < kPixels; ++q) {
        const Vec pixel = Load(a + (p + q) * x_step), gradient = Load(b + (p + q) * g_step);
        ((sum[q][I] += Spread<Group, I>(pixel) * gradient), ...);
      }
    for (; p < columns; ++p) {
      const Vec pixel = Load(a + p * x_step), gradient = Load(b + p * g_step);
      ((sum[0][I] += Spread<Group, I>(pixel) * gradient), ...);
    }
  }
  for (int i = 0; i < Group; ++i) {
    Vec total = Load(result + i * result_step);
    for (int q = 0; q < kPixels; ++q) total += sum[q][i];
    Store(result + i * result_step, total);
  }
}

// result[i] += x[i] * gradients, for `Depth` source channels i and a panel's lanes, over rows of pixels.
template <int Vectors, int Depth>
void AddOuterProducts(const float* x, int64_t x_row, int64_t x_step, const float* g, int64_t g_row, int64_t g_step,
                      int64_t rows, int64_t columns, float* result, int64_t result_step) {
  Vec sum[Depth][Vectors] = {};
  for (int64_t r = 0; r < rows; ++r) {
    const float *a = x + r * x_row, *b = g + r * g_row;
    for (int64_t p = 0; p < columns; ++p, a += x_step, b += g_step) {
      Vec gradient[Vectors];
      for (int v = 0; v < Vectors; ++v) gradient[v] = Load(b + v * kLanes);
      for (int i = 0; i < Depth; ++i) {
        const Vec value = Fill(a[i]);
        for (int v = 0; v < Vectors; ++v) sum[i][v] += value * gradient[v];
      }
    }
  }
  for (int i = 0; i < Depth; ++i)
    for (int v = 0; v < Vectors; ++v) {
      float* out = result + i * result_step + v * kLanes;
      Store(out, Load(out) + sum[i][v]);
    }
}

template <int Vectors, int Depth>
void AddOuterProductsOf(int64_t depth, const float* x, int64_t x_row, int64_t x_step, const float* g, int64_t g_row,
                        int64_t g_step, int64_t rows, int64_t columns, float* result, int64_t result_step) {
  if (depth == Depth) {
    AddOuterProducts<Vectors, Depth>(x, x_row, x_step, g, g_row, g_step, rows, columns, result, result_step);
  } else if constexpr (Depth > 1) {
    AddOuterProductsOf<Vectors, Depth - 1>(depth, x, x_row, x_step, g, g_row, g_step, rows, columns, result,
                                           result_step);
  }
}

// The same for any number of source channels.
template <int Vectors>
void AddAllOuterProducts(int64_t depth, const float* x, int64_t x_row, int64_t x_step, const float* g, int64_t g_row,
                         int64_t g_step, int64_t rows, int64_t columns, float* result, int64_t result_step) {
  constexpr int kMost = kRegisters / Vectors < 8 ? kRegisters / Vectors : 8;
  for (int64_t tiles = (depth + kMost - 1) / kMost; tiles > 0; --tiles) {
    const int64_t d = (depth + tiles - 1) / tiles;
    AddOuterProductsOf<Vectors, kMost>(d, x, x_row, x_step, g, g_row, g_step, rows, columns, result, result_step);
    depth -= d, x += d, result += d * result_step;
  }
}

// dw from x and dy. Images are divided among work items, whose sums are added up at the end.
inline void KernelGrad(ffi::ThreadPool& pool, const Conv& conv, const float* x, const float* g, float* result) {
  const int64_t size = conv.taps() * conv.inputs() * conv.y.c;
  const std::vector<Panel> panels = Panels(conv.groups, conv.inputs(), conv.outputs());
  const int64_t together = PanelsTogether(panels);
  const int64_t parts = (panels.size() + together - 1) / together;
  const int64_t shares = std::clamp<int64_t>((4 * pool.num_threads() + parts - 1) / parts, 1, conv.x.n);
  std::vector<float> partial((shares - 1) * size);
  std::memset(result, 0, sizeof(float) * size);

  const Axis rows = Forward(conv.y.h, conv.kh, conv.stride[0], conv.pad[0], conv.dilation[0]);
  const Axis columns = Forward(conv.y.w, conv.kw, conv.stride[1], conv.pad[1], conv.dilation[1]);
  int64_t left, right;
  columns.Extent(&left, &right);

  WithGroup(conv.outputs(), [&](auto group) {
    ParallelFor(pool, parts * shares, [&](int64_t item) {
      const int64_t share = item % shares, part = item / shares;
      const auto begin = panels.begin() + part * together;
      const auto end = panels.begin() + std::min<int64_t>((part + 1) * together, panels.size());
      float* sums = share == 0 ? result : partial.data() + (share - 1) * size;
      const int64_t source = begin->source, inputs = (end - 1)->source + (end - 1)->depth - source;
      const int64_t channel = begin->channel, outputs = (end - 1)->channel + (end - 1)->vectors * kLanes - channel;
      const int64_t row_floats = (right - left) * inputs * rows.in_step + conv.y.w * outputs;
      const int64_t rows_each = RowsTogether(conv.y.h, row_floats, INT64_MAX / 2, 1);
      thread_local std::vector<float> slab, gradients;

      for (int64_t n = share; n < conv.x.n; n += shares)
        for (int64_t y0 = 0; y0 < conv.y.h; y0 += rows_each) {
          const int64_t count = std::min(rows_each, conv.y.h - y0);
          const int64_t top = y0 * rows.in_step - conv.pad[0];
          const int64_t height = (count - 1) * rows.in_step + (conv.kh - 1) * conv.dilation[0] + 1;
          slab.resize(std::max<size_t>(slab.size(), height * (right - left) * inputs));
          gradients.resize(std::max<size_t>(gradients.size(), count * conv.y.w * outputs));
          CopySlab(x + n * conv.x.h * conv.x.w * conv.x.c, conv.x, source, inputs, top, height, left, right - left,
                   slab.data());
          CopySlab(g + n * conv.y.h * conv.y.w * conv.y.c, conv.y, channel, outputs, y0, count, 0, conv.y.w,
                   gradients.data());
          const int64_t x_row = (right - left) * inputs * rows.in_step, g_row = conv.y.w * outputs;
          const int64_t x_step = inputs * columns.in_step;
          for (auto panel = begin; panel != end; ++panel)
            for (const Phase::Tap& i : rows.phases[0].taps)
              for (const Phase::Tap& j : columns.phases[0].taps) {
                const int64_t row = i.k * conv.dilation[0];
                const float* a = slab.data() + (row * (right - left) + j.start - left) * inputs + panel->source - source;
                const float* b = gradients.data() + panel->channel - channel;
                float* out = sums + (i.k * conv.kw + j.k) * conv.inputs() * conv.y.c + panel->channel;
                if constexpr (group > 0) {
                  AddProducts<group>(a, x_row, x_step, b, g_row, outputs, count, conv.y.w, out, conv.y.c,
                                     std::make_index_sequence<group>());
                } else if (panel->vectors == 1) {
                  AddAllOuterProducts<1>(panel->depth, a, x_row, x_step, b, g_row, outputs, count, conv.y.w, out,
                                         conv.y.c);
                } else {
                  AddAllOuterProducts<2>(panel->depth, a, x_row, x_step, b, g_row, outputs, count, conv.y.w, out,
                                         conv.y.c);
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

using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::ResultBuffer<ffi::F32>;
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
