"""Batch normalisation with an optional ReLU, whose derivatives read each array as few times as possible."""

from functools import partial

import jax
import jax.numpy as jnp

from resnext_jax.ops import one_pass_moments  # noqa: F401  (registers a lowering)
from resnext_jax.ops.norm_primitives import moments_p, spread_p, sums_p, where_positive
from resnext_jax.ops.varying import vary_alike


@partial(jax.custom_jvp, nondiff_argnums=(3, 4, 5))
def batch_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    epsilon: float,
    axis_name: str | None = None,
    relu: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalise over all axes but the last by the batch's own statistics.

    Args:
        x: [..., C]; statistics are float32 whatever its type.
        scale: [C].
        bias: [C].
        epsilon: added to the variance.
        axis_name: mapped axis over whose devices the statistics are taken together, or None.
        relu: put negative results to 0.

    Returns:
        y [..., C] of the type of x; mean [C] and biased variance [C], float32, as exact beside a large mean
        as two passes.
    """
    mean, var = moments_p.bind(x)
    if axis_name is not None:
        own = mean
        mean = jax.lax.pmean(own, axis_name)
        var = jax.lax.pmean(var + jnp.square(own - mean), axis_name)
    y = (x.astype(jnp.float32) - mean) * (jax.lax.rsqrt(var + epsilon) * scale) + bias
    return (jnp.maximum(y, 0) if relu else y).astype(x.dtype), mean, var


@batch_norm.defjvp
def _batch_norm_jvp(epsilon, axis_name, relu, primals, tangents):
    x, scale, bias = primals
    dx, dscale, dbias = tangents
    y, mean, var = batch_norm(x, scale, bias, epsilon, axis_name, relu)
    inverse = jax.lax.rsqrt(var + epsilon)
    factor = inverse * scale
    # Products with [C] come after the sums: the transpose then sums the cotangent itself, and no scaled copy.
    operands = vary_alike(dx, x, mean, factor, bias)
    covariance, dmean = (total / (x.size // x.shape[-1]) for total in sums_p.bind(*operands, relu=False))
    if axis_name is not None:
        covariance, dmean = jax.lax.pmean((covariance, dmean), axis_name)
    slope = inverse * dscale - factor * jnp.square(inverse) * covariance
    (dy,) = spread_p.bind(*vary_alike(slope, dbias - factor * dmean, x, mean, factor, bias), relu=relu)
    direct = dx.astype(jnp.float32)
    direct = where_positive((x.astype(jnp.float32) - mean) * factor + bias, direct) if relu else direct
    return (y, mean, var), (dy + (factor * direct).astype(x.dtype), dmean, 2 * covariance)
