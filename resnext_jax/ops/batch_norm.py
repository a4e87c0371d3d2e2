"""Batch normalisation with derivatives that read each array once."""

from functools import partial

import jax
import jax.numpy as jnp


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalise over all axes but the last by the batch's own statistics.

    Args:
        x: [..., C]; statistics are float32 whatever its type.
        scale: [C].
        bias: [C].
        epsilon: added to the variance.
        axis_name: mapped axis over whose devices the statistics are taken together, or None.

    Returns:
        y [..., C] float32, mean [C] and biased variance [C] (two passes, so a large mean loses nothing).
    """
    x = x.astype(jnp.float32)
    mean = _mean(x, axis_name)
    var = _mean(jnp.square(x - mean), axis_name)
    return (x - mean) * (jax.lax.rsqrt(var + epsilon) * scale) + bias, mean, var


@batch_norm.defjvp
def _batch_norm_jvp(epsilon, axis_name, primals, tangents):
    x, scale, bias = primals
    dx, dscale, dbias = tangents
    y, mean, var = batch_norm(x, scale, bias, epsilon, axis_name)
    dx = dx.astype(jnp.float32)
    centred = x.astype(jnp.float32) - mean
    inverse = jax.lax.rsqrt(var + epsilon)
    factor = inverse * scale
    # Products with [C] come after the sums: the transpose then sums the cotangent itself, and no scaled copy.
    dmean = _mean(dx, axis_name)
    covariance = _mean(centred * dx, axis_name)
    slope = inverse * dscale - factor * jnp.square(inverse) * covariance
    dy = factor * dx + centred * slope + (dbias - factor * dmean)
    return (y, mean, var), (dy, dmean, 2 * covariance)


def _mean(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Mean per channel over the batch, that of all devices of the axis."""
    mean = jnp.mean(x, tuple(range(x.ndim - 1)))
    return mean if axis_name is None else jax.lax.pmean(mean, axis_name)
