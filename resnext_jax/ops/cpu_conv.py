"""Convolution and its two transposes as a CPU does them best.

Each function takes what the primitive of the same name takes.

- Windows larger than 1x1 of float32 are left to the kernels of `kernels/grouped_conv.h`, where the channels
  of a group fill vectors, or where several groups of as many inputs as outputs do. What follows is for all
  others, and for programs that may not call the kernels.
- 1x1 kernels are one 2-D matrix product, after leaving out the pixels that the stride skips. Only the product
  over many pixels, for the kernel's gradient, is faster in a kernel: XLA cannot divide a sum among threads.
- Groups are merged into blocks of about BLOCK_CHANNELS channels. A block is a dense convolution whose kernel
  is block-diagonal; the zeros cost arithmetic, which is far cheaper than XLA's own loop over groups.
- Images smaller than the kernel (the last stages of a small input) are one matrix product over the windows'
  pixels: XLA's own way takes 40 times as long for 2x2 pixels of 512 channels.
- Other dense convolutions are left as they are.

In a block, a value that is not finite in one group shows in all (0 times infinity is not a number).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import mlir

from resnext_jax.ops import conv_primitives as xla
from resnext_jax.ops import native
from resnext_jax.ops.conv_primitives import ConvSpec

# The fastest of 4 to 128 for all three operators of all grouped layers of ResNeXt-50 32x4d: narrower blocks
# starve the vector units, wider ones multiply more zeros.
BLOCK_CHANNELS = 32


def conv(x: jax.Array, w: jax.Array, *, spec: ConvSpec) -> jax.Array:
    """y [N, H', W', O] of x [N, H, W, C] and w [kh, kw, C / groups, O]."""
    if _is_pointwise(spec):
        return _dot(_pixels(_visited(x, spec)), w[0, 0], (1, 0), spec).reshape(spec.output_shape)
    block = _block(spec)
    kernels = _dense_kernels(w, spec, block)
    return jnp.concatenate(_map(partial(_conv, spec=block), _split(x, spec, block), kernels), -1)


def input_grad(g: jax.Array, w: jax.Array, *, spec: ConvSpec) -> jax.Array:
    """dx [N, H, W, C] of g [N, H', W', O] and w."""
    if _is_pointwise(spec):
        dx = _dot(_pixels(g), w[0, 0], (1, 1), spec).reshape(*spec.output_shape[:3], -1)
        x = jax.typeof(g).update(shape=spec.input_shape)
        return jax.linear_transpose(partial(_visited, spec=spec), x)(dx)[0]
    block = _block(spec)
    kernels = _dense_kernels(w, spec, block)
    return jnp.concatenate(_map(partial(_input_grad, spec=block), _split(g, spec, block), kernels), -1)


def kernel_grad(x: jax.Array, g: jax.Array, *, spec: ConvSpec) -> jax.Array:
    """dw [kh, kw, C / groups, O] of x [N, H, W, C] and g [N, H', W', O]."""
    if _is_pointwise(spec):
        return _dot(_pixels(_visited(x, spec)), _pixels(g), (0, 0), spec).reshape(spec.kernel_shape)
    block = _block(spec)
    kernel_grad = partial(xla.kernel_grad, spec=block)
    dense = jnp.stack(_map(kernel_grad, _split(x, spec, block), _split(g, spec, block)))
    # The groups' own parts are the diagonal of each block.
    w = jax.typeof(x).update(shape=spec.kernel_shape)
    return jax.linear_transpose(partial(_dense_kernels, spec=spec, block=block), w)(dense)[0]


def _conv(x: jax.Array, w: jax.Array, *, spec: ConvSpec) -> jax.Array:
    """A convolution of one group."""
    if _is_smaller_than_kernel(spec.input_shape, spec):
        return _conv_by_windows(x, w, spec)
    return xla.conv(x, w, spec=spec)


def _input_grad(g: jax.Array, w: jax.Array, *, spec: ConvSpec) -> jax.Array:
    """The input gradient of one group."""
    if _is_smaller_than_kernel(spec.output_shape, spec):
        x = jax.typeof(g).update(shape=spec.input_shape)
        return jax.linear_transpose(lambda x: _conv_by_windows(x, w, spec), x)(g)[0]
    return xla.input_grad(g, w, spec=spec)


def _is_smaller_than_kernel(image: tuple[int, ...], spec: ConvSpec) -> bool:
    return image[1] < spec.kernel_shape[0] or image[2] < spec.kernel_shape[1]


def _conv_by_windows(x: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    """A convolution of one group as the product of all windows [NH'W', kh kw C] with the kernel."""
    kh, kw, _, outputs = spec.kernel_shape
    _, height, width, _ = spec.output_shape
    x = _pad(x, spec)

    def under(i: int, j: int) -> jax.Array:
        """The pixels that the windows meet under row i and column j of the kernel."""
        (top, left), (down, right) = (i * spec.dilation[0], j * spec.dilation[1]), spec.strides
        return x[:, top : top + (height - 1) * down + 1 : down, left : left + (width - 1) * right + 1 : right]

    windows = jnp.concatenate([under(i, j) for i in range(kh) for j in range(kw)], -1)
    return _dot(_pixels(windows), w.reshape(-1, outputs), (1, 0), spec).reshape(spec.output_shape)


def _is_pointwise(spec: ConvSpec) -> bool:
    return spec.kernel_shape[:2] == (1, 1) and spec.groups == 1


def _visited(x: jax.Array, spec: ConvSpec) -> jax.Array:
    """The pixels that a 1x1 window visits, [N, H', W', C]."""
    return _pad(x, spec)[:, :: spec.strides[0], :: spec.strides[1]]


def _pad(x: jax.Array, spec: ConvSpec) -> jax.Array:
    pads = ((0, 0, 0), *((low, high, 0) for low, high in spec.padding), (0, 0, 0))
    return jax.lax.pad(x, jnp.zeros((), x.dtype), pads)


def _pixels(x: jax.Array) -> jax.Array:
    """[N, H, W, C] as a matrix [NHW, C]."""
    return x.reshape(-1, x.shape[-1])


def _dot(a: jax.Array, b: jax.Array, axes: tuple[int, int], spec: ConvSpec) -> jax.Array:
    """Product of two matrices over one axis of each; never through a transposed copy."""
    contract = ((axes[0],), (axes[1],))
    return jax.lax.dot_general(a, b, (contract, ((), ())), precision=spec.precision)


def _block(spec: ConvSpec) -> ConvSpec:
    """The dense convolution that does one block of merged groups."""
    kh, kw, group_inputs, outputs = spec.kernel_shape
    widest = max(group_inputs, outputs // spec.groups)
    fitting = (m for m in range(2, spec.groups + 1) if spec.groups % m == 0 and m * widest <= BLOCK_CHANNELS)
    merged = max(fitting, default=1)
    blocks = spec.groups // merged
    return replace(
        spec,
        input_shape=(*spec.input_shape[:3], group_inputs * merged),
        kernel_shape=(kh, kw, group_inputs * merged, outputs // blocks),
        output_shape=(*spec.output_shape[:3], outputs // blocks),
        groups=1,
    )


def _dense_kernels(w: jax.Array, spec: ConvSpec, block: ConvSpec) -> jax.Array:
    """Block-diagonal kernels [blocks, kh, kw, C / blocks, O / blocks]."""
    kh, kw, inputs, outputs = block.kernel_shape
    group_inputs = spec.kernel_shape[2]
    merged = inputs // group_inputs
    w = w.reshape(kh, kw, group_inputs, -1, merged, outputs // merged)
    w = jnp.transpose(w, (3, 0, 1, 4, 2, 5))[:, :, :, :, :, None]
    own = jnp.eye(merged, dtype=bool)[:, None, :, None]
    return jnp.where(own, w, 0).reshape(-1, kh, kw, inputs, outputs)


def _split(x: jax.Array, spec: ConvSpec, block: ConvSpec) -> list[jax.Array]:
    """The channels of each block."""
    return jnp.split(x, spec.kernel_shape[-1] // block.kernel_shape[-1], -1)


def _map(function: Callable[..., jax.Array], *sequences: Sequence[jax.Array] | jax.Array) -> list[jax.Array]:
    return [function(*items) for items in zip(*sequences, strict=True)]


def _outputs(spec: ConvSpec) -> int:
    return spec.kernel_shape[3] // spec.groups


def _inputs(spec: ConvSpec) -> int:
    return spec.kernel_shape[2]


def _sums_many_pixels(spec: ConvSpec) -> bool:
    """Whether the kernel's gradient adds up all pixels of x, and more of them than it has rows or columns."""
    x, y = spec.input_shape, spec.output_shape
    return x[:3] == y[:3] and math.prod(x[:3]) > max(x[3], y[3])


def _fills_vectors(spec: ConvSpec, width: int) -> bool:
    """Whether `width` channels a group, or those of several groups together, fill a kernel's vectors."""
    lanes = native.lanes()
    if width % lanes == 0:
        return True
    return lanes % width == 0 and spec.kernel_shape[3] % lanes == 0 and _inputs(spec) == _outputs(spec)


def _conv_has_kernel(spec: ConvSpec) -> bool:
    return not _is_pointwise(spec) and _fills_vectors(spec, _outputs(spec))


def _input_grad_has_kernel(spec: ConvSpec) -> bool:
    return not _is_pointwise(spec) and _fills_vectors(spec, _inputs(spec))


def _kernel_grad_has_kernel(spec: ConvSpec) -> bool:
    return (not _is_pointwise(spec) or _sums_many_pixels(spec)) and _fills_vectors(spec, _outputs(spec))


def _attributes(has_kernel: Callable[[ConvSpec], bool], spec: ConvSpec) -> dict[str, np.ndarray] | None:
    """The convolution as `kernels/grouped_conv.h` reads it, where a kernel has it."""
    if not has_kernel(spec):
        return None
    (top, _), (left, _) = spec.padding
    shapes = (*spec.input_shape, *spec.kernel_shape, *spec.output_shape)
    return {"spec": np.array([*shapes, *spec.strides, top, left, *spec.dilation, spec.groups], np.int64)}


for _primitive, _lowering, _kernel, _has_kernel in (
    (xla.conv_p, conv, "grouped_conv_forward", _conv_has_kernel),
    (xla.input_grad_p, input_grad, "grouped_conv_input_grad", _input_grad_has_kernel),
    (xla.kernel_grad_p, kernel_grad, "grouped_conv_kernel_grad", _kernel_grad_has_kernel),
):
    _by_xla = mlir.lower_fun(_lowering, multiple_results=False)
    native.register(_primitive, _kernel, _by_xla, partial(_attributes, _has_kernel))
