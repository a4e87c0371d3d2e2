"""Batch normalisation with an optional ReLU, whose derivatives read each array as few times as possible."""

from functools import partial

import jax
import jax.numpy as jnp

from resnext_jax.ops import one_pass_moments  # noqa: F401  (registers a lowering)
from resnext_jax.ops.norm_primitives import moments_p, spread_p, sums_p, where_positive
from resnext_jax.ops.varying import vary_alike


@partial(jax.custom_jvp, nondiff_argnums=(3, 4, 5, 6))
def batch_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    epsilon: float,
    axis_name: str | None = None,
    relu: bool = False,
    repeats: int = 1,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalise over all axes but the last by the batch's own statistics.

    Args:
        x: [..., C]; statistics are float32 whatever its type.
        scale: [C].
        bias: [C].
        epsilon: added to the variance.
        axis_name: mapped axis over whose devices the statistics are taken together, or None.
        relu: put negative results to 0.
        repeats: x is [..., repeats * C]: each channel comes so many times, and has one mean and variance.

    Returns:
        y [..., C] of the type of x; mean [C] and biased variance [C], float32, as exact beside a large mean
        as two passes.
    """
    mean, var = moments_p.bind(x)
    if repeats > 1:
        each = mean.reshape(repeats, -1)
        mean = jnp.mean(each, 0)
        var = jnp.mean(var.reshape(repeats, -1) + jnp.square(each - mean), 0)
    if axis_name is not None:
        own = mean
        mean = jax.lax.pmean(own, axis_name)
        var = jax.lax.pmean(var + jnp.square(own - mean), axis_name)
    factor = jax.lax.rsqrt(var + epsilon) * scale
    centre, factor, bias = (_tile(v, repeats) for v in (mean, factor, bias))
    y = (x.astype(jnp.float32) - centre) * factor + bias
    return (jnp.maximum(y, 0) if relu else y).astype(x.dtype), mean, var


@batch_norm.defjvp
def _batch_norm_jvp(epsilon, axis_name, relu, repeats, primals, tangents):
    x, scale, bias = primals
    dx, dscale, dbias = tangents
    y, mean, var = batch_norm(x, scale, bias, epsilon, axis_name, relu, repeats)
    inverse = jax.lax.rsqrt(var + epsilon)
    factor = inverse * scale
    # Products with [C] come after the sums: the transpose then sums the cotangent itself, and no scaled copy.
    tile = partial(_tile, repeats=repeats)
    centre, slopes, shifts = tile(mean), tile(factor), tile(bias)
    totals = sums_p.bind(*vary_alike(dx, x, centre, slopes, shifts), relu=False)
    covariance, dmean = (_fold(total, repeats) / (x.size // scale.size) for total in totals)
    if axis_name is not None:
        covariance, dmean = jax.lax.pmean(jnp.stack([covariance, dmean]), axis_name)
    slope = inverse * dscale - factor * jnp.square(inverse) * covariance
    shift = dbias - factor * dmean
    (dy,) = spread_p.bind(*vary_alike(tile(slope), tile(shift), x, centre, slopes, shifts), relu=relu)
    direct = dx.astype(jnp.float32)
    direct = where_positive((x.astype(jnp.float32) - centre) * slopes + shifts, direct) if relu else direct
    return (y, mean, var), (dy + (slopes * direct).astype(x.dtype), dmean, 2 * covariance)


def _tile(vector: jax.Array, repeats: int) -> jax.Array:
    return vector if repeats == 1 else jnp.tile(vector, repeats)


def _fold(vector: jax.Array, repeats: int) -> jax.Array:
    """The transpose: sums over the repeats."""
    return vector if repeats == 1 else jnp.sum(vector.reshape(repeats, -1), 0)
