"""The wide lowering, for matrix units: groups merged into blocks of 128 channels, in one convolution.

TPUs multiply tiles of 128 x 128. XLA gives a group of 4 channels a tile of its own, and moves every
activation between [N, H, W, C] and [N, H, W, groups, C / groups] around it. Here several groups become one
block: a grouped convolution of few groups, whose kernel is block-diagonal. The zeros cost arithmetic that the
unit would spend on padding anyway.

In a block, a value that is not finite in one group shows in all (0 times infinity is not a number).
"""

from dataclasses import replace

import jax
import jax.numpy as jnp

from resnext_jax.ops.conv import native
from resnext_jax.ops.conv.spec import ConvSpec

# Lanes of a TPU's matrix unit, and so of a block.
BLOCK_CHANNELS = 128
# Estimated by the compiler for TPU v5e (3x3, batch 32): blocks win if a group has 4, 8 or 16 channels; from
# 32 on XLA's own grouped convolution does.
MOST_GROUP_CHANNELS = 16


def block_of(spec: ConvSpec) -> ConvSpec:
    """The convolution with its groups merged into blocks; itself if that does not pay."""
    if max(spec.group_inputs, spec.group_outputs) > MOST_GROUP_CHANNELS:
        return spec
    size = spec.merged_groups(BLOCK_CHANNELS)
    kernel = (*spec.kernel_shape[:2], size * spec.group_inputs, spec.kernel_shape[3])
    return replace(spec, kernel_shape=kernel, groups=spec.groups // size)


def forward(x: jax.Array, w: jax.Array, *, spec: ConvSpec) -> jax.Array:
    """y [N, H', W', O] of x [N, H, W, C] and w [kh, kw, C / groups, O]."""
    return native.forward(x, _block_diagonal(w, spec), spec=block_of(spec))


def input_grad(g: jax.Array, w: jax.Array, *, spec: ConvSpec) -> jax.Array:
    """dx [N, H, W, C] of g [N, H', W', O] and w."""
    return native.input_grad(g, _block_diagonal(w, spec), spec=block_of(spec))


def kernel_grad(x: jax.Array, g: jax.Array, *, spec: ConvSpec) -> jax.Array:
    """dw [kh, kw, C / groups, O] of x [N, H, W, C] and g [N, H', W', O]."""
    block = block_of(spec)
    size = spec.groups // block.groups
    dw = native.kernel_grad(x, g, spec=block)
    dw = dw.reshape(*spec.kernel_shape[:2], size, spec.group_inputs, block.groups, size, spec.group_outputs)
    # The blocks on the diagonal. By slices: XLA's CPU backend (jax 0.10.2) returns zeros for the sum of a
    # product with a mask in some of these shapes.
    diagonal = [dw[:, :, i, :, :, i] for i in range(size)]
    return jnp.stack(diagonal, axis=4).reshape(spec.kernel_shape)


def _block_diagonal(w: jax.Array, spec: ConvSpec) -> jax.Array:
    """[kh, kw, C / groups, O] -> [kh, kw, C / blocks, O]: each group's kernel in the rows of its inputs."""
    blocks = block_of(spec).groups
    size = spec.groups // blocks  # groups in a block
    if size == 1:
        return w
    *window, inputs, outputs = spec.kernel_shape
    # Axes: window, group that the row belongs to, inputs, block, group that the column belongs to, outputs.
    w = w.reshape(*window, 1, inputs, blocks, size, spec.group_outputs)
    diagonal = jnp.eye(size, dtype=w.dtype).reshape(size, 1, 1, size, 1)
    return (w * diagonal).reshape(*window, size * inputs, outputs)
