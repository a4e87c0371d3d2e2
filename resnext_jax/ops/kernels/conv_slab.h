// Slabs: the source pixels of a work item, with their padding, copied to memory that stays in the cache.
#ifndef RESNEXT_JAX_CONV_SLAB_H_
#define RESNEXT_JAX_CONV_SLAB_H_

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "conv_shape.h"

namespace conv {

// Copies some channels of the given rows and columns of one image. What lies outside the image is 0.
inline void CopySlab(const float* image, const Image& shape, int64_t channel, int64_t channels, Range rows,
                     Range columns, float* slab) {
  const int64_t width = columns.size();
  const int64_t from = std::clamp<int64_t>(-columns.low, 0, width);
  const int64_t to = std::clamp<int64_t>(shape.w - columns.low, from, width);
  for (int64_t y = rows.low; y < rows.high; ++y, slab += width * channels) {
    if (y < 0 || y >= shape.h) {
      std::memset(slab, 0, sizeof(float) * width * channels);
      continue;
    }
    std::memset(slab, 0, sizeof(float) * from * channels);
    std::memset(slab + to * channels, 0, sizeof(float) * (width - to) * channels);
    const float* row = image + (y * shape.w + columns.low) * shape.c + channel;
    for (int64_t x = from; x < to; ++x)
      std::memcpy(slab + x * channels, row + x * shape.c, sizeof(float) * channels);
  }
}

}  // namespace conv

#endif  // RESNEXT_JAX_CONV_SLAB_H_
