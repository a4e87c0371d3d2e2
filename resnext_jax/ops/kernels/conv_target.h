// Where a convolution's results go, and what becomes of their sums on the way.
#ifndef RESNEXT_JAX_CONV_TARGET_H_
#define RESNEXT_JAX_CONV_TARGET_H_

#include <cstdint>

#include "simd.h"

namespace conv {

// In evaluation, what follows a convolution is done before its results are stored: a batch norm as a scale
// and a shift for each channel, the addition of a shortcut, and ReLU.
template <typename Value>
struct Target {
  Value* result;
  const float *scale = nullptr, *shift = nullptr;  // of each channel, or both null
  const Value* shortcut = nullptr;                 // laid out as the result, or null
  bool relu = false;

  // The same from this place of the result on, which is of this channel.
  Target At(int64_t place, int64_t channel) const {
    Target target = *this;
    target.result += place;
    if (scale) target.scale += channel, target.shift += channel;
    if (shortcut) target.shortcut += place;
    return target;
  }
};

// What becomes of a vector of whole sums, whose first is of this place of the result and this channel, and of
// which `count` are wanted.
inline Vec Finish(const Target<float>& to, int64_t place, int64_t channel, int64_t count, Vec sum) {
  if (to.scale) sum = sum * LoadFirst(to.scale + channel, count) + LoadFirst(to.shift + channel, count);
  if (to.shortcut) sum += LoadFirst(to.shortcut + place, count);
  return to.relu ? (sum < 0 ? Vec{} : sum) : sum;
}

}  // namespace conv

#endif  // RESNEXT_JAX_CONV_TARGET_H_
