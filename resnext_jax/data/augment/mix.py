"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019): images and labels of two examples in one.

Partners are neighbours: the examples at positions 2i and 2i + 1 of a batch are mixed with each other, each
with weights of its own. Batches are in random order, so partners are random too; and a pair never lies on two
devices, so the number of devices changes nothing, as long as each has an even share.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from resnext_jax.data.augment.boxes import Box, inside
from resnext_jax.errors import BadInput

Mix = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def make_mix(mixup: float, cutmix: float) -> Mix | None:
    """Mixup, CutMix, or for each example one of the two by lot.

    Args:
        mixup: parameter of the Beta distribution of mixup's weight; 0 is off.
        cutmix: parameter of the Beta distribution of CutMix's weight; 0 is off.

    Returns:
        A function `(keys [N], images uint8 [N, H, W, C], targets float [N, K]) -> images, targets`, N even
        and targets one-hot or any other distribution over classes; None if both are off.
    """
    if not mixup and not cutmix:
        return None

    def sample_weights(key: jax.Array, height: int, width: int) -> jax.Array:
        choice, beta, place = jax.random.split(key, 3)
        pasted = jax.random.bernoulli(choice, 0.5 if mixup and cutmix else float(cutmix > 0))
        alpha = jnp.where(pasted, cutmix, mixup)
        weight = jax.random.beta(beta, alpha, alpha)
        box = cutmix_box(weight, jax.random.uniform(place, (2,)), height, width)
        return jnp.where(pasted, ~inside(box, height, width), weight)

    def mix(keys: jax.Array, images: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        count, height, width, _ = images.shape
        if count % 2:
            raise BadInput(
                f"a batch of {count} images on a device: mixup and cutmix pair neighbours, so the batch size "
                "must be a multiple of twice the number of devices"
            )
        weights = jax.vmap(lambda key: sample_weights(key, height, width))(keys)
        return mix_pairs(images, targets, weights)

    return mix


def cutmix_box(weight: jax.Array, place: jax.Array, height: int, width: int) -> Box:
    """The rectangle that CutMix pastes: a share 1 - weight of the area, the image's aspect, cut off by its
    borders where it reaches beyond them (as in torchvision).

    Args:
        weight: of the image itself, from 0 to 1.
        place: float [2] from 0 to 1; of the rectangle's centre, from the top and from the left.
        height, width: of the image.
    """
    half = 0.5 * jnp.sqrt(1 - weight)
    rows, columns = jnp.floor(half * height), jnp.floor(half * width)
    y, x = jnp.floor(place[0] * height), jnp.floor(place[1] * width)
    return Box(y - rows, x - columns, 2 * rows, 2 * columns)


def mix_pairs(images: jax.Array, targets: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mix each example with its neighbour.

    Args:
        images: uint8 [N, H, W, C].
        targets: float [N, K].
        weights: float [N, H, W], of each image's own pixels; their mean is the weight of its own target.
    """
    share = jnp.mean(weights, axis=(1, 2))[:, None]
    targets = share * targets + (1 - share) * _neighbours(targets)
    weights = weights[..., None]
    mixed = weights * images + (1 - weights) * _neighbours(images)
    return jnp.round(mixed).astype(images.dtype), targets


def _neighbours(batch: jax.Array) -> jax.Array:
    """Each example's partner: pairs swapped."""
    return batch.reshape(-1, 2, *batch.shape[1:])[:, ::-1].reshape(batch.shape)
