"""The native lowering: what XLA makes of `jax.lax.conv_general_dilated` and of its transposes."""

import jax

from resnext_jax.ops.conv.spec import DIMENSION_NUMBERS, ConvSpec


def forward(x: jax.Array, w: jax.Array, *, spec: ConvSpec) -> jax.Array:
    """y [N, H', W', O] of x [N, H, W, C] and w [kh, kw, C / groups, O]."""
    return jax.lax.conv_general_dilated(
        x,
        w,
        spec.strides,
        spec.padding,
        rhs_dilation=spec.dilation,
        dimension_numbers=DIMENSION_NUMBERS,
        feature_group_count=spec.groups,
        precision=spec.precision,
    )


def input_grad(g: jax.Array, w: jax.Array, *, spec: ConvSpec) -> jax.Array:
    """dx [N, H, W, C] of g [N, H', W', O] and w."""
    x = jax.typeof(g).update(shape=spec.input_shape)
    return jax.linear_transpose(lambda x: forward(x, w, spec=spec), x)(g)[0]


def kernel_grad(x: jax.Array, g: jax.Array, *, spec: ConvSpec) -> jax.Array:
    """dw [kh, kw, C / groups, O] of x [N, H, W, C] and g [N, H', W', O]."""
    w = jax.typeof(x).update(shape=spec.kernel_shape)
    return jax.linear_transpose(lambda w: forward(x, w, spec=spec), w)(g)[0]
