// dw from x and dy.
//
// A work item is a few neighbouring panels of result channels and a share of the images; the sums of all
// shares are added up at the end. An item takes a few rows of a few images at a time. It copies the source
// pixels that their windows meet to a slab, and the gradients of each panel to memory of their own. If a
// group has many source channels, they are taken in turns.
#ifndef RESNEXT_JAX_CONV_KERNEL_GRAD_H_
#define RESNEXT_JAX_CONV_KERNEL_GRAD_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "conv_products.h"
#include "conv_shape.h"
#include "conv_slab.h"
#include "parallel.h"

namespace conv {

// With half or twice of one of these, the layers of ResNeXt-50 (batch 8, a Xeon with AVX-512) take 1.02
// to 1.07 of the time. Those for AVX2 were not varied.
constexpr int64_t kGradFloats = (kLanes == 16 ? 96 : 48) * 1024;  // slab and gradients of a work item
constexpr int64_t kGradDepth = 96;                                // source channels of a turn, of one group
constexpr int64_t kGradLeastChannels = 4 * kLanes;  // result channels of a work item of narrow groups,
constexpr int64_t kGradMostChannels = 128;          // and of groups with as many

// How the work is divided.
struct KernelGradPlan : Direction {
  std::vector<Panel> panels;
  int64_t panels_each, parts;  // panels of an item; how many such parts there are
  int64_t shares;              // of the images

  KernelGradPlan(const Shape& s, int64_t threads)
      : Direction(s, false), panels(DivideIntoPanels(s.groups, s.inputs(), s.outputs())) {
    const int64_t channels = std::clamp(s.outputs(), kGradLeastChannels, kGradMostChannels);
    panels_each = std::max<int64_t>(1, channels / panels[0].lanes());
    parts = Pieces(panels.size(), panels_each);
    shares = std::clamp<int64_t>(Pieces(2 * threads, parts), 1, s.x.n);
  }

  int64_t items() const { return parts * shares; }
  int64_t floats() const { return shape.taps() * shape.inputs() * shape.y.c; }  // of the result
};

// One work item.
struct KernelGradItem {
  Panels panels;
  int64_t share;
  Range images;
  int64_t turns, depth;            // turns of `depth` source channels; the last turn may have fewer
  int64_t taps_merged;             // neighbouring taps whose pixels and sums are contiguous are done as one
  int64_t images_each, rows_each;  // done at a time

  KernelGradItem(const KernelGradPlan& plan, int64_t index) {
    const Shape& shape = plan.shape;
    const int64_t first_panel = index / plan.shares * plan.panels_each;
    const int64_t last_panel = std::min<int64_t>(first_panel + plan.panels_each, plan.panels.size()) - 1;
    panels = {&plan.panels[first_panel], &plan.panels[last_panel]};
    share = index % plan.shares;
    images = {shape.x.n * share / plan.shares, shape.x.n * (share + 1) / plan.shares};

    const int64_t sources = panels.sources();
    const bool one_group = sources == shape.inputs();
    turns = one_group ? Pieces(sources, kGradDepth) : 1;
    depth = turns == 1 ? sources : kGradDepth;
    taps_merged = one_group && turns == 1 && shape.dilation[1] == 1 ? shape.kw : 1;
    const int64_t row_floats =
        plan.window_columns.size() * depth * plan.rows.in_step + shape.y.w * panels.channels();
    const int64_t rows_fit = std::max<int64_t>(1, kGradFloats / row_floats);
    rows_each = std::min(rows_fit, shape.y.h);
    images_each = std::max<int64_t>(1, rows_fit / shape.y.h);
  }
};

// Some rows of some images, and the source rows that they meet.
struct Block {
  int64_t first_image, images;
  Range rows, window_rows;

  Block(const KernelGradPlan& plan, const KernelGradItem& item, int64_t image, int64_t row) {
    const Shape& shape = plan.shape;
    first_image = image;
    images = std::min(item.images_each, item.images.high - image);
    rows = {row, std::min(row + item.rows_each, shape.y.h)};
    window_rows.low = row * shape.stride[0] - shape.pad[0];
    window_rows.high =
        window_rows.low + (rows.size() - 1) * shape.stride[0] + (shape.kh - 1) * shape.dilation[0] + 1;
  }
};

// The gradients of a block, [panels, images, rows, columns, channels of the panel]. The vectors of the last
// pixels end behind them.
inline void CopyGradients(const KernelGradPlan& plan, const KernelGradItem& item, const Block& block,
                          const float* g, std::vector<float>& copy) {
  const Image& y = plan.shape.y;
  const int64_t pixels = block.rows.size() * y.w;  // of an image
  copy.resize(std::max<size_t>(copy.size(), block.images * pixels * item.panels.channels() + 2 * kLanes));
  float* out = copy.data();
  for (const Panel& panel : item.panels)
    for (int64_t image = 0; image < block.images; ++image, out += pixels * panel.channels)
      CopySlab(g + (block.first_image + image) * y.floats(), y, panel.channel, panel.channels, block.rows,
               {0, y.w}, out);
}

// Adds what a block gives to the sums of the item's panels, for source channels [first, first + channels).
template <int Group>
void AddBlock(const KernelGradPlan& plan, const KernelGradItem& item, const Block& block, int64_t first,
              int64_t channels, const float* slab, const float* gradients, float* sums) {
  const Shape& shape = plan.shape;
  const int64_t width = plan.window_columns.size(), g_image = block.rows.size() * shape.y.w;
  const Steps x_steps{block.window_rows.size() * width * channels, width * channels * shape.stride[0],
                      channels * shape.stride[1]};
  for (const Panel& panel : item.panels) {
    const float* g = gradients + (panel.channel - item.panels.channel()) * block.images * g_image;
    const Steps g_steps{g_image * panel.channels, shape.y.w * panel.channels, panel.channels};
    for (int64_t i = 0; i < shape.kh; ++i)
      for (int64_t j = 0; j < shape.kw; j += item.taps_merged) {
        const int64_t pixel = i * shape.dilation[0] * width + j * shape.dilation[1];
        const Products products{
            block.images, block.rows.size(),
            shape.y.w,    slab + pixel * channels + panel.source - item.panels.source(),
            x_steps,      g,
            g_steps,      sums + ((i * shape.kw + j) * shape.inputs() + first) * shape.y.c + panel.channel,
            shape.y.c,    panel.channels};
        const int64_t depth = item.taps_merged * (item.turns == 1 ? shape.inputs() : channels);
        if constexpr (Group > 0)
          AddProducts<Group>(products, std::make_index_sequence<Group>());
        else if (panel.vectors == 1)
          AddAllOuterProducts<1>(depth, products);
        else
          AddAllOuterProducts<2>(depth, products);
      }
  }
}

template <int Group>
void KernelGradOneItem(const KernelGradPlan& plan, const KernelGradItem& item, const float* x, const float* g,
                       float* sums) {
  thread_local std::vector<float> slab, gradients;
  const Image& from = plan.shape.x;
  for (int64_t n = item.images.low; n < item.images.high; n += item.images_each)
    for (int64_t y = 0; y < plan.shape.y.h; y += item.rows_each) {
      const Block block(plan, item, n, y);
      CopyGradients(plan, item, block, g, gradients);
      const int64_t slab_pixels = block.window_rows.size() * plan.window_columns.size();
      slab.resize(std::max<size_t>(slab.size(), block.images * slab_pixels * item.depth));
      for (int64_t first = 0; first < item.panels.sources(); first += item.depth) {
        const int64_t channels = std::min(item.depth, item.panels.sources() - first);
        for (int64_t image = 0; image < block.images; ++image)
          CopySlab(x + (n + image) * from.floats(), from, item.panels.source() + first, channels,
                   block.window_rows, plan.window_columns, slab.data() + image * slab_pixels * channels);
        AddBlock<Group>(plan, item, block, first, channels, slab.data(), gradients.data(), sums);
      }
    }
}

// dw from x and dy.
inline void KernelGrad(ffi::ThreadPool& pool, const Shape& shape, const float* x, const float* g,
                       float* result) {
  const KernelGradPlan plan(shape, pool.num_threads());
  // The first share is summed up in the result itself.
  std::vector<float> more((plan.shares - 1) * plan.floats());
  const auto sums = [&](int64_t share) {
    return share == 0 ? result : more.data() + (share - 1) * plan.floats();
  };
  std::memset(result, 0, sizeof(float) * plan.floats());
  WithGroup(SharedWidth(shape.groups, shape.inputs(), shape.outputs()), [&](auto group) {
    ParallelFor(pool, plan.items(), [&](int64_t index) {
      const KernelGradItem item(plan, index);
      KernelGradOneItem<group>(plan, item, x, g, sums(item.share));
    });
  });
  for (int64_t share = 1; share < plan.shares; ++share)
    for (int64_t i = 0; i < plan.floats(); ++i) result[i] += sums(share)[i];
}

}  // namespace conv

#endif  // RESNEXT_JAX_CONV_KERNEL_GRAD_H_
