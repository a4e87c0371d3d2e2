"""A convolution with what follows it in evaluation: batch norm, shortcut and ReLU, in one pass on CPU."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import ad, mlir

from resnext_jax.ops import cpp_kernels
from resnext_jax.ops.conv import lowering
from resnext_jax.ops.conv.primitives import conv_p
from resnext_jax.ops.conv.spec import DIMENSION_NUMBERS, ConvSpec
from resnext_jax.ops.grouped_conv import spec_of
from resnext_jax.ops.primitive import define
from resnext_jax.ops.varying import vary_alike


def conv_affine(
    x: jax.Array,
    kernel: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    shortcut: jax.Array | None = None,
    *,
    relu: bool = False,
    window_strides: Sequence[int] = (1, 1),
    padding: str | Sequence[tuple[int, int]] = "VALID",
    rhs_dilation: Sequence[int] = (1, 1),
    feature_group_count: int = 1,
    precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
    """relu(conv(x, kernel) * scale + shift + shortcut), with what is given of it.

    A batch norm in evaluation is such a scale and shift. On CPU one kernel computes all where the table in
    `ops/README.md` has `cpp` for the convolution: no array is written and read again in between, and bfloat16
    is rounded once. Derivatives are those of the parts.

    Args:
        x: input, [N, H, W, C], float32 or bfloat16.
        kernel: [kh, kw, C / groups, O], of the type of x.
        scale: [O], float32.
        shift: [O], float32.
        shortcut: [N, H', W', O], of the type of x, or None.
        relu: put negative results to 0.
        window_strides, padding, rhs_dilation, feature_group_count, precision: as in `conv_general_dilated`.

    Returns:
        [N, H', W', O], of the type of x; sums and products are float32.

    Raises:
        BadInput: as in `conv_general_dilated`.

    Example:
        >>> import jax.numpy as jnp
        >>> x, kernel = jnp.ones((1, 4, 4, 8)), jnp.ones((1, 1, 8, 16))
        >>> y = conv_affine(x, kernel, jnp.full(16, 2.0), jnp.full(16, -20.0), relu=True)
        >>> y.shape, float(y.max())  # 8 * 2 - 20 is negative
        ((1, 4, 4, 16), 0.0)
    """
    operands = (x, kernel) if shortcut is None else (x, kernel, shortcut)
    spec = spec_of(
        x,
        kernel,
        window_strides=window_strides,
        padding=padding,
        rhs_dilation=rhs_dilation,
        dimension_numbers=DIMENSION_NUMBERS,
        feature_group_count=feature_group_count,
        precision=precision,
    )
    assert spec is not None, "a convolution of this layout, and of floats, is known"
    return conv_affine_p.bind(*vary_alike(*operands, scale, shift), spec=spec, relu=relu)


def in_parts(x: jax.Array, kernel: jax.Array, *others: jax.Array, spec: ConvSpec, relu: bool) -> jax.Array:
    """What the primitive computes, in several operations. `others`: the shortcut, if any, scale and shift."""
    *shortcut, scale, shift = others
    y = conv_p.bind(x, kernel, spec=spec).astype(jnp.float32) * scale + shift
    for values in shortcut:
        y = y + values.astype(jnp.float32)
    return (jnp.maximum(y, 0) if relu else y).astype(x.dtype)


conv_affine_p = define("conv_affine", in_parts, static=("spec", "relu"))


@conv_affine_p.def_abstract_eval
def _abstract_eval(x, *_, spec, relu):
    return x.update(shape=spec.output_shape, weak_type=False)


def _jvp(primals: Sequence[jax.Array], tangents: Sequence[Any], **params: Any) -> tuple[jax.Array, jax.Array]:
    moving = [i for i, tangent in enumerate(tangents) if type(tangent) is not ad.Zero]

    def of_moving(*values: jax.Array) -> jax.Array:
        operands = list(primals)
        for i, value in zip(moving, values, strict=True):
            operands[i] = value
        return in_parts(*operands, **params)

    return jax.jvp(of_moving, [primals[i] for i in moving], [tangents[i] for i in moving])


def _lower_on_cpu(context: mlir.LoweringRuleContext, *operands: Any, spec: ConvSpec, relu: bool) -> Any:
    arrays = len(operands) - 2
    suffix = cpp_kernels.suffix_of(context, arrays)
    if lowering.choose_on_cpu("forward", spec, suffix, is_followed=True) == "cpp":
        kernel = "conv_then_norm" if arrays == 2 else "conv_then_join"
        attributes = lowering.window_attributes(spec)
        return cpp_kernels.lower(f"{kernel}{suffix}", context, *operands, relu=relu, **attributes)
    return mlir.lower_fun(in_parts, multiple_results=False)(context, *operands, spec=spec, relu=relu)


PARTS = {conv_affine_p.name: in_parts}
"""Functions of several operations that compute what a primitive does, by its name, with its parameters."""

ad.primitive_jvps[conv_affine_p] = _jvp
mlir.register_lowering(conv_affine_p, _lower_on_cpu, platform="cpu")
