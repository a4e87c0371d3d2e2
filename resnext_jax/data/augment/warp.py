"""Geometry: flips, crops, and everything else as one affine warp of an image.

A warp is a float32 matrix [3, 3] that takes a point (x, y, 1) of the output to the point of the input whose
colour it gets, in pixels from the image's centre, x to the right and y down. Warps compose by product, the
first to be applied on the left, so any number of them costs one resampling.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from resnext_jax.data.augment.boxes import Box, sample_box

Fill = Literal["nearest", "reflect", "constant"]


class Affine(NamedTuple):
    """An affine transform of the content about the centre: shear, then scale, then turn, then shift."""

    angle: jax.Array | float = 0.0  # degrees, clockwise
    shift: tuple[jax.Array | float, jax.Array | float] = (0.0, 0.0)  # pixels, right and down
    shear: jax.Array | float = 0.0  # degrees, along the rows
    zoom: tuple[jax.Array | float, jax.Array | float] = (1.0, 1.0)  # factors, along x and y


def flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirror an image left to right with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def pad_crop(key: jax.Array, image: jax.Array, padding: int) -> jax.Array:
    """Pad an image by `padding` black pixels on each side and cut the size out again at a random place."""
    top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def sample_crop(key: jax.Array, height: int, width: int, area: tuple[float, float]) -> Box:
    """Part of an image, as torchvision's RandomResizedCrop draws it.

    Args:
        key: random key.
        height, width: of the image.
        area: range of the part's share of the area; its aspect (width by height) is from 3/4 to 4/3.
    """
    rows, columns = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
    largest = Box((height - rows) // 2, (width - columns) // 2, rows, columns)
    return sample_box(key, height, width, area, aspect=(3 / 4, 4 / 3), otherwise=largest)


def sample_affine(
    key: jax.Array, height: int, width: int, *, rotate: float, shift: float, shear: float, zoom: float
) -> Affine:
    """Uniform draws: angle and shear within -+ degrees, shift within -+ a fraction of the size, zoom within
    1 -+ a fraction for each axis."""
    u = jax.random.uniform(key, (6,), minval=-1, maxval=1)
    return Affine(
        angle=rotate * u[0],
        shift=(shift * width * u[1], shift * height * u[2]),
        shear=shear * u[3],
        zoom=(1 + zoom * u[4], 1 + zoom * u[5]),
    )


def crop_matrix(box: Box, height: int, width: int) -> jax.Array:
    """Warp that stretches a part of an image of this size to the whole."""
    x, y = box.left + box.width / 2 - width / 2, box.top + box.height / 2 - height / 2
    return make_matrix([box.width / width, 0, x], [0, box.height / height, y])


def affine_matrix(affine: Affine) -> jax.Array:
    """Warp that transforms the content of an image, torchvision's `affine` for equal zooms."""
    angle, shear = jnp.deg2rad(affine.angle), jnp.deg2rad(affine.shear)
    cos, sin, (right, down) = jnp.cos(angle), jnp.sin(angle), affine.shift
    shift_back = make_matrix([1, 0, -right], [0, 1, -down])
    turn_back = make_matrix([cos, sin, 0], [-sin, cos, 0])
    scale_back = make_matrix([1 / affine.zoom[0], 0, 0], [0, 1 / affine.zoom[1], 0])
    shear_back = make_matrix([1, jnp.tan(shear), 0], [0, 1, 0])
    return compose(shear_back, scale_back, turn_back, shift_back)


def make_matrix(x: Sequence[jax.Array | float], y: Sequence[jax.Array | float]) -> jax.Array:
    """A warp from the three coefficients of each input coordinate."""
    return jnp.stack([jnp.stack([jnp.asarray(v, jnp.float32) for v in row]) for row in (x, y, (0, 0, 1))])


def compose(*matrices: jax.Array) -> jax.Array:
    """The warp that applies the first, then the next, and so on."""
    total = matrices[0]
    for matrix in matrices[1:]:
        # Matrix units round to 8 or 11 bits unless told otherwise: whole pixels here.
        total = jnp.matmul(total, matrix, precision="highest")
    return total


def warp(image: jax.Array, matrix: jax.Array, fill: Fill, size: int | None = None) -> jax.Array:
    """Resample an image bilinearly through a warp.

    Args:
        image: uint8 [H, W, C], of up to 4 channels.
        matrix: float32 [3, 3], from output to input.
        fill: what lies outside the input: `nearest` the border pixel, `reflect` the mirror image with the
            border pixel twice (scipy's names for both), `constant` black, cut off sharply as by Pillow.
        size: side of the output, to which the warped image is stretched; None: as the input.

    Returns:
        uint8 [H, W, C], or [size, size, C].
    """
    height, width, channels = image.shape
    assert channels <= 4
    down, along = (height, width) if size is None else (size, size)
    x = (jnp.arange(along) + 0.5 - along / 2) * (width / along)
    y = ((jnp.arange(down) + 0.5 - down / 2) * (height / down))[:, None]
    column = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] + width / 2 - 0.5
    row = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] + height / 2 - 0.5
    left, top = jnp.floor(column), jnp.floor(row)
    along, down = (column - left)[..., None], (row - top)[..., None]
    columns = [_inside(left.astype(jnp.int32) + i, width, fill) for i in (0, 1)]
    rows = [_inside(top.astype(jnp.int32) + i, height, fill) * width for i in (0, 1)]
    # A pixel is looked up as one number: arrays of three channels fill 3 of a TPU's 128 lanes.
    shifts = 8 * jnp.arange(channels, dtype=jnp.uint32)
    pixels = jnp.sum(image.astype(jnp.uint32) << shifts, -1, dtype=jnp.uint32).reshape(-1)

    def take(i: int, j: int) -> jax.Array:
        taken = pixels.at[rows[i] + columns[j]].get(mode="promise_in_bounds")
        return (taken[..., None] >> shifts & 0xFF).astype(jnp.float32)

    upper = take(0, 0) * (1 - along) + take(0, 1) * along
    lower = take(1, 0) * (1 - along) + take(1, 1) * along
    warped = jnp.round(upper * (1 - down) + lower * down).astype(image.dtype)
    if fill == "constant":
        within = (column >= -0.5) & (column < width - 0.5) & (row >= -0.5) & (row < height - 0.5)
        warped = jnp.where(within[..., None], warped, 0)
    return warped


def _inside(index: jax.Array, size: int, fill: Fill) -> jax.Array:
    """Index of the pixel that stands for one at `index`, which may lie outside."""
    if fill == "reflect":
        index = index % (2 * size)
        return jnp.minimum(index, 2 * size - 1 - index)
    return jnp.clip(index, 0, size - 1)
