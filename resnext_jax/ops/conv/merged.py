"""The lowering `merged`: groups are merged into blocks, and each block is one dense convolution.

The kernel of a block is block-diagonal. Its zeros cost arithmetic, which is far cheaper than XLA's own loop
over groups. A value that is not finite in one group spreads to its whole block, as 0 times infinity is NaN.

Each function takes the function that computes one block: the same operator of a convolution of one group.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp

from resnext_jax.ops.conv.spec import ConvSpec

# The fastest of 4 to 128 on CPU, for all three operators of all grouped layers of ResNeXt-50 32x4d: narrower
# blocks starve the vector units, wider ones multiply more zeros.
BLOCK_CHANNELS = 32

Dense = Callable[[jax.Array, jax.Array], jax.Array]


def block_of(spec: ConvSpec) -> ConvSpec:
    """The dense convolution of one block, of at most BLOCK_CHANNELS channels if it merges several groups."""
    kh, kw, group_inputs, outputs = spec.kernel_shape
    merged = spec.merged_groups(BLOCK_CHANNELS)
    blocks = spec.groups // merged
    return replace(
        spec,
        input_shape=(*spec.input_shape[:3], group_inputs * merged),
        kernel_shape=(kh, kw, group_inputs * merged, outputs // blocks),
        output_shape=(*spec.output_shape[:3], outputs // blocks),
        groups=1,
    )


def forward(x: jax.Array, w: jax.Array, *, spec: ConvSpec, dense: Dense) -> jax.Array:
    """y [N, H', W', O] of x [N, H, W, C] and w [kh, kw, C / groups, O]."""
    kernels = _dense_kernels(w, spec)
    return jnp.concatenate(list(map(dense, _split(x, spec), kernels)), -1)


def input_grad(g: jax.Array, w: jax.Array, *, spec: ConvSpec, dense: Dense) -> jax.Array:
    """dx [N, H, W, C] of g [N, H', W', O] and w."""
    kernels = _dense_kernels(w, spec)
    return jnp.concatenate(list(map(dense, _split(g, spec), kernels)), -1)


def kernel_grad(x: jax.Array, g: jax.Array, *, spec: ConvSpec, dense: Dense) -> jax.Array:
    """dw [kh, kw, C / groups, O] of x [N, H, W, C] and g [N, H', W', O]."""
    blocks = jnp.stack(list(map(dense, _split(x, spec), _split(g, spec))))
    # The groups' own parts are the diagonal of each block.
    w = jax.typeof(x).update(shape=spec.kernel_shape)
    return jax.linear_transpose(partial(_dense_kernels, spec=spec), w)(blocks)[0]


def _dense_kernels(w: jax.Array, spec: ConvSpec) -> jax.Array:
    """Block-diagonal kernels [blocks, kh, kw, C / blocks, O / blocks]."""
    kh, kw, inputs, outputs = block_of(spec).kernel_shape
    merged = inputs // spec.group_inputs
    w = w.reshape(kh, kw, spec.group_inputs, -1, merged, outputs // merged)
    w = jnp.transpose(w, (3, 0, 1, 4, 2, 5))[:, :, :, :, :, None]
    own = jnp.eye(merged, dtype=bool)[:, None, :, None]
    return jnp.where(own, w, 0).reshape(-1, kh, kw, inputs, outputs)


def _split(x: jax.Array, spec: ConvSpec) -> list[jax.Array]:
    """The channels of each block."""
    return jnp.split(x, spec.kernel_shape[3] // block_of(spec).kernel_shape[3], -1)
