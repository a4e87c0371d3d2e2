// What XLA calls: handlers that read sizes from their buffers, refuse what the kernels cannot compute, and
// run them.
//
// All kernels are one translation unit: XLA's headers take longer to compile than they do.
#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "batch_norm.h"
#if defined(__AVX512BF16__)
#include "conv_bf16_correlate.h"
#include "conv_bf16_kernel_grad.h"
#endif
#include "conv_correlate.h"
#include "conv_kernel_grad.h"
#include "conv_shape.h"
#include "conv_target.h"
#include "xla/ffi/api/ffi.h"

namespace {

using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::ResultBuffer<ffi::F32>;
using Sizes = ffi::Span<const int64_t>;

std::string Text(Sizes sizes) {
  std::string text = "[";
  for (size_t i = 0; i < sizes.size(); ++i) text += (i ? ", " : "") + std::to_string(sizes[i]);
  return text + "]";
}

bool Equal(Sizes a, Sizes b) { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }

bool AllAtLeast(int64_t least, Sizes sizes) {
  return std::all_of(sizes.begin(), sizes.end(), [=](int64_t size) { return size >= least; });
}

// The attributes of a convolution: two numbers each, of rows and of columns.
struct Window {
  Sizes strides, padding, dilation;
};

// Fills in a shape, or says why these are no operands of a convolution.
ffi::Error ReadShape(Sizes x, Sizes w, Sizes y, const Window& window, conv::Shape& shape) {
  const auto wrong = [&](const std::string& what) {
    return ffi::Error::InvalidArgument("convolution of x " + Text(x) + " with w " + Text(w) + " to y " +
                                       Text(y) + ", strides " + Text(window.strides) + ", padding " +
                                       Text(window.padding) + ", dilation " + Text(window.dilation) + ": " +
                                       what);
  };
  for (const Sizes& sizes : {x, w, y})
    if (sizes.size() != 4 || !AllAtLeast(1, sizes))
      return wrong("arrays must have four dimensions, none empty");
  for (const Sizes& sizes : {window.strides, window.padding, window.dilation})
    if (sizes.size() != 2) return wrong("strides, padding and dilation must be two numbers each");
  if (!AllAtLeast(1, window.strides) || !AllAtLeast(0, window.padding) || !AllAtLeast(1, window.dilation))
    return wrong("strides and dilation must be positive, padding not negative");
  const int64_t groups = x[3] / w[2];
  if (x[0] != y[0] || x[3] % w[2] != 0 || w[3] != y[3] || y[3] % groups != 0)
    return wrong("the images or channels do not match");
  shape = {{x[0], x[1], x[2], x[3]},
           {y[0], y[1], y[2], y[3]},
           w[0],
           w[1],
           {window.strides[0], window.strides[1]},
           {window.padding[0], window.padding[1]},
           {window.dilation[0], window.dilation[1]},
           groups};
  return ffi::Error::Success();
}

// Checks that x is [..., C] and not empty, and that all vectors are [C].
ffi::Error CheckChannels(Sizes x, std::initializer_list<Sizes> vectors) {
  const bool whole = x.size() > 0 && AllAtLeast(1, x);
  for (const Sizes& vector : vectors)
    if (!whole || vector.size() != 1 || vector[0] != x.back())
      return ffi::Error::InvalidArgument("batch norm of x " + Text(x) + " with a vector " + Text(vector) +
                                         ": expected pixels [..., C] and [C]");
  return ffi::Error::Success();
}

// The kernels of one type.
struct Float32 {
  static constexpr ffi::DataType kType = ffi::F32;
  static constexpr auto Correlate = conv::Correlate;
  static constexpr auto KernelGrad = conv::KernelGrad;
};

#if defined(__AVX512BF16__)
struct Bfloat16 {
  static constexpr ffi::DataType kType = ffi::BF16;
  static constexpr auto Correlate = conv_bf16::Correlate;
  static constexpr auto KernelGrad = conv_bf16::KernelGrad;
};
#endif

template <typename Type>
using ArrayOf = ffi::Buffer<Type::kType>;
template <typename Type>
using ResultOf = ffi::ResultBuffer<Type::kType>;

template <typename Type>
ffi::Error ConvForward(ffi::ThreadPool pool, Sizes strides, Sizes padding, Sizes dilation, ArrayOf<Type> x,
                       ArrayOf<Type> w, ResultOf<Type> y) {
  conv::Shape s;
  ffi::Error error =
      ReadShape(x.dimensions(), w.dimensions(), y->dimensions(), {strides, padding, dilation}, s);
  if (error.success()) Type::Correlate(pool, s, false, x.typed_data(), w.typed_data(), {y->typed_data()});
  return error;
}

// A convolution and what follows it: relu(y * scale + shift + shortcut), without ReLU or shortcut if there is
// none.
template <typename Type>
ffi::Error ConvThen(ffi::ThreadPool pool, const Window& window, bool relu, ArrayOf<Type> x, ArrayOf<Type> w,
                    Array scale, Array shift, const ArrayOf<Type>* shortcut, ResultOf<Type> y) {
  conv::Shape s;
  ffi::Error error = ReadShape(x.dimensions(), w.dimensions(), y->dimensions(), window, s);
  if (error.success()) error = CheckChannels(y->dimensions(), {scale.dimensions(), shift.dimensions()});
  if (error.success() && shortcut && !Equal(shortcut->dimensions(), y->dimensions()))
    error = ffi::Error::InvalidArgument("convolution to y " + Text(y->dimensions()) + " with a shortcut " +
                                        Text(shortcut->dimensions()) + ": expected the same shape");
  if (error.success())
    Type::Correlate(pool, s, false, x.typed_data(), w.typed_data(),
                    {y->typed_data(), scale.typed_data(), shift.typed_data(),
                     shortcut ? shortcut->typed_data() : nullptr, relu});
  return error;
}

template <typename Type>
ffi::Error ConvThenNorm(ffi::ThreadPool pool, Sizes strides, Sizes padding, Sizes dilation, bool relu,
                        ArrayOf<Type> x, ArrayOf<Type> w, Array scale, Array shift, ResultOf<Type> y) {
  return ConvThen<Type>(pool, {strides, padding, dilation}, relu, x, w, scale, shift, nullptr, y);
}

template <typename Type>
ffi::Error ConvThenJoin(ffi::ThreadPool pool, Sizes strides, Sizes padding, Sizes dilation, bool relu,
                        ArrayOf<Type> x, ArrayOf<Type> w, ArrayOf<Type> shortcut, Array scale, Array shift,
                        ResultOf<Type> y) {
  return ConvThen<Type>(pool, {strides, padding, dilation}, relu, x, w, scale, shift, &shortcut, y);
}

template <typename Type>
ffi::Error ConvInputGrad(ffi::ThreadPool pool, Sizes strides, Sizes padding, Sizes dilation, ArrayOf<Type> g,
                         ArrayOf<Type> w, ResultOf<Type> dx) {
  conv::Shape s;
  ffi::Error error =
      ReadShape(dx->dimensions(), w.dimensions(), g.dimensions(), {strides, padding, dilation}, s);
  if (error.success()) Type::Correlate(pool, s, true, g.typed_data(), w.typed_data(), {dx->typed_data()});
  return error;
}

template <typename Type>
ffi::Error ConvKernelGrad(ffi::ThreadPool pool, Sizes strides, Sizes padding, Sizes dilation, ArrayOf<Type> x,
                          ArrayOf<Type> g, ResultOf<Type> dw) {
  conv::Shape s;
  ffi::Error error =
      ReadShape(x.dimensions(), dw->dimensions(), g.dimensions(), {strides, padding, dilation}, s);
  if (error.success()) Type::KernelGrad(pool, s, x.typed_data(), g.typed_data(), dw->typed_data());
  return error;
}

// The pixels of x [..., C], cut into chunks.
template <ffi::DataType Type>
batch_norm::Chunks ChunksOf(const ffi::Buffer<Type>& x) {
  const int64_t channels = x.dimensions().back();
  return {static_cast<int64_t>(x.element_count()) / channels, channels};
}

template <ffi::DataType Type>
ffi::Error BatchNormMoments(ffi::ThreadPool pool, ffi::Buffer<Type> x, Result mean, Result var) {
  const ffi::Error error = CheckChannels(x.dimensions(), {mean->dimensions(), var->dimensions()});
  if (error.success())
    batch_norm::Moments(pool, ChunksOf(x), x.typed_data(), mean->typed_data(), var->typed_data());
  return error;
}

template <ffi::DataType Type>
ffi::Error BatchNormSums(ffi::ThreadPool pool, bool relu, ffi::Buffer<Type> g, ffi::Buffer<Type> x,
                         Array mean, Array factor, Array bias, Result product, Result sum) {
  if (g.element_count() != x.element_count())
    return ffi::Error::InvalidArgument("batch norm of x " + Text(x.dimensions()) + " with gradients " +
                                       Text(g.dimensions()) + ": expected the same shape");
  const ffi::Error error = CheckChannels(
      x.dimensions(),
      {mean.dimensions(), factor.dimensions(), bias.dimensions(), product->dimensions(), sum->dimensions()});
  if (error.success())
    batch_norm::Sums(pool, ChunksOf(x), relu, g.typed_data(), x.typed_data(), mean.typed_data(),
                     factor.typed_data(), bias.typed_data(), product->typed_data(), sum->typed_data());
  return error;
}

}  // namespace

#define RESNEXT_JAX_WINDOW                                                                           \
  ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Attr<Sizes>("strides").Attr<Sizes>("padding").Attr<Sizes>( \
      "dilation")
#define RESNEXT_JAX_CONV_HANDLER(name, function, Type) \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(                       \
      name, function<Type>,                            \
      RESNEXT_JAX_WINDOW.Arg<ArrayOf<Type>>().Arg<ArrayOf<Type>>().Ret<ArrayOf<Type>>())
#define RESNEXT_JAX_CONV_THEN_HANDLERS(suffix, Type)                        \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(conv_then_norm##suffix, ConvThenNorm<Type>, \
                                RESNEXT_JAX_WINDOW.Attr<bool>("relu")       \
                                    .Arg<ArrayOf<Type>>()                   \
                                    .Arg<ArrayOf<Type>>()                   \
                                    .Arg<Array>()                           \
                                    .Arg<Array>()                           \
                                    .Ret<ArrayOf<Type>>());                 \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(conv_then_join##suffix, ConvThenJoin<Type>, \
                                RESNEXT_JAX_WINDOW.Attr<bool>("relu")       \
                                    .Arg<ArrayOf<Type>>()                   \
                                    .Arg<ArrayOf<Type>>()                   \
                                    .Arg<ArrayOf<Type>>()                   \
                                    .Arg<Array>()                           \
                                    .Arg<Array>()                           \
                                    .Ret<ArrayOf<Type>>())

RESNEXT_JAX_CONV_HANDLER(conv_forward, ConvForward, Float32);
RESNEXT_JAX_CONV_HANDLER(conv_input_grad, ConvInputGrad, Float32);
RESNEXT_JAX_CONV_HANDLER(conv_kernel_grad, ConvKernelGrad, Float32);
RESNEXT_JAX_CONV_THEN_HANDLERS(, Float32);

#if defined(__AVX512BF16__)
RESNEXT_JAX_CONV_HANDLER(conv_forward_bf16, ConvForward, Bfloat16);
RESNEXT_JAX_CONV_HANDLER(conv_input_grad_bf16, ConvInputGrad, Bfloat16);
RESNEXT_JAX_CONV_HANDLER(conv_kernel_grad_bf16, ConvKernelGrad, Bfloat16);
RESNEXT_JAX_CONV_THEN_HANDLERS(_bf16, Bfloat16);

// How bfloat16 is multiplied: 2 in the matrix unit, 1 in vectors.
extern "C" int resnext_jax_bfloat16() { return bf16::HasMatrixUnit() ? 2 : 1; }
#else
extern "C" int resnext_jax_bfloat16() { return 0; }
#endif

#define RESNEXT_JAX_BATCH_NORM_HANDLERS(suffix, Type)                                              \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(                                                                   \
      batch_norm_moments##suffix, BatchNormMoments<Type>,                                          \
      ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::Buffer<Type>>().Ret<Array>().Ret<Array>()); \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(batch_norm_sums##suffix, BatchNormSums<Type>,                      \
                                ffi::Ffi::Bind()                                                   \
                                    .Ctx<ffi::ThreadPool>()                                        \
                                    .Attr<bool>("relu")                                            \
                                    .Arg<ffi::Buffer<Type>>()                                      \
                                    .Arg<ffi::Buffer<Type>>()                                      \
                                    .Arg<Array>()                                                  \
                                    .Arg<Array>()                                                  \
                                    .Arg<Array>()                                                  \
                                    .Ret<Array>()                                                  \
                                    .Ret<Array>())

RESNEXT_JAX_BATCH_NORM_HANDLERS(, ffi::F32);
RESNEXT_JAX_BATCH_NORM_HANDLERS(_bf16, ffi::BF16);

extern "C" int resnext_jax_lanes() { return kLanes; }
