"""Augmentation on the device: pure functions of one key an example, fused into the training step.

Each has the form `(keys [N], images [N, H, W, C]) -> images` of the same shape and type. One key an example
makes the result independent of how the global batch is laid over devices.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

Augment = Callable[[jax.Array, jax.Array], jax.Array]


def flip(keys: jax.Array, images: jax.Array) -> jax.Array:
    """Mirror each image left to right with probability 1/2."""
    mirrored = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def pad_crop(padding: int) -> Augment:
    """Pad by `padding` zero pixels on each side and cut the size out again at a random place."""

    def augment(keys: jax.Array, images: jax.Array) -> jax.Array:
        size = images.shape[1:]
        offsets = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, 2 * padding + 1))(keys)
        padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        return jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), size))(
            padded, offsets
        )

    return augment


def chain(augments: Sequence[Augment]) -> Augment:
    """One after the other, each with keys of its own."""

    def augment(keys: jax.Array, images: jax.Array) -> jax.Array:
        for i, apply in enumerate(augments):
            images = apply(jax.vmap(jax.random.fold_in, (0, None))(keys, i), images)
        return images

    return augment
