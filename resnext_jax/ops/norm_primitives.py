"""The primitives of batch normalisation: what sums up a whole array, and what that transposes to.

    moments(x)                                       -> mean, var
    sums(g; x, mean, factor, bias)                   -> sum of g' (x - mean), sum of g'
    spread(slope, shift; x, mean, factor, bias)      -> ((x - mean) slope + shift)'

where ' stands for zero wherever (x - mean) factor + bias is not positive, with `relu`, and for nothing
without. Sums and spread are linear in what stands before the semicolon, and each other's transposes. Arrays
are [..., C], vectors [C]; results are float32. On CPU moments and sums of float32 are kernels in C++,
elsewhere all three are what is written here.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from resnext_jax.ops import native

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
    return [where_positive(centred * factor + bias, y) if relu else y]


def where_positive(condition: jax.Array, x: jax.Array) -> jax.Array:
    """x where the condition is positive, else 0: the derivative of ReLU."""
    return jnp.where(condition > 0, x, 0)


def _primitive(name: str, plain: Callable[..., Arrays], kernel: str | None) -> Primitive:
    """A primitive that does what a function does, by a kernel where there is one for it.

    Args:
        name: as it shows in a jaxpr.
        plain: the function.
        kernel: of the same operands on CPU, if all are float32; or None.
    """
    primitive = Primitive(name)
    primitive.multiple_results = True
    # Outside of jit, each call is compiled by itself.
    primitive.def_impl(
        jax.jit(lambda *operands, **params: primitive.bind(*operands, **params), static_argnames="relu")
    )

    @primitive.def_abstract_eval
    def abstract_eval(*operands, **params):
        results = jax.eval_shape(
            partial(plain, **params), *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in operands)
        )
        return [operands[0].update(shape=r.shape, dtype=r.dtype, weak_type=False) for r in results]

    def batch(operands: Arrays, axes: Sequence[int | None], **params: Any):
        results = jax.vmap(partial(plain, **params), axes)(*operands)
        return results, [0] * len(results)

    batching.primitive_batchers[primitive] = batch

    lowering = mlir.lower_fun(plain, multiple_results=True)
    mlir.register_lowering(primitive, lowering)
    if kernel is not None:
        native.register(primitive, kernel, lowering)
    return primitive


def _define_jvp(primitive: Primitive, plain: Callable[..., Arrays], linear: int) -> None:
    """Derive a primitive that is linear in its first operands; in the others, as its function."""

    def jvp(primals: Arrays, tangents: Arrays, **params: Any):
        results = primitive.bind(*primals, **params)
        terms = []
        if not _are_zero(tangents[:linear]):
            terms.append(
                primitive.bind(*map(ad.instantiate_zeros, tangents[:linear]), *primals[linear:], **params)
            )
        if not _are_zero(tangents[linear:]):
            rest = partial(plain, *primals[:linear], **params)
            terms.append(
                jax.jvp(rest, primals[linear:], tuple(map(ad.instantiate_zeros, tangents[linear:])))[1]
            )
        return results, [sum(term[1:], term[0]) for term in zip(*terms, strict=True)]

    ad.primitive_jvps[primitive] = jvp


def _are_zero(tangents: Arrays) -> bool:
    return all(type(tangent) is ad.Zero for tangent in tangents)


def _transpose_sums(cotangents: Arrays, g: Any, *operands: jax.Array, relu: bool) -> Arrays:
    slope, shift = map(ad.instantiate_zeros, cotangents)
    return [*spread_p.bind(slope, shift, *operands, relu=relu), *[None] * len(operands)]


def _transpose_spread(cotangents: Arrays, slope: Any, shift: Any, *operands: jax.Array, relu: bool) -> Arrays:
    results = sums_p.bind(cotangents[0], *operands, relu=relu)
    wanted = map(ad.is_undefined_primal, (slope, shift))
    return [r if w else None for r, w in zip(results, wanted, strict=True)] + [None] * len(operands)


moments_p = _primitive("batch_norm_moments", moments, "batch_norm_moments")
sums_p = _primitive("batch_norm_sums", sums, "batch_norm_sums")
spread_p = _primitive("batch_norm_spread", spread, None)
_define_jvp(sums_p, sums, 1)
_define_jvp(spread_p, spread, 2)
ad.primitive_transposes[sums_p] = _transpose_sums
ad.primitive_transposes[spread_p] = _transpose_spread
