"""Random rectangles within an image."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

ATTEMPTS = 10  # torchvision's


class Box(NamedTuple):
    """A rectangle in pixels: float32 scalars, whole numbers."""

    top: jax.Array | float
    left: jax.Array | float
    height: jax.Array | float
    width: jax.Array | float


def sample_box(
    key: jax.Array,
    height: int,
    width: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
    otherwise: Box,
) -> Box:
    """A rectangle, as torchvision's RandomResizedCrop and RandomErasing draw it.

    Ten times an area is drawn uniformly and an aspect log-uniformly; the first rectangle that fits the image
    is put at a uniformly random place.

    Args:
        key: random key.
        height, width: of the image.
        area: range of the rectangle's share of the image.
        aspect: range of its width by its height.
        otherwise: the result if none of the ten fits.
    """
    # One draw for everything: each costs half a second of compilation.
    *u, place = jax.random.uniform(key, (ATTEMPTS + 1, 2))
    areas, aspects = jnp.stack(u).T
    side = jnp.sqrt(height * width * (area[0] + (area[1] - area[0]) * areas))
    root = jnp.exp((math.log(aspect[0]) + math.log(aspect[1] / aspect[0]) * aspects) / 2)
    heights, widths = jnp.round(side / root), jnp.round(side * root)
    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    first = jnp.argmax(fits)
    rows, columns = heights[first], widths[first]
    box = Box(
        jnp.floor(place[0] * (height - rows + 1)), jnp.floor(place[1] * (width - columns + 1)), rows, columns
    )
    return jax.tree.map(lambda drawn, default: jnp.where(fits[first], drawn, default), box, otherwise)


def inside(box: Box, height: int, width: int) -> jax.Array:
    """bool [H, W]: the pixels of an image that lie in a rectangle, which may reach beyond the image."""
    y, x = jnp.arange(height)[:, None], jnp.arange(width)
    rows = (y >= box.top) & (y < box.top + box.height)
    return rows & (x >= box.left) & (x < box.left + box.width)
