"""The augmentation that a configuration asks for, as one function of a batch.

Each example has a key of its own, so that the result does not depend on how a batch is laid over devices.
"""

from collections.abc import Callable, Iterator
from functools import partial

import jax

from resnext_jax.data.augment import auto, color, erase, warp
from resnext_jax.data.augment.config import AugmentConfig

Augment = Callable[[jax.Array, jax.Array], jax.Array]


def make_augment(config: AugmentConfig) -> Augment:
    """All but mixup and CutMix, which `make_mix` makes.

    Args:
        config: what is asked for, or anything with its fields.

    Returns:
        A function `(keys [N], images uint8 [N, H, W, 3]) -> images` of the same type, and of the same shape
        unless there is a `crop_size`.

    Example:
        >>> import numpy as np
        >>> from resnext_jax.data.augment import AugmentConfig
        >>> augment = make_augment(AugmentConfig(flip=True, pad_crop=2))
        >>> images = np.zeros((4, 8, 8, 3), np.uint8)
        >>> augment(jax.random.split(jax.random.key(0), 4), images).shape
        (4, 8, 8, 3)
    """
    stages = list(_stages(config))

    def augment(key: jax.Array, image: jax.Array) -> jax.Array:
        for i, stage in enumerate(stages):
            image = stage(jax.random.fold_in(key, i), image)
        return image

    return jax.vmap(augment)


def _stages(config: AugmentConfig) -> Iterator[Augment]:
    """Functions of one example, `(key, uint8 image [H, W, 3]) -> image`."""
    if config.flip:
        yield warp.flip
    if config.pad_crop:
        yield partial(warp.pad_crop, padding=config.pad_crop)
    if config.random_resized_crop or config.rotate or config.shift or config.shear or config.zoom:
        yield partial(_warp, config=config)
    if config.auto != "none":
        for _ in range(auto.COUNTS[config.auto]):
            yield partial(_auto, config=config)
    if config.brightness or config.contrast or config.saturation or config.hue:
        yield partial(_jitter, config=config)
    if config.erase:
        yield partial(_erase, probability=config.erase)


def _warp(key: jax.Array, image: jax.Array, config: AugmentConfig) -> jax.Array:
    height, width, _ = image.shape
    crop, rest = jax.random.split(key)
    affine = warp.sample_affine(
        rest, height, width, rotate=config.rotate, shift=config.shift, shear=config.shear, zoom=config.zoom
    )
    matrix = warp.affine_matrix(affine)
    if config.random_resized_crop:
        box = warp.sample_crop(crop, height, width, config.random_resized_crop)
        matrix = warp.compose(warp.crop_matrix(box, height, width), matrix)
    return warp.warp(image, matrix, config.fill, config.crop_size)


def _auto(key: jax.Array, image: jax.Array, config: AugmentConfig) -> jax.Array:
    assert config.auto != "none"
    height, width, _ = image.shape
    operation, magnitude = auto.sample_operation(key, config.auto, height, width)
    return auto.apply_operation(image, operation, magnitude, config.fill)


def _jitter(key: jax.Array, image: jax.Array, config: AugmentConfig) -> jax.Array:
    by = color.sample_jitter(
        key,
        brightness=config.brightness,
        contrast=config.contrast,
        saturation=config.saturation,
        hue=config.hue,
    )
    return color.round_to_bytes(color.jitter(image.astype("float32"), by))


def _erase(key: jax.Array, image: jax.Array, probability: float) -> jax.Array:
    height, width, _ = image.shape
    return erase.erase(image, erase.sample_erase(key, height, width, probability))
