"""What the lowerings by matrix products share: images as matrices, padding, products without copies."""

import jax
import jax.numpy as jnp

from resnext_jax.ops.conv.spec import ConvSpec


def pad(x: jax.Array, spec: ConvSpec) -> jax.Array:
    """x [N, H, W, C] with the convolution's padding of zeros."""
    pads = ((0, 0, 0), *((low, high, 0) for low, high in spec.padding), (0, 0, 0))
    return jax.lax.pad(x, jnp.zeros((), x.dtype), pads)


def pixels(x: jax.Array) -> jax.Array:
    """[N, H, W, C] as a matrix [NHW, C]."""
    return x.reshape(-1, x.shape[-1])


def dot(a: jax.Array, b: jax.Array, axes: tuple[int, int], spec: ConvSpec) -> jax.Array:
    """Product of two matrices, summed over one axis of each. It never makes a transposed copy."""
    contract = ((axes[0],), (axes[1],))
    return jax.lax.dot_general(a, b, (contract, ((), ())), precision=spec.precision)
