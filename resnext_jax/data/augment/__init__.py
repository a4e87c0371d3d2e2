"""Augmentation on the device: pure functions of one key an example, fused into the training step."""

from resnext_jax.data.augment.config import AugmentConfig
from resnext_jax.data.augment.mix import Mix, make_mix
from resnext_jax.data.augment.stages import Augment, make_augment

__all__ = ["Augment", "AugmentConfig", "Mix", "make_augment", "make_mix"]
