// The sizes of a convolution, which source positions its results meet, and its division into panels of
// channels.
#ifndef RESNEXT_JAX_CONV_SHAPE_H_
#define RESNEXT_JAX_CONV_SHAPE_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "simd.h"

namespace conv {

struct Image {
  int64_t n, h, w, c;

  int64_t floats() const { return h * w * c; }  // of one image
};

// x [N, H, W, C], w [kh, kw, C / groups, O], y [N, H', W', O].
struct Shape {
  Image x, y;
  int64_t kh, kw;
  int64_t stride[2], pad[2], dilation[2];  // of rows, of columns; pad is the padding above and on the left
  int64_t groups;

  int64_t inputs() const { return x.c / groups; }   // of a group
  int64_t outputs() const { return y.c / groups; }  // of a group
  int64_t taps() const { return kh * kw; }
};

// The width of groups that share vectors: as many results as sources, and a number of groups fill a vector. 0
// if each group has vectors of its own, the last of which it may not fill.
inline int64_t SharedWidth(int64_t groups, int64_t depth, int64_t width) {
  const bool share = width < kLanes && kLanes % width == 0 && groups * width % kLanes == 0 && depth == width;
  return share ? width : 0;
}

// Calls run with the shared width as a constant.
template <typename Run>
void WithGroup(int64_t width, const Run& run) {
  static_assert(kLanes <= 16);
  if (width == 0) return run(std::integral_constant<int, 0>());
  if (width == 1) return run(std::integral_constant<int, 1>());
  if (width == 2) return run(std::integral_constant<int, 2>());
  if constexpr (kLanes > 4)
    if (width == 4) return run(std::integral_constant<int, 4>());
  if constexpr (kLanes > 8) return run(std::integral_constant<int, 8>());
}

// Positions [low, high).
struct Range {
  int64_t low, high;

  int64_t size() const { return high - low; }
};

// Results that meet the same taps: first, first + out_step, ... Under tap k they meet the source positions
// start, start + in_step, ..., some of which may lie outside the source.
struct Phase {
  struct Tap {
    int64_t k, start;
  };
  int64_t first, count;
  std::vector<Tap> taps;
};

// How results meet source positions along one axis.
struct Axis {
  int64_t in_step, out_step;
  std::vector<Phase> phases;

  // The source positions that the results `first` to `last` of each phase meet. Empty if no tap meets any.
  Range Extent(int64_t first, int64_t last) const {
    Range extent{INT64_MAX, INT64_MIN};
    for (const Phase& phase : phases)
      for (const Phase::Tap& tap : phase.taps) {
        extent.low = std::min(extent.low, tap.start + first * in_step);
        extent.high = std::max(extent.high, tap.start + std::min(last, phase.count - 1) * in_step + 1);
      }
    return extent.low < extent.high ? extent : Range{0, 0};
  }
  Range Extent() const { return Extent(0, INT64_MAX); }
};

// y from x: one phase, whose source positions are a stride apart.
inline Axis Forward(int64_t results, int64_t taps, int64_t stride, int64_t pad, int64_t dilation) {
  Phase phase{0, results, {}};
  for (int64_t k = 0; k < taps; ++k) phase.taps.push_back({k, k * dilation - pad});
  return {stride, 1, {phase}};
}

// dx from dy: results that are a stride apart meet the same taps.
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

// A convolution or, transposed, its input gradient: what is computed from what, and how they meet.
struct Direction {
  bool transposed;  // dx from dy
  Shape shape;
  Image from, to;
  Axis rows, columns;
  Range window_columns;  // source columns that the results meet

  Direction(const Shape& s, bool transposed)
      : transposed(transposed), shape(s), from(transposed ? s.y : s.x), to(transposed ? s.x : s.y) {
    const auto axis = transposed ? Backward : Forward;
    rows = axis(to.h, s.kh, s.stride[0], s.pad[0], s.dilation[0]);
    columns = axis(to.w, s.kw, s.stride[1], s.pad[1], s.dilation[1]);
    window_columns = columns.Extent();
  }
};

// Result channels [channel, channel + channels), computed from source channels [source, source + depth).
struct Panel {
  int64_t channel, channels, source, depth;
  int vectors;  // that hold the channels, and may hold more

  int64_t lanes() const { return vectors * kLanes; }
};

// Neighbouring panels. Their source channels, and their result channels, are contiguous.
struct Panels {
  const Panel *first, *last;  // last is included

  const Panel* begin() const { return first; }
  const Panel* end() const { return last + 1; }
  int64_t channel() const { return first->channel; }
  int64_t channels() const { return last->channel + last->channels - first->channel; }
  int64_t source() const { return first->source; }
  int64_t sources() const { return last->source + last->depth - first->source; }
};

// All panels of a convolution from groups of `depth` source channels to groups of `width` result channels.
// All but the last of a group have the same number of vectors.
inline std::vector<Panel> DivideIntoPanels(int64_t groups, int64_t depth, int64_t width) {
  std::vector<Panel> panels;
  if (SharedWidth(groups, depth, width) > 0) {
    for (int64_t c = 0; c < groups * width; c += kLanes) panels.push_back({c, kLanes, c, kLanes, 1});
    return panels;
  }
  for (int64_t group = 0; group < groups; ++group)
    for (int64_t c = 0; c < width;) {
      const int vectors = width - c > kLanes ? 2 : 1;
      const int64_t channels = std::min<int64_t>(vectors * kLanes, width - c);
      panels.push_back({group * width + c, channels, group * depth, depth, vectors});
      c += channels;
    }
  return panels;
}

// How many pieces of `each` cover `count`.
inline int64_t Pieces(int64_t count, int64_t each) { return (count + each - 1) / each; }

}  // namespace conv

#endif  // RESNEXT_JAX_CONV_SHAPE_H_
