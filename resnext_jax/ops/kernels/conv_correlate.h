// y from x, or dx from dy.
//
// A work item is a few neighbouring panels of result channels, a few images and a few rows of the result. The
// source pixels that their windows meet are copied to a slab. If a group has many source channels, they are
// taken in turns, a slab of some at a time.
#ifndef RESNEXT_JAX_CONV_CORRELATE_H_
#define RESNEXT_JAX_CONV_CORRELATE_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "buffer.h"
#include "conv_pointwise.h"
#include "conv_shape.h"
#include "conv_slab.h"
#include "conv_target.h"
#include "conv_tiles.h"
#include "parallel.h"

namespace conv {

// With half or twice of one of these, the layers of ResNeXt-50 (batch 8, a Xeon with AVX-512) take 0.98
// to 1.14 of the time. Those for AVX2 were not varied.
constexpr int64_t kSlabFloats = (kLanes == 16 ? 96 : 24) * 1024;   // of a work item
constexpr int64_t kWeightFloats = (kLanes == 16 ? 16 : 5) * 1024;  // of a panel in one turn
constexpr int64_t kItemChannels = 4 * kLanes;  // result channels of a work item, if there are as many

// How the work is divided.
struct CorrelatePlan : Direction {
  int64_t depth, width;  // source and result channels of a group
  std::vector<Panel> panels;
  int64_t panel_floats;          // packed weights of a panel
  int64_t panels_each, parts;    // panels of an item; how many such parts there are
  int64_t depth_each;            // source channels of a turn, of one group
  int64_t rows_each, chunks;     // rows of an item; how many such chunks there are
  int64_t images_each, batches;  // images of an item; how many such batches there are

  CorrelatePlan(const Shape& s, bool transposed, int64_t threads)
      : Direction(s, transposed),
        depth(transposed ? s.outputs() : s.inputs()),
        width(transposed ? s.inputs() : s.outputs()) {
    panels = DivideIntoPanels(s.groups, depth, width);
    panel_floats = s.taps() * depth * panels[0].lanes();
    panels_each = std::max<int64_t>(1, kItemChannels / panels[0].lanes());
    parts = Pieces(panels.size(), panels_each);
    depth_each = std::max<int64_t>(8, kWeightFloats / (s.taps() * panels[0].lanes()));
    ChooseRowsAndImages(threads);
  }

  int64_t items() const { return parts * batches * chunks; }

 private:
  // As many rows, and then images, as fit a slab and leave work for all threads. A slab is empty if no window
  // meets the source.
  void ChooseRowsAndImages(int64_t threads) {
    const int64_t slab_channels = std::max(kItemChannels, std::min(depth, depth_each));
    const int64_t row_floats = std::max<int64_t>(1, window_columns.size() * slab_channels * rows.in_step);
    const int64_t rows_fit = std::max<int64_t>(1, kSlabFloats / row_floats);
    const int64_t chunks_wanted = Pieces(8 * threads, parts * to.n);
    rows_each = std::clamp<int64_t>(std::min(rows_fit, Pieces(to.h, chunks_wanted)), 1, to.h);
    chunks = Pieces(to.h, rows_each);

    const int64_t images_fit = kSlabFloats / (row_floats * to.h);
    images_each = std::clamp<int64_t>(std::min(images_fit, to.n * parts / (4 * threads)), 1, to.n);
    batches = Pieces(to.n, images_each);
  }
};

// One work item.
struct CorrelateItem {
  Panels panels;
  int64_t first_image, images;
  Range rows;         // of the result
  Range window_rows;  // of the source
  int64_t turns;

  CorrelateItem(const CorrelatePlan& plan, int64_t index) {
    const int64_t chunk = index % plan.chunks, batch = index / plan.chunks % plan.batches;
    const int64_t first_panel = index / plan.chunks / plan.batches * plan.panels_each;
    const int64_t last_panel = std::min<int64_t>(first_panel + plan.panels_each, plan.panels.size()) - 1;
    panels = {&plan.panels[first_panel], &plan.panels[last_panel]};
    first_image = batch * plan.images_each;
    images = std::min(plan.images_each, plan.to.n - first_image);
    rows.low = chunk * plan.rows_each;
    rows.high = std::min(rows.low + plan.rows_each, plan.to.h);
    window_rows = plan.rows.Extent(rows.low / plan.rows.out_step, (rows.high - 1) / plan.rows.out_step);
    turns = panels.sources() == plan.depth ? Pieces(plan.depth, plan.depth_each) : 1;
  }

  int64_t slab_pixels(const CorrelatePlan& plan) const {  // of one image
    return window_rows.size() * plan.window_columns.size();
  }
};

// The weights of each panel, [taps, depth of a group, lanes]. Those of lanes without a channel are 0.
inline Buffer<float> PackWeights(ffi::ThreadPool& pool, const CorrelatePlan& plan, const float* kernel) {
  const Shape& shape = plan.shape;
  const int64_t depth = plan.depth, width = plan.width, outputs = shape.y.c;
  Buffer<float> packed(plan.panels.size() * plan.panel_floats);
  ParallelFor(pool, plan.panels.size(), [&](int64_t p) {
    const int64_t lanes = plan.panels[p].lanes(), channel = plan.panels[p].channel;
    const int64_t channels = plan.panels[p].channels;
    for (int64_t k = 0; k < shape.taps(); ++k) {
      const float* tap = kernel + k * shape.inputs() * outputs;
      float* out = packed.data() + p * plan.panel_floats + k * depth * lanes;
      if (channels < lanes) std::fill_n(out, depth * lanes, 0.0f);
      if (!plan.transposed) {
        for (int64_t i = 0; i < depth; ++i)
          std::memcpy(out + i * lanes, tap + i * outputs + channel, sizeof(float) * channels);
        continue;
      }
      for (int64_t lane = 0; lane < channels; ++lane) {
        const int64_t group = (channel + lane) / width, own = (channel + lane) % width;
        const float* from = tap + own * outputs + group * depth;
        for (int64_t i = 0; i < depth; ++i) out[i * lanes + lane] = from[i];
      }
    }
  });
  return packed;
}

// The item's result pixels in every out_step-th row from y on, and in the columns of a phase.
inline void CollectPixels(const CorrelatePlan& plan, const CorrelateItem& item, int64_t y,
                          const Phase& across, std::vector<Pixel>& pixels) {
  const Axis &rows = plan.rows, &columns = plan.columns;
  pixels.clear();
  for (int64_t image = 0; image < item.images; ++image)
    for (int64_t row = y; row < item.rows.high; row += rows.out_step) {
      const int64_t from_row = row / rows.out_step * rows.in_step - item.window_rows.low;
      const int64_t window =
          image * item.slab_pixels(plan) + from_row * plan.window_columns.size() - plan.window_columns.low;
      const int64_t result = ((item.first_image + image) * plan.to.h + row) * plan.to.w + across.first;
      for (int64_t column = 0; column < across.count; ++column)
        pixels.push_back(
            {window + column * columns.in_step, (result + column * columns.out_step) * plan.to.c});
    }
}

// Some of the source channels, those of one turn.
struct Turn {
  int64_t first, channels;  // of all in the slab
  int64_t depth;            // of them, those of one group
  bool last;
};

// The taps that these pixels meet, for the channels of a turn.
inline void CollectTaps(const CorrelatePlan& plan, const Phase& down, const Phase& across, const Turn& turn,
                        std::vector<TapOffset>& taps) {
  taps.clear();
  for (const Phase::Tap& i : down.taps)
    for (const Phase::Tap& j : across.taps)
      AddTap({(i.start * plan.window_columns.size() + j.start) * turn.channels,
              (i.k * plan.shape.kw + j.k) * plan.depth + turn.first, turn.depth},
             taps);
}

// Computes one turn of a work item from its slab.
template <int Group>
void CorrelateSlab(const CorrelatePlan& plan, const CorrelateItem& item, const Turn& turn, const float* slab,
                   const float* packed, const Target<float>& to) {
  thread_local std::vector<Pixel> pixels;
  thread_local std::vector<TapOffset> taps;
  for (int64_t y = item.rows.low; y < std::min(item.rows.low + plan.rows.out_step, item.rows.high); ++y)
    for (const Phase& across : plan.columns.phases) {
      CollectPixels(plan, item, y, across, pixels);
      CollectTaps(plan, plan.rows.phases[y % plan.rows.out_step], across, turn, taps);
      for (const Panel& panel : item.panels) {
        const float* weights = packed + (&panel - plan.panels.data()) * plan.panel_floats;
        const Tiles tiles{
            slab + panel.source - item.panels.source(), turn.channels,  taps,           weights,
            to.At(panel.channel, panel.channel),        panel.channels, turn.first > 0, turn.last};
        if (Group > 0 || panel.vectors == 1)
          AllTiles<Group, 1>(tiles, pixels);
        else if constexpr (Group == 0)
          AllTiles<0, 2>(tiles, pixels);
      }
    }
}

template <int Group>
void CorrelateOneItem(const CorrelatePlan& plan, const CorrelateItem& item, const float* source,
                      const float* packed, const Target<float>& to) {
  thread_local std::vector<float> slab;
  const int64_t sources = item.panels.sources();
  for (int64_t turn = 0, first = 0; turn < item.turns; ++turn) {
    const int64_t channels = Pieces(sources - first, item.turns - turn);
    const int64_t image_floats = item.slab_pixels(plan) * channels;
    slab.resize(std::max<size_t>(slab.size(), item.images * image_floats + 1));
    for (int64_t image = 0; image < item.images; ++image)
      CopySlab(source + (item.first_image + image) * plan.from.floats(), plan.from,
               item.panels.source() + first, channels, item.window_rows, plan.window_columns,
               slab.data() + image * image_floats);
    const Turn now{first, channels, item.turns == 1 ? plan.depth : channels, turn + 1 == item.turns};
    CorrelateSlab<Group>(plan, item, now, slab.data(), packed, to);
    first += channels;
  }
}

// y from x, or dx from dy if transposed.
inline void Correlate(ffi::ThreadPool& pool, const Shape& shape, bool transposed, const float* source,
                      const float* kernel, const Target<float>& to) {
  if (!transposed && IsPointwise(shape)) return Pointwise(pool, shape, source, kernel, to);
  const CorrelatePlan plan(shape, transposed, pool.num_threads());
  const Buffer<float> packed = PackWeights(pool, plan, kernel);
  WithGroup(SharedWidth(shape.groups, plan.depth, plan.width), [&](auto group) {
    ParallelFor(pool, plan.items(), [&](int64_t index) {
      CorrelateOneItem<group>(plan, CorrelateItem(plan, index), source, packed.data(), to);
    });
  });
}

}  // namespace conv

#endif  // RESNEXT_JAX_CONV_CORRELATE_H_
