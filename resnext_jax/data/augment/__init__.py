"""Augmentation on the device: pure functions of one key an example, fused into the training step."""

from collections.abc import Sequence
from functools import partial

import jax

from resnext_jax.data.augment import warp
from resnext_jax.data.augment.config import AugmentConfig
from resnext_jax.data.augment.mix import Mix, make_mix
from resnext_jax.data.augment.stages import Augment, make_augment

__all__ = ["Augment", "AugmentConfig", "Mix", "make_augment", "make_mix"]

# The form in which the training setup still asks for these.
flip = jax.vmap(warp.flip)


def pad_crop(padding: int) -> Augment:
    return jax.vmap(partial(warp.pad_crop, padding=padding))


def chain(augments: Sequence[Augment]) -> Augment:
    def augment(keys: jax.Array, images: jax.Array) -> jax.Array:
        for i, apply in enumerate(augments):
            images = apply(jax.vmap(jax.random.fold_in, (0, None))(keys, i), images)
        return images

    return augment
