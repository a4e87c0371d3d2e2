"""Random erasing (Zhong et al. 2017), of which cutout is the case of a square."""

import jax
import jax.numpy as jnp
import numpy as np

from resnext_jax.data.augment.boxes import Box, inside, sample_box
from resnext_jax.data.preprocessing import IMAGENET_MEAN

AREA, ASPECT = (0.02, 0.33), (0.3, 3.3)  # torchvision's RandomErasing
COLOR = np.rint(255 * np.asarray(IMAGENET_MEAN)).astype(np.uint8)  # 0 after normalisation


def sample_erase(key: jax.Array, height: int, width: int, probability: float) -> Box:
    """The rectangle to erase, empty with probability 1 - `probability`."""
    chance, place = jax.random.split(key)
    nothing = Box(0, 0, 0, 0)
    box = sample_box(place, height, width, AREA, ASPECT, otherwise=nothing)
    erased = jax.random.bernoulli(chance, probability)
    return box._replace(height=jnp.where(erased, box.height, 0))


def erase(image: jax.Array, box: Box) -> jax.Array:
    """Paint a rectangle of an image, uint8 [H, W, 3], in ImageNet's mean colour."""
    return jnp.where(inside(box, *image.shape[:2])[..., None], COLOR, image)
