// dw from x and dy, of bfloat16.
//
// The sum over pixels is the product of x, transposed, with dy. A work item is some source channels and some
// result channels of a block, and a share of the pixels; the sums of all shares are added up at the end. An
// item takes some rows of some images at a time: it copies the source pixels that they meet to a slab,
// transposes it, and packs the gradients in the order of the slab, with zeros where it has no result.
#ifndef RESNEXT_JAX_CONV_BF16_KERNEL_GRAD_H_
#define RESNEXT_JAX_CONV_BF16_KERNEL_GRAD_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "conv_bf16_shape.h"
#include "parallel.h"

namespace conv_bf16 {

// Positions done at a time. Reckoned, not tuned: the sums of a product are loaded and stored once for its 16
// steps, and 256 channels of source and of gradients are 512 KiB, which stay in the second cache.
constexpr int64_t kGradPositions = 512;

// How the work is divided.
struct KernelGradPlan : BlockedDirection {
  Depth depth;
  int64_t sources_each, source_parts;  // values of a position that an item has
  int64_t results_each, result_parts;  // result channels of an item
  int64_t rows_each, chunks;           // rows done at a time
  int64_t images_each, batches;        // images done at a time
  int64_t shares;                      // of the chunks and batches

  KernelGradPlan(const Shape& s, int64_t threads)
      : BlockedDirection(s, false), depth(blocks.sources(), s.taps(), true) {
    const Image& y = shape.y;
    const int64_t most = depth.taps == 1 ? 256 : 128;  // so that the sums stay in the second cache
    sources_each = std::min(depth.values, most);
    source_parts = Pieces(depth.values, sources_each);
    results_each = std::min(RoundUp(blocks.results()), most);
    result_parts = Pieces(blocks.results(), results_each);
    const int64_t width = depth.windows ? y.w : Pieces(window_columns.size(), columns.in_step);
    rows_each = std::clamp<int64_t>(kGradPositions / width, 1, y.h);
    chunks = Pieces(y.h, rows_each);
    images_each = std::clamp<int64_t>(kGradPositions / (width * y.h), 1, y.n);
    batches = Pieces(y.n, images_each);
    shares = std::clamp<int64_t>(Pieces(4 * threads, parts()), 1, chunks * batches);
  }

  int64_t parts() const { return blocks.count * source_parts * result_parts; }
  int64_t sums() const { return depth.taps * sources_each * results_each; }  // of an item
  // Where an item has the sums of 32 source and 32 result channels.
  int64_t SumsOf(int64_t tap, int64_t source, int64_t result) const {
    return ((tap * (sources_each / kSide) + source / kSide) * (results_each / kSide) + result / kSide) *
           kProduct;
  }
};

// One work item.
class KernelGradItem {
 public:
  KernelGradItem(const KernelGradPlan& plan, int64_t index)
      : plan_(plan),
        share_(Cut(index % plan.shares, 1, plan.shares)),
        block_(index / plan.shares / plan.result_parts / plan.source_parts),
        sources_(Cut(index / plan.shares / plan.result_parts % plan.source_parts, plan.sources_each,
                     plan.depth.values)),
        results_(Cut(index / plan.shares % plan.result_parts, plan.results_each, plan.blocks.results())) {}

  void Run(const Value* x, const Value* g, float* sums) {
    std::fill_n(sums, plan_.sums(), 0.0f);
    const int64_t all = plan_.chunks * plan_.batches;
    for (int64_t i = all * share_.low / plan_.shares; i < all * share_.high / plan_.shares; ++i) {
      const Range rows = Cut(i % plan_.chunks, plan_.rows_each, plan_.shape.y.h);
      const Range images = Cut(i / plan_.chunks, plan_.images_each, plan_.shape.y.n);
      const Grid grid(plan_.rows, plan_.columns, rows.low, plan_.rows.Extent(rows.low, rows.high - 1),
                      plan_.window_columns);
      const int64_t width = plan_.depth.windows ? plan_.shape.y.w : grid.width();
      positions_ = plan_.depth.windows || plan_.in_place ? rows.size() * plan_.shape.y.w : grid.positions();
      steps_each_ = Pieces(rows.size() * width, kSide);
      CopySource(x, grid, rows, images);
      PackGradients(g, width, rows, images);
      AddProducts(grid, images.size(), sums);
    }
  }

 private:
  // The source channels of the item, transposed: [channels, positions of all images], and zeros behind them.
  void CopySource(const Value* x, const Grid& grid, Range rows, Range images) {
    x += block_ * plan_.blocks.sources();
    const int64_t count = images.size() * positions_, filled = plan_.depth.values;
    // An odd number of cache lines: rows then lie in different sets of the cache.
    length_ = ((Pieces(count, kSide) + 1) | 1) * kSide;
    Value* transposed = transposed_.Reserve(sources_.size() * length_);
    for (int64_t c = 0; c < sources_.size(); ++c)
      std::fill(transposed + c * length_ + RoundUp(count), transposed + (c + 1) * length_, 0);
    const Value* from = x + rows.low * plan_.shape.x.c + sources_.low;
    int64_t stride = plan_.shape.x.c;
    int64_t whole = count / kSide * kSide;
    if (!plan_.in_place) {
      Value* slab = slab_.Reserve(RoundUp(count) * filled);
      std::fill_n(slab + count * filled, (RoundUp(count) - count) * filled, 0);
      for (int64_t image = images.low; image < images.high; ++image) {
        const Value* pixels = x + image * plan_.shape.x.floats();
        Value* to = slab + (image - images.low) * positions_ * filled;
        if (plan_.depth.windows)
          CopyWindows(pixels, plan_.shape, rows, plan_.blocks.sources(), filled, to);
        else
          CopyGrid(pixels, plan_.shape.x, grid, plan_.blocks.sources(), filled, to);
      }
      from = slab + sources_.low, stride = filled, whole = RoundUp(count);
    }
    for (int64_t position = 0; position < whole; position += kSide)
      Transpose(from + position * stride, stride, position);
    if (whole < count) {  // what is left over is copied, to be readable
      Value* left = slab_.Reserve(kSide * sources_.size());
      std::fill_n(left, kSide * sources_.size(), 0);
      for (int64_t p = whole; p < count; ++p)
        std::copy_n(from + p * stride, sources_.size(), left + (p - whole) * sources_.size());
      Transpose(left, sources_.size(), whole);
    }
  }

  void Transpose(const Value* from, int64_t stride, int64_t position) {
    for (int64_t c = 0; c < sources_.size(); c += bf16::kTile)
      bf16::Transpose(from + c, stride, transposed_.data() + c * length_ + position, length_);
  }

  // The gradients of the item, packed: [panels, images, steps].
  void PackGradients(const Value* g, int64_t width, Range rows, Range images) {
    static const Value none[kSide] = {};
    Value part[kSide][kSide];
    Value* packed = packed_.Reserve(Pieces(results_.size(), kSide) * images.size() * steps_each_ * kPacked);
    for (int64_t first = results_.low; first < results_.high; first += kSide) {
      const int64_t channels = std::min(kSide, results_.high - first);
      const Value* from = g + block_ * plan_.blocks.results() + first;
      for (int64_t image = images.low; image < images.high; ++image)
        for (int64_t step = 0; step < steps_each_; ++step, packed += kPacked)
          bf16::PackColumns(
              [&](int64_t i) -> const Value* {
                const int64_t row = rows.low + (step * kSide + i) / width,
                              column = (step * kSide + i) % width;
                if (row >= rows.high || column >= plan_.shape.y.w) return none;
                const Value* pixel =
                    from + ((image * plan_.shape.y.h + row) * plan_.shape.y.w + column) * plan_.shape.y.c;
                if (channels == kSide) return pixel;
                std::fill(std::copy_n(pixel, channels, part[i]), part[i] + kSide, 0);
                return part[i];
              },
              packed);
    }
  }

  void AddProducts(const Grid& grid, int64_t images, float* sums) {
    const auto add = [&](int64_t tap, int64_t position) {
      steps_.clear();
      for (int64_t image = 0; image < images; ++image)
        for (int64_t step = 0; step < steps_each_; ++step)
          steps_.push_back(
              {image * positions_ + position + step * kSide, (image * steps_each_ + step) * kPacked});
      for (int64_t c = 0; c < sources_.size(); c += kSide)
        for (int64_t r = 0; r < results_.size(); r += kSide)
          bf16::Multiply({transposed_.data() + c * length_, length_,
                          packed_.data() + r / kSide * images * steps_each_ * kPacked, steps_},
                         kSide, results_.size() - r, true, sums + plan_.SumsOf(tap, c, r));
    };
    if (plan_.depth.windows || plan_.in_place) return add(0, 0);
    for (const Phase::Tap& i : plan_.rows.phases[0].taps)
      for (const Phase::Tap& j : plan_.columns.phases[0].taps)
        add(i.k * plan_.shape.kw + j.k, grid.Position(i, j));
  }

  const KernelGradPlan& plan_;
  const Range share_;
  const int64_t block_;
  const Range sources_, results_;
  int64_t positions_ = 0, steps_each_ = 0, length_ = 0;  // of an image, of an image, of all
  static thread_local Buffer slab_, transposed_, packed_;
  static thread_local std::vector<Step> steps_;
};
inline thread_local Buffer KernelGradItem::slab_, KernelGradItem::transposed_, KernelGradItem::packed_;
inline thread_local std::vector<Step> KernelGradItem::steps_;

// Adds up the shares, in order, and stores the groups' own parts of each block.
inline void StoreKernelGrad(ffi::ThreadPool& pool, const KernelGradPlan& plan, const float* sums, Value* dw) {
  const Blocks& blocks = plan.blocks;
  ParallelFor(pool, plan.shape.taps() * blocks.depth, [&](int64_t row) {
    const int64_t tap = row / blocks.depth, own = row % blocks.depth;
    Value* to = dw + row * plan.shape.y.c;
    for (int64_t group = 0; group < plan.shape.groups; ++group) {
      const int64_t block = group / blocks.groups, in_block = group % blocks.groups;
      const int64_t channel = in_block * blocks.depth + own;
      const int64_t source = plan.depth.windows ? tap * blocks.sources() + channel : channel;
      const int64_t end = (in_block + 1) * blocks.width;
      for (int64_t result = in_block * blocks.width, count; result < end; result += count) {
        count = std::min(end - result, kSide - result % kSide);
        const int64_t part = (block * plan.source_parts + source / plan.sources_each) * plan.result_parts +
                             result / plan.results_each;
        const float* from = sums + part * plan.shares * plan.sums() +
                            plan.SumsOf(plan.depth.windows ? 0 : tap, source % plan.sources_each,
                                        result % plan.results_each) +
                            source % kSide * kSide + result % kSide;
        alignas(64) float total[kSide] = {};
        for (int64_t share = 0; share < plan.shares; ++share)
          for (int64_t i = 0; i < count; ++i) total[i] += from[share * plan.sums() + i];
        bf16::StoreSums(total, count, {to});
        to += count;
      }
    }
  });
}

inline void KernelGrad(ffi::ThreadPool& pool, const Shape& shape, const Value* x, const Value* g, Value* dw) {
  const KernelGradPlan plan(shape, pool.num_threads());
  const std::unique_ptr<float[]> sums(new float[plan.parts() * plan.shares * plan.sums()]);
  ParallelFor(pool, plan.parts() * plan.shares, [&](int64_t index) {
    const bf16::Tiles tiles;
    KernelGradItem(plan, index).Run(x, g, sums.get() + index * plan.sums());
  });
  StoreKernelGrad(pool, plan, sums.get(), dw);
}

}  // namespace conv_bf16

#endif  // RESNEXT_JAX_CONV_BF16_KERNEL_GRAD_H_
