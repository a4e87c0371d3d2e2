"""Convolution with the signature and results of `jax.lax.conv_general_dilated`, lowered faster."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import ConvDimensionNumbers

from resnext_jax.errors import BadInput
from resnext_jax.ops.conv import lowering  # noqa: F401  (registers the lowerings on CPU)
from resnext_jax.ops.conv.primitives import conv_p
from resnext_jax.ops.conv.spec import DIMENSION_NUMBERS, ConvSpec
from resnext_jax.ops.varying import vary_alike

PADDINGS = ("SAME", "SAME_LOWER", "VALID")

# What `conv_general_dilated` takes of what it is not given.
_DEFAULTS = {
    "lhs_dilation": None,
    "rhs_dilation": None,
    "dimension_numbers": None,
    "feature_group_count": 1,
    "batch_group_count": 1,
    "precision": None,
    "out_sharding": None,
}


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: ConvDimensionNumbers | tuple[str, str, str] | None = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: jax.lax.PrecisionLike = None,
    preferred_element_type: jnp.dtype | None = None,
    out_sharding: jax.sharding.NamedSharding | jax.sharding.PartitionSpec | None = None,
) -> jax.Array:
    """Convolve, as `jax.lax.conv_general_dilated`, with faster lowerings of grouped and 1x1 convolutions.

    Two-dimensional convolutions of floats in ("NHWC", "HWIO", "NHWC") without `lhs_dilation`, batch groups or
    negative padding take the lowerings of `resnext_jax.ops`, in all their derivatives, where the platform has
    its own (CPU). Every other call goes to `jax.lax.conv_general_dilated` unchanged.

    Args:
        lhs: input, [N, H, W, C] in the fast layout.
        rhs: kernel, [kh, kw, C / groups, O] in the fast layout.
        window_strides: strides of the window.
        padding: "SAME", "SAME_LOWER", "VALID" or ((low, high), (low, high)).
        lhs_dilation: dilation of the input.
        rhs_dilation: dilation of the kernel.
        dimension_numbers: layouts; None is ("NCHW", "OIHW", "NCHW").
        feature_group_count: groups.
        batch_group_count: batch groups.
        precision: of the products, as in `jax.lax`.
        preferred_element_type: of the sums, as in `jax.lax`.
        out_sharding: sharding of the result in explicit mode.

    Returns:
        The convolution, [N, H', W', O] in the fast layout, in the operands' dtype.

    Raises:
        BadInput: shapes, groups or window do not fit each other.

    Example:
        >>> import jax.numpy as jnp
        >>> x, kernel = jnp.ones((1, 8, 8, 32)), jnp.ones((3, 3, 4, 64))  # 8 groups of 4 channels
        >>> layout = ("NHWC", "HWIO", "NHWC")
        >>> y = conv_general_dilated(
        ...     x, kernel, (1, 1), "SAME", dimension_numbers=layout, feature_group_count=8
        ... )
        >>> y.shape, float(y[0, 4, 4, 0])
        ((1, 8, 8, 64), 36.0)
    """
    arguments = {
        "window_strides": window_strides,
        "padding": padding,
        "lhs_dilation": lhs_dilation,
        "rhs_dilation": rhs_dilation,
        "dimension_numbers": dimension_numbers,
        "feature_group_count": feature_group_count,
        "batch_group_count": batch_group_count,
        "precision": precision,
        "preferred_element_type": preferred_element_type,
        "out_sharding": out_sharding,
    }
    spec = spec_of(lhs, rhs, **arguments)
    if spec is None:
        return jax.lax.conv_general_dilated(lhs, rhs, **arguments)
    return conv_p.bind(*vary_alike(lhs, rhs), spec=spec)


def spec_of(lhs: jax.Array, rhs: jax.Array, **arguments: Any) -> ConvSpec | None:
    """The convolution, or None if it is none that takes the lowerings of `resnext_jax.ops`.

    Args:
        lhs, rhs, arguments: of `conv_general_dilated`.

    Raises:
        BadInput: as there.
    """
    given = _DEFAULTS | arguments
    if lhs.ndim != 4 or rhs.ndim != 4 or not _is_nhwc(lhs.shape, rhs.shape, given["dimension_numbers"]):
        return None
    strides, groups = given["window_strides"], given["feature_group_count"]
    _check(lhs.shape, rhs.shape, strides, given["padding"], groups)
    dilation = (1, 1) if given["rhs_dilation"] is None else _pair(given["rhs_dilation"])
    pads = _explicit_padding(lhs.shape, rhs.shape, strides, given["padding"], dilation)
    output = jax.eval_shape(partial(jax.lax.conv_general_dilated, **arguments), lhs, rhs)
    lhs_type, rhs_type = jax.typeof(lhs), jax.typeof(rhs)
    is_known = (
        given["lhs_dilation"] in (None, (1, 1), [1, 1])
        and min(map(min, pads)) >= 0
        and given["batch_group_count"] == 1
        and lhs.dtype == rhs.dtype == output.dtype
        and jnp.issubdtype(lhs.dtype, jnp.floating)
        and 0 not in (*lhs.shape, *rhs.shape, *output.shape)
        and given["out_sharding"] is None
        and not any((*lhs_type.sharding.spec, *rhs_type.sharding.spec))
    )
    if not is_known:
        return None
    return ConvSpec(
        input_shape=lhs.shape,
        kernel_shape=rhs.shape,
        output_shape=output.shape,
        strides=_pair(strides),
        padding=pads,
        dilation=dilation,
        groups=groups,
        precision=given["precision"],
    )


def _is_nhwc(
    lhs: tuple[int, ...],
    rhs: tuple[int, ...],
    dimension_numbers: ConvDimensionNumbers | tuple[str, str, str] | None,
) -> bool:
    return jax.lax.conv_dimension_numbers(lhs, rhs, dimension_numbers) == jax.lax.conv_dimension_numbers(
        lhs, rhs, DIMENSION_NUMBERS
    )


def _check(
    lhs: tuple[int, ...],
    rhs: tuple[int, ...],
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    groups: int,
) -> None:
    where = f"convolution of input {lhs} [N, H, W, C] with kernel {rhs} [kh, kw, C / groups, O]"
    if groups < 1 or lhs[3] % groups or rhs[3] % groups:
        raise BadInput(f"{where}: feature_group_count={groups} must divide both C={lhs[3]} and O={rhs[3]}")
    if lhs[3] // groups != rhs[2]:
        raise BadInput(
            f"{where}: feature_group_count={groups}: expected a kernel of C / groups = {lhs[3] // groups} "
            f"input channels, not {rhs[2]}"
        )
    if len(strides) != 2 or min(strides) < 1:
        raise BadInput(f"{where}: window_strides={tuple(strides)}: expected two positive integers")
    if isinstance(padding, str):
        if padding not in PADDINGS:
            raise BadInput(f"{where}: padding={padding!r}: expected one of {', '.join(PADDINGS)} or pairs")
    elif len(padding) != 2:
        raise BadInput(f"{where}: padding={padding}: expected two (low, high) pairs")


def _explicit_padding(
    lhs: tuple[int, ...],
    rhs: tuple[int, ...],
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    dilation: tuple[int, int],
) -> tuple[tuple[int, int], tuple[int, int]]:
    if isinstance(padding, str):
        window = [(kernel - 1) * step + 1 for kernel, step in zip(rhs[:2], dilation, strict=True)]
        padding = jax.lax.padtype_to_pads(lhs[1:3], window, strides, padding)
    rows, columns = padding
    return _pair(rows), _pair(columns)


def _pair(numbers: Sequence[int]) -> tuple[int, int]:
    first, second = numbers
    return int(first), int(second)
