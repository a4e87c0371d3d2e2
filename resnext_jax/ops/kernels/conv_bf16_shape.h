// How a convolution of bfloat16 becomes matrix products: blocks of channels, and slabs of source pixels.
#ifndef RESNEXT_JAX_CONV_BF16_SHAPE_H_
#define RESNEXT_JAX_CONV_BF16_SHAPE_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "bf16_tiles.h"
#include "conv_shape.h"

namespace conv_bf16 {

using bf16::Buffer;
using bf16::kPacked;
using bf16::kProduct;
using bf16::kSide;
using bf16::Step;
using bf16::Value;
using conv::Axis;
using conv::Image;
using conv::Phase;
using conv::Pieces;
using conv::Range;
using conv::Shape;

inline int64_t RoundUp(int64_t count) { return Pieces(count, kSide) * kSide; }

// Neighbouring groups that are computed together, as one dense convolution with zeros between the groups.
struct Blocks {
  int64_t groups = 1;    // of a block: as many as fit one step
  int64_t depth, width;  // source and result channels of a group

  Blocks(int64_t all_groups, int64_t depth, int64_t width) : depth(depth), width(width) {
    for (int64_t n = 2; n <= all_groups && n * std::max(depth, width) <= kSide; ++n)
      if (all_groups % n == 0) groups = n;
    count = all_groups / groups;
  }

  int64_t count;
  int64_t sources() const { return groups * depth; }  // channels of a block
  int64_t results() const { return groups * width; }
};

// How a convolution becomes sums over steps. The source pixel of each result and tap is a position of a slab,
// with the channels of one block, filled up with zeros to whole steps. If the pixels have few channels, a
// position has those of all taps of one result instead.
struct Depth {
  bool windows;    // whether a position has all taps
  int64_t tap;     // values of one tap
  int64_t taps;    // under which a position is met: one if it has them all
  int64_t values;  // of a position, whole steps

  Depth(int64_t channels, int64_t all_taps, bool may_use_windows) {
    windows = may_use_windows && all_taps > 1 && channels <= kSide / 2;
    tap = windows ? channels : RoundUp(channels);
    taps = windows ? 1 : all_taps;
    values = windows ? RoundUp(all_taps * channels) : tap;
  }

  int64_t steps() const { return taps * values / kSide; }
};

// The source pixels that some results meet. Those that neighbouring results meet under one tap are
// neighbours: if results are several pixels apart in the source, it is split into that many phases, along
// both axes. Phases that no tap meets are left out.
class Grid {
 public:
  // Of the results from `first_row` on, of every phase of the axes.
  Grid(const Axis& down, const Axis& across, int64_t first_row, Range rows, Range columns)
      : row_step_(down.in_step),
        column_step_(across.in_step),
        first_row_(first_row * down.in_step),
        rows_(rows),
        columns_(columns),
        height_(Pieces(rows.size(), row_step_)),
        width_(Pieces(columns.size(), column_step_)),
        place_(row_step_ * column_step_, -1) {
    for (const Phase& i : down.phases)
      for (const Phase& j : across.phases)
        for (const Phase::Tap& k : i.taps)
          for (const Phase::Tap& l : j.taps) {
            const int64_t phase = PhaseOf(k.start, l.start);
            if (place_[phase] >= 0) continue;
            place_[phase] = phases_.size();
            phases_.push_back(phase);
          }
  }

  int64_t positions() const { return phases_.size() * height_ * width_; }
  int64_t width() const { return width_; }

  // Where the first result meets a tap.
  int64_t Position(const Phase::Tap& down, const Phase::Tap& across) const {
    const int64_t row = (down.start + first_row_ - rows_.low) / row_step_;
    const int64_t column = (across.start - columns_.low) / column_step_;
    return (place_[PhaseOf(down.start, across.start)] * height_ + row) * width_ + column;
  }

  // Calls run(row, column of the source) for every position.
  template <typename Run>
  void ForPixels(const Run& run) const {
    for (const int64_t phase : phases_)
      for (int64_t row = 0; row < height_; ++row)
        for (int64_t column = 0; column < width_; ++column)
          run(rows_.low + phase / column_step_ + row * row_step_,
              columns_.low + phase % column_step_ + column * column_step_);
  }

 private:
  int64_t PhaseOf(int64_t row, int64_t column) const {
    return (row + first_row_ - rows_.low) % row_step_ * column_step_ + (column - columns_.low) % column_step_;
  }

  int64_t row_step_, column_step_, first_row_;
  Range rows_, columns_;    // of the source
  int64_t height_, width_;  // of a phase
  std::vector<int64_t> place_, phases_;
};

// Copies some channels of a source pixel, or zeros where there is none, and fills up with zeros.
inline void CopyPixel(const Value* image, const Image& size, int64_t row, int64_t column, int64_t channels,
                      int64_t filled, Value* to) {
  const bool inside = row >= 0 && row < size.h && column >= 0 && column < size.w;
  const int64_t copied = inside ? channels : 0;
  if (inside) std::memcpy(to, image + (row * size.w + column) * size.c, channels * sizeof(Value));
  std::memset(to + copied, 0, (filled - copied) * sizeof(Value));
}

// Copies the pixels of a grid. `image` is where the channels begin.
inline void CopyGrid(const Value* image, const Image& size, const Grid& grid, int64_t channels,
                     int64_t filled, Value* slab) {
  grid.ForPixels([&](int64_t row, int64_t column) {
    CopyPixel(image, size, row, column, channels, filled, slab);
    slab += filled;
  });
}

// Copies the windows of some rows of results, each with all its taps, filled up with zeros.
inline void CopyWindows(const Value* image, const Shape& shape, Range rows, int64_t channels, int64_t filled,
                        Value* slab) {
  const Image& x = shape.x;
  for (int64_t row = rows.low; row < rows.high; ++row)
    for (int64_t column = 0; column < shape.y.w; ++column, slab += filled) {
      Value* to = slab;
      const int64_t left = column * shape.stride[1] - shape.pad[1];
      const bool together = x.c == channels && shape.dilation[1] == 1 && left >= 0 && left + shape.kw <= x.w;
      for (int64_t i = 0; i < shape.kh; ++i) {
        const int64_t from_row = row * shape.stride[0] + i * shape.dilation[0] - shape.pad[0];
        if (together && from_row >= 0 && from_row < x.h) {
          std::memcpy(to, image + (from_row * x.w + left) * x.c, shape.kw * channels * sizeof(Value));
          to += shape.kw * channels;
          continue;
        }
        for (int64_t j = 0; j < shape.kw; ++j, to += channels)
          CopyPixel(image, x, from_row, left + j * shape.dilation[1], channels, channels, to);
      }
      std::memset(to, 0, (slab + filled - to) * sizeof(Value));
    }
}

// Cuts `count` into pieces; the last may be smaller.
inline Range Cut(int64_t index, int64_t each, int64_t count) {
  return {index * each, std::min((index + 1) * each, count)};
}

// A direction whose source may be the slab.
struct BlockedDirection : conv::Direction {
  Blocks blocks;
  bool in_place;  // 1x1 windows that meet every pixel, of channels that are whole steps: the source is the
                  // slab

  BlockedDirection(const Shape& s, bool transposed)
      : BlockedDirection(
            s, transposed,
            {s.groups, transposed ? s.outputs() : s.inputs(), transposed ? s.inputs() : s.outputs()}) {}

 private:
  BlockedDirection(const Shape& s, bool transposed, const Blocks& blocks)
      : BlockedDirection(s, transposed, blocks, MeetsEveryPixel(s) && blocks.sources() % kSide == 0) {}
  BlockedDirection(const Shape& s, bool transposed, const Blocks& blocks, bool in_place)
      : Direction(in_place ? OneColumn(s) : s, transposed), blocks(blocks), in_place(in_place) {}

  static bool MeetsEveryPixel(const Shape& s) {
    return s.taps() == 1 && s.stride[0] == 1 && s.stride[1] == 1 && s.pad[0] == 0 && s.pad[1] == 0 &&
           s.x.h == s.y.h && s.x.w == s.y.w;
  }
  // All pixels of all images as one image of one column.
  static Shape OneColumn(Shape s) {
    for (Image* image : {&s.x, &s.y}) *image = {1, image->n * image->h * image->w, 1, image->c};
    return s;
  }
};

}  // namespace conv_bf16

#endif  // RESNEXT_JAX_CONV_BF16_SHAPE_H_
