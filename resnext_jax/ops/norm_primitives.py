"""The primitives of batch normalisation: sums over a whole array, and their transposes.

    moments(x)                                       -> mean, var
    sums(g; x, mean, factor, bias)                   -> sum of g' (x - mean), sum of g'
    spread(slope, shift; x, mean, factor, bias)      -> ((x - mean) slope + shift)'

With `relu`, the mark ' sets a value to zero if (x - mean) factor + bias is not positive; without, it does
nothing. Sums and spread are linear in the operands before the semicolon, and each is the other's transpose.
Arrays are [..., C], vectors [C] of float32. Sums are float32; what spread returns has the type of x, so that
gradients are read and written in it. On CPU, C++ kernels compute moments and sums if the arrays are all
float32 or all bfloat16. In all other cases XLA lowers the functions below.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

from resnext_jax.ops import cpp_kernels
from resnext_jax.ops.primitive import define

Arrays = Sequence[jax.Array]


def moments(x: jax.Array) -> Arrays:
    """Mean and biased variance of each channel, in two passes, so a large mean loses nothing."""
    x = x.astype(jnp.float32)
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    return mean, jnp.mean(jnp.square(x - mean), axes)


def sums(
    g: jax.Array, x: jax.Array, mean: jax.Array, factor: jax.Array, bias: jax.Array, *, relu: bool
) -> Arrays:
    """Sums over the pixels of g (x - mean) and of g."""
    centred = x.astype(jnp.float32) - mean
    g = g.astype(jnp.float32)
    g = where_positive(centred * factor + bias, g) if relu else g
    axes = tuple(range(x.ndim - 1))
    return jnp.sum(g * centred, axes), jnp.sum(g, axes)


def spread(
    slope: jax.Array,
    shift: jax.Array,
    x: jax.Array,
    mean: jax.Array,
    factor: jax.Array,
    bias: jax.Array,
    *,
    relu: bool,
) -> Arrays:
    """(x - mean) slope + shift."""
    centred = x.astype(jnp.float32) - mean
    y = centred * slope + shift
    y = where_positive(centred * factor + bias, y) if relu else y
    return [y.astype(x.dtype)]


def where_positive(condition: jax.Array, x: jax.Array) -> jax.Array:
    """x where the condition is positive, else 0: the derivative of ReLU."""
    return jnp.where(condition > 0, x, 0)


def _primitive(name: str, native: Callable[..., Arrays], *, kernel_arrays: int = 0) -> Primitive:
    """A primitive that computes what a function does.

    Args:
        name: its name in a jaxpr.
        native: the function.
        kernel_arrays: if positive, a C++ kernel of the same name computes it on CPU. As many of its first
            operands are arrays, of one type; the others are vectors.
    """
    primitive = define(name, native, static="relu", multiple_results=True)

    @primitive.def_abstract_eval
    def abstract_eval(*operands, **params):
        results = jax.eval_shape(
            partial(native, **params), *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in operands)
        )
        return [operands[0].update(shape=r.shape, dtype=r.dtype, weak_type=False) for r in results]

    if kernel_arrays:
        lower_native = mlir.lower_fun(native, multiple_results=True)

        def lower_cpu(context: mlir.LoweringRuleContext, *operands: Any, **params: Any) -> Any:
            suffix = cpp_kernels.suffix_of(context, kernel_arrays)
            if suffix is not None:
                return cpp_kernels.lower(name + suffix, context, *operands, **params)
            return lower_native(context, *operands, **params)

        mlir.register_lowering(primitive, lower_cpu, platform="cpu")
    return primitive


def _define_jvp(primitive: Primitive, native: Callable[..., Arrays], linear: int) -> None:
    """Derive a primitive that is linear in its first operands; in the others, as its function."""

    def jvp(primals: Arrays, tangents: Arrays, **params: Any):
        results = primitive.bind(*primals, **params)
        terms = []
        if not _are_zero(tangents[:linear]):
            terms.append(
                primitive.bind(*map(ad.instantiate_zeros, tangents[:linear]), *primals[linear:], **params)
            )
        if not _are_zero(tangents[linear:]):
            rest = partial(native, *primals[:linear], **params)
            terms.append(
                jax.jvp(rest, primals[linear:], tuple(map(ad.instantiate_zeros, tangents[linear:])))[1]
            )
        return results, [sum(term[1:], term[0]) for term in zip(*terms, strict=True)]

    ad.primitive_jvps[primitive] = jvp


def _are_zero(tangents: Arrays) -> bool:
    return all(type(tangent) is ad.Zero for tangent in tangents)


def _transpose_sums(cotangents: Arrays, g: Any, *operands: jax.Array, relu: bool) -> list:
    slope, shift = map(ad.instantiate_zeros, cotangents)
    (spread_,) = spread_p.bind(slope, shift, *operands, relu=relu)
    return [spread_.astype(g.aval.dtype), *[None] * len(operands)]


def _transpose_spread(cotangents: Arrays, slope: Any, shift: Any, *operands: jax.Array, relu: bool) -> list:
    results = sums_p.bind(cotangents[0], *operands, relu=relu)
    wanted = map(ad.is_undefined_primal, (slope, shift))
    return [r if w else None for r, w in zip(results, wanted, strict=True)] + [None] * len(operands)


moments_p = _primitive("batch_norm_moments", moments, kernel_arrays=1)
sums_p = _primitive("batch_norm_sums", sums, kernel_arrays=2)
spread_p = _primitive("batch_norm_spread", spread)
_define_jvp(sums_p, sums, 1)
_define_jvp(spread_p, spread, 2)
ad.primitive_transposes[sums_p] = _transpose_sums
ad.primitive_transposes[spread_p] = _transpose_spread
