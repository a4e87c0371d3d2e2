"""Convolution and its two transposes as XLA's CPU backend does them best: few, large matrix products.

Each function takes what the primitive of the same name takes. How it is done:

- 1x1 kernels: one 2-D matrix product, after leaving out the pixels that the stride skips.
- Groups: merged into blocks of about BLOCK_CHANNELS channels. A block is a dense convolution whose kernel is
  block-diagonal; the zeros cost arithmetic, which is cheaper than the native loop over groups.
- Kernel gradients: matrix products over pixels of the windows' taps, side by side, with the cotangent.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jax.interpreters import mlir

from resnext_jax.ops import conv_primitives as native
from resnext_jax.ops.conv_primitives import ConvSpec

BLOCK_CHANNELS = 16


def conv(x: jax.Array, w: jax.Array, *, spec: ConvSpec) -> jax.Array:
    """y [N, H', W', O] of x [N, H, W, C] and w [kh, kw, C / groups, O]."""
    if _is_pointwise(spec):
        return _dot(_tap(x, spec, 0, 0), w[0, 0], ((3,), (0,)), spec)
    block = _block(spec)
    return _per_block(partial(native.conv, spec=block), x, _dense_kernels(w, spec))


def input_grad(g: jax.Array, w: jax.Array, *, spec: ConvSpec) -> jax.Array:
    """dx [N, H, W, C] of g [N, H', W', O] and w."""
    if _is_pointwise(spec):
        x = jax.typeof(g).update(shape=spec.input_shape)
        return jax.linear_transpose(lambda x: _tap(x, spec, 0, 0), x)(_dot(g, w[0, 0], ((3,), (1,)), spec))[0]
    block = _block(spec)
    return _per_block(partial(native.input_grad, spec=block), g, _dense_kernels(w, spec))


def kernel_grad(x: jax.Array, g: jax.Array, *, spec: ConvSpec) -> jax.Array:
    """dw [kh, kw, C / groups, O] of x [N, H, W, C] and g [N, H', W', O]."""
    kh, kw, _, _ = spec.kernel_shape
    block = _block(spec)
    blocks = spec.input_shape[-1] // block.input_shape[-1]

    def dense(x: jax.Array, g: jax.Array) -> jax.Array:
        taps = jnp.concatenate([_tap(x, block, i, j) for i in range(kh) for j in range(kw)], -1)
        return _dot(taps, g, ((0, 1, 2), (0, 1, 2)), spec).reshape(block.kernel_shape)

    # Of each block's dense kernel, the groups' own parts lie on the diagonal.
    dense_kernels = jnp.stack(
        [dense(*pair) for pair in zip(_split(x, blocks), _split(g, blocks), strict=True)]
    )
    return jax.linear_transpose(
        partial(_dense_kernels, spec=spec), jax.typeof(x).update(shape=spec.kernel_shape)
    )(dense_kernels)[0]


def _is_pointwise(spec: ConvSpec) -> bool:
    return spec.kernel_shape[:2] == (1, 1) and spec.groups == 1


def _dot(
    a: jax.Array, b: jax.Array, contract: tuple[tuple[int, ...], tuple[int, ...]], spec: ConvSpec
) -> jax.Array:
    return jax.lax.dot_general(a, b, (contract, ((), ())), precision=spec.precision)


def _tap(x: jax.Array, spec: ConvSpec, i: int, j: int) -> jax.Array:
    """The pixel that each window meets under kernel row i and column j, [N, H', W', C]."""
    n, rows, columns, _ = spec.output_shape
    x = jax.lax.pad(
        x, jnp.zeros((), x.dtype), ((0, 0, 0), *((lo, hi, 0) for lo, hi in spec.padding), (0, 0, 0))
    )
    start = (0, i * spec.dilation[0], j * spec.dilation[1], 0)
    extent = ((rows - 1) * spec.strides[0] + 1, (columns - 1) * spec.strides[1] + 1)
    limit = (n, start[1] + extent[0], start[2] + extent[1], x.shape[3])
    return jax.lax.slice(x, start, limit, (1, *spec.strides, 1))


def _block(spec: ConvSpec) -> ConvSpec:
    """The dense convolution that does one block of merged groups."""
    *size, channels = spec.input_shape
    kh, kw, group_channels, outputs = spec.kernel_shape
    widest = max(group_channels, outputs // spec.groups)
    merged = max(
        m
        for m in range(1, spec.groups + 1)
        if spec.groups % m == 0 and (m == 1 or m * widest <= BLOCK_CHANNELS)
    )
    blocks = spec.groups // merged
    return replace(
        spec,
        input_shape=(*size, channels // blocks),
        kernel_shape=(kh, kw, channels // blocks, outputs // blocks),
        output_shape=(*spec.output_shape[:3], outputs // blocks),
        groups=1,
    )


def _dense_kernels(w: jax.Array, spec: ConvSpec) -> jax.Array:
    """Block-diagonal kernels [blocks, kh, kw, C / blocks, O / blocks]."""
    kh, kw, inputs, outputs = _block(spec).kernel_shape
    group_inputs = spec.kernel_shape[2]
    merged = inputs // group_inputs
    w = w.reshape(kh, kw, group_inputs, -1, merged, outputs // merged)
    w = jnp.transpose(w, (3, 0, 1, 4, 2, 5))[:, :, :, :, :, None]
    own = jnp.eye(merged, dtype=bool)[:, None, :, None]
    return jnp.where(own, w, 0).reshape(-1, kh, kw, inputs, outputs)


def _split(x: jax.Array, blocks: int) -> list[jax.Array]:
    return jnp.split(x, blocks, -1)


def _per_block(function: Callable[..., jax.Array], x: jax.Array, kernels: jax.Array) -> jax.Array:
    return jnp.concatenate(
        [function(*pair) for pair in zip(_split(x, len(kernels)), kernels, strict=True)], -1
    )


for _primitive, _lowering in (
    (native.conv_p, conv),
    (native.input_grad_p, input_grad),
    (native.kernel_grad_p, kernel_grad),
):
    mlir.register_lowering(_primitive, mlir.lower_fun(_lowering, multiple_results=False), platform="cpu")
