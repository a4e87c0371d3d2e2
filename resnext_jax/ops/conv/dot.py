"""The lowering `dot`: a 1x1 convolution of one group as one matrix product.

Pixels that the stride skips are left out before the product.
"""

from functools import partial

import jax

from resnext_jax.ops.conv.matrix import dot, pad, pixels
from resnext_jax.ops.conv.spec import ConvSpec


def forward(x: jax.Array, w: jax.Array, *, spec: ConvSpec) -> jax.Array:
    """y [N, H', W', O] of x [N, H, W, C] and w [1, 1, C, O]."""
    return dot(pixels(_visited(x, spec)), w[0, 0], (1, 0), spec).reshape(spec.output_shape)


def input_grad(g: jax.Array, w: jax.Array, *, spec: ConvSpec) -> jax.Array:
    """dx [N, H, W, C] of g [N, H', W', O] and w."""
    dx = dot(pixels(g), w[0, 0], (1, 1), spec).reshape(*spec.output_shape[:3], -1)
    x = jax.typeof(g).update(shape=spec.input_shape)
    return jax.linear_transpose(partial(_visited, spec=spec), x)(dx)[0]


def kernel_grad(x: jax.Array, g: jax.Array, *, spec: ConvSpec) -> jax.Array:
    """dw [1, 1, C, O] of x [N, H, W, C] and g [N, H', W', O]."""
    return dot(pixels(_visited(x, spec)), pixels(g), (0, 0), spec).reshape(spec.kernel_shape)


def _visited(x: jax.Array, spec: ConvSpec) -> jax.Array:
    """The pixels that a 1x1 window visits, [N, H', W', C]."""
    return pad(x, spec)[:, :: spec.strides[0], :: spec.strides[1]]
