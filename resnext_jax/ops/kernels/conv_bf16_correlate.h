// y from x, or dx from dy, of bfloat16.
//
// A work item is a few neighbouring panels of 32 result channels, a few images and a few rows of each phase
// of the result. For each block of channels it copies the source pixels that their windows meet to a slab,
// and takes its product with the packed weights of each panel. Results are computed in the order of the slab,
// row by row; those at the end of each row are none, and are left out when the others are stored.
#ifndef RESNEXT_JAX_CONV_BF16_CORRELATE_H_
#define RESNEXT_JAX_CONV_BF16_CORRELATE_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "conv_bf16_shape.h"
#include "parallel.h"

namespace conv_bf16 {

using Target = conv::Target<Value>;

// Reckoned, not tuned. A slab of 384 KiB stays in a second cache of 1 or 2 MiB beside the weights of a panel.
// With 512 positions an item computes 16 products with each packed step that it reads.
constexpr int64_t kSlabValues = 192 * 1024;
constexpr int64_t kItemPositions = 512;

// How the work is divided.
struct CorrelatePlan : BlockedDirection {
  Depth depth;
  int64_t most_rows;             // of a phase
  int64_t panels;                // of a block
  int64_t panels_each, parts;    // panels of an item, of all blocks; how many such parts there are
  int64_t rows_each, chunks;     // rows of each phase of an item; how many such chunks there are
  int64_t images_each, batches;  // images of an item; how many such batches there are

  CorrelatePlan(const Shape& s, bool transposed, int64_t threads)
      : BlockedDirection(s, transposed), depth(blocks.sources(), s.taps(), !transposed) {
    most_rows = rows.phases[0].count;
    panels = Pieces(blocks.results(), kSide);
    ChooseRowsAndImages(threads);
  }

  int64_t items() const { return parts * batches * chunks; }
  int64_t weights() const { return depth.steps() * kPacked; }  // of a panel

 private:
  void ChooseRowsAndImages(int64_t threads) {
    const int64_t row_positions =
        depth.windows ? to.w : std::max<int64_t>(1, window_columns.size() * rows.in_step);
    const int64_t fit = std::min(std::max(kSide, kSlabValues / depth.values), 2 * kItemPositions);
    rows_each = std::clamp<int64_t>(fit / row_positions, 1, most_rows);
    if (in_place) rows_each = std::min(RoundUp(rows_each), most_rows);
    chunks = Pieces(most_rows, rows_each);
    const int64_t images_fit = std::min(fit, kItemPositions) / (row_positions * most_rows);
    images_each = std::clamp<int64_t>(std::min(images_fit, to.n / (4 * threads)), 1, to.n);
    batches = Pieces(to.n, images_each);
    parts = std::clamp<int64_t>(Pieces(4 * threads, chunks * batches), 1, panels * blocks.count);
    panels_each = Pieces(panels * blocks.count, parts);
    parts = Pieces(panels * blocks.count, panels_each);
  }
};

// One work item.
struct CorrelateItem {
  Range panels, images;
  Range rows;         // of each phase of the result
  Range window_rows;  // of the source

  CorrelateItem(const CorrelatePlan& plan, int64_t index) {
    const int64_t chunk = index % plan.chunks, batch = index / plan.chunks % plan.batches;
    const int64_t part = index / plan.chunks / plan.batches;
    panels = Cut(part, plan.panels_each, plan.panels * plan.blocks.count);
    images = Cut(batch, plan.images_each, plan.to.n);
    rows = Cut(chunk, plan.rows_each, plan.most_rows);
    window_rows = plan.rows.Extent(rows.low, rows.high - 1);
  }
};

// The weights of every panel, packed by steps. Each step has 32 source channels of one tap, or 32 of all taps
// one after the other.
inline Buffer PackWeights(ffi::ThreadPool& pool, const CorrelatePlan& plan, const Value* kernel) {
  const Blocks& blocks = plan.blocks;
  const int64_t outputs = plan.shape.y.c, sources = blocks.sources();
  Buffer packed;
  packed.Reserve(plan.panels * blocks.count * plan.weights());
  // Of a block: the weights of one source channel under one tap, for those of `count` result channels from
  // `first` on that are in the channel's group.
  const auto copy = [&](int64_t block, int64_t tap, int64_t source, int64_t first, int64_t count, Value* to) {
    const int64_t group = source / blocks.depth, own = source % blocks.depth;
    const int64_t low = std::max(first, group * blocks.width);
    const int64_t high = std::min(first + count, (group + 1) * blocks.width);
    const int64_t all = block * blocks.groups + group;
    for (int64_t r = low; r < high; ++r) {
      const int64_t result = r - group * blocks.width;
      to[r - first] = plan.transposed
                          ? kernel[(tap * blocks.width + result) * outputs + all * blocks.depth + own]
                          : kernel[(tap * blocks.depth + own) * outputs + all * blocks.width + result];
    }
  };
  ParallelFor(pool, plan.panels * blocks.count, [&](int64_t panel) {
    const int64_t block = panel / plan.panels, first = panel % plan.panels * kSide;
    const int64_t count = std::min(kSide, blocks.results() - first);
    Value* out = packed.data() + panel * plan.weights();
    for (int64_t step = 0; step < plan.depth.steps(); ++step, out += kPacked) {
      const int64_t start = step * kSide, tap = start / plan.depth.tap, source = start % plan.depth.tap;
      const bool whole =
          !plan.depth.windows && blocks.groups == 1 && source + kSide <= sources && count == kSide;
      if (whole && plan.transposed) {
        bf16::PackTransposed(kernel + (tap * blocks.width + first) * outputs + block * blocks.depth + source,
                             outputs, out);
      } else if (whole) {
        const Value* rows = kernel + (tap * blocks.depth + source) * outputs + block * blocks.width + first;
        bf16::PackColumns([&](int64_t i) { return rows + i * outputs; }, out);
      } else {
        Value rows[kSide][kSide] = {};
        for (int64_t i = start; i < start + kSide; ++i)
          if (i / plan.depth.tap < plan.shape.taps() && i % plan.depth.tap < sources)
            copy(block, i / plan.depth.tap, i % plan.depth.tap, first, count, rows[i - start]);
        bf16::PackColumns([&](int64_t i) { return rows[i]; }, out);
      }
    }
  });
  return packed;
}

// Where the results of one phase are stored, in the order of the slab; -1 for positions that are none.
inline void CollectResults(const CorrelatePlan& plan, const Phase& down, const Phase& across, Range rows,
                           int64_t slab_width, std::vector<int64_t>& results) {
  results.clear();
  for (int64_t row = rows.low; row < std::min(rows.high, down.count); ++row)
    for (int64_t column = 0; column < slab_width; ++column) {
      const int64_t y = down.first + row * plan.rows.out_step,
                    x = across.first + column * plan.columns.out_step;
      results.push_back(column < across.count ? (y * plan.to.w + x) * plan.to.c : -1);
    }
}

// One panel of one image from its slab. Positions up to a whole number of steps must be readable.
inline void ComputePanel(const bf16::Operands& operands, const std::vector<int64_t>& results,
                         int64_t channels, const Target& to) {
  alignas(64) float sums[kProduct];
  const int64_t count = results.size();
  for (int64_t position = 0; position < count; position += kSide) {
    const int64_t rows = std::min(kSide, count - position);
    const Value* source = operands.rows + position * operands.stride;
    bf16::Multiply({source, operands.stride, operands.columns, operands.steps}, rows, channels, false, sums);
    for (int64_t r = 0; r < rows; ++r)
      if (results[position + r] >= 0)
        bf16::StoreSums(sums + r * kSide, channels, to.At(results[position + r], 0));
  }
}

// All panels of an item that are in one block.
class BlockOfItem {
 public:
  BlockOfItem(const CorrelatePlan& plan, const CorrelateItem& item, int64_t block)
      : plan_(plan),
        item_(item),
        block_(block),
        panels_{std::max(item.panels.low, block * plan.panels),
                std::min(item.panels.high, (block + 1) * plan.panels)},
        grid_(plan.rows, plan.columns, item.rows.low, item.window_rows, plan.window_columns) {}

  void Run(const Value* source, const Value* packed, const Target& to) {
    source += block_ * plan_.blocks.sources();
    if (plan_.in_place) return RunInPlace(source, packed, to);
    if (!plan_.depth.windows) CopySource(source);
    for (const Phase& down : plan_.rows.phases)
      for (const Phase& across : plan_.columns.phases) {
        if (plan_.depth.windows) CopySource(source);
        CollectSteps(down, across);
        // Results that meet no tap are zero, and need not follow the slab.
        const int64_t width = plan_.depth.windows || steps_.empty() ? across.count : grid_.width();
        CollectResults(plan_, down, across, item_.rows, width, results_);
        for (int64_t panel = panels_.low; panel < panels_.high; ++panel)
          for (int64_t image = item_.images.low; image < item_.images.high; ++image)
            ComputePanel({slab_.data() + (image - item_.images.low) * image_values_, plan_.depth.values,
                          packed + panel * plan_.weights(), steps_},
                         results_, Channels(panel), Place(panel, image, to));
      }
  }

 private:
  int64_t Channels(int64_t panel) const {
    return std::min(kSide, plan_.blocks.results() - panel % plan_.panels * kSide);
  }
  Target Place(int64_t panel, int64_t image, const Target& to) const {
    const int64_t channel = block_ * plan_.blocks.results() + panel % plan_.panels * kSide;
    return to.At(image * plan_.to.floats() + channel, channel);
  }

  // The source is one image of one column. What is left over at its end is copied, to be readable.
  void RunInPlace(const Value* source, const Value* packed, const Target& to) {
    const Phase& all = plan_.rows.phases[0];
    CollectSteps(all, plan_.columns.phases[0]);
    CollectResults(plan_, all, plan_.columns.phases[0], item_.rows, 1, results_);
    const int64_t stride = plan_.from.c, count = results_.size(), whole = count / kSide * kSide;
    const Value* first = source + item_.rows.low * stride;
    std::vector<int64_t> in_place(results_.begin(), results_.begin() + whole);
    Value* left = slab_.Reserve(kSide * plan_.depth.values);
    for (int64_t r = whole; r < count; ++r)
      std::copy_n(first + r * stride, plan_.depth.values, left + (r - whole) * plan_.depth.values);
    results_.erase(results_.begin(), results_.begin() + whole);
    for (int64_t panel = panels_.low; panel < panels_.high; ++panel) {
      const Value* weights = packed + panel * plan_.weights();
      const Target place = Place(panel, 0, to);
      ComputePanel({first, stride, weights, steps_}, in_place, Channels(panel), place);
      ComputePanel({slab_.data(), plan_.depth.values, weights, steps_}, results_, Channels(panel), place);
    }
  }

  void CopySource(const Value* source) {
    const int64_t positions = plan_.depth.windows ? item_.rows.size() * plan_.to.w : grid_.positions();
    image_values_ = positions * plan_.depth.values;
    // The last results read up to a step beyond the slab; what they read is of no account.
    slab_.Reserve((item_.images.size() * positions + kSide) * plan_.depth.values);
    for (int64_t image = item_.images.low; image < item_.images.high; ++image) {
      const Value* pixels = source + image * plan_.from.floats();
      Value* to = slab_.data() + (image - item_.images.low) * image_values_;
      if (plan_.depth.windows)
        CopyWindows(pixels, plan_.shape, item_.rows, plan_.blocks.sources(), plan_.depth.values, to);
      else
        CopyGrid(pixels, plan_.from, grid_, plan_.blocks.sources(), plan_.depth.values, to);
    }
  }

  void CollectSteps(const Phase& down, const Phase& across) {
    steps_.clear();
    const int64_t each = plan_.depth.values / kSide;
    const auto add = [&](int64_t tap, int64_t position) {
      for (int64_t i = 0; i < each; ++i)
        steps_.push_back({position * plan_.depth.values + i * kSide, (tap * each + i) * kPacked});
    };
    if (plan_.depth.windows || plan_.in_place) return add(0, 0);
    for (const Phase::Tap& i : down.taps)
      for (const Phase::Tap& j : across.taps) add(i.k * plan_.shape.kw + j.k, grid_.Position(i, j));
  }

  const CorrelatePlan& plan_;
  const CorrelateItem& item_;
  const int64_t block_;
  const Range panels_;
  const Grid grid_;
  int64_t image_values_ = 0;  // of the slab
  static thread_local Buffer slab_;
  static thread_local std::vector<Step> steps_;
  static thread_local std::vector<int64_t> results_;
};
inline thread_local Buffer BlockOfItem::slab_;
inline thread_local std::vector<Step> BlockOfItem::steps_;
inline thread_local std::vector<int64_t> BlockOfItem::results_;

// y from x, or dx from dy if transposed.
inline void Correlate(ffi::ThreadPool& pool, const Shape& shape, bool transposed, const Value* source,
                      const Value* kernel, const Target& to) {
  const CorrelatePlan plan(shape, transposed, pool.num_threads());
  const Buffer packed = PackWeights(pool, plan, kernel);
  ParallelFor(pool, plan.items(), [&](int64_t index) {
    const bf16::Tiles tiles;
    const CorrelateItem item(plan, index);
    const int64_t last = (item.panels.high - 1) / plan.panels;
    for (int64_t block = item.panels.low / plan.panels; block <= last; ++block)
      BlockOfItem(plan, item, block).Run(source, packed.data(), to);
  });
}

}  // namespace conv_bf16

#endif  // RESNEXT_JAX_CONV_BF16_CORRELATE_H_
