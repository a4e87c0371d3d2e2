"""Colour: brightness, contrast, saturation and hue, as torchvision defines them.

Images are float32 [H, W, 3] with values from 0 to 255 here; rounding is the caller's.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Jitter(NamedTuple):
    """Factors of brightness, contrast and saturation, and a turn of the hue; None leaves one alone."""

    brightness: jax.Array | float | None = None
    contrast: jax.Array | float | None = None
    saturation: jax.Array | float | None = None
    hue: jax.Array | float | None = None


def sample_jitter(
    key: jax.Array, *, brightness: float, contrast: float, saturation: float, hue: float
) -> Jitter:
    """Uniform draws: factors from max(0, 1 - x) to 1 + x, hue from -x to x; None if x is 0."""
    u = jax.random.uniform(key, (4,))
    by_brightness, by_contrast, by_saturation = (
        max(0.0, 1 - x) * (1 - u[i]) + (1 + x) * u[i] if x else None
        for i, x in enumerate((brightness, contrast, saturation))
    )
    return Jitter(by_brightness, by_contrast, by_saturation, hue * (2 * u[3] - 1) if hue else None)


def jitter(image: jax.Array, by: Jitter) -> jax.Array:
    """Change brightness, then contrast, saturation, hue (torchvision's ColorJitter draws the order too)."""
    if by.brightness is not None:
        image = blend(image, jnp.zeros(()), by.brightness)
    if by.contrast is not None:
        image = blend(image, jnp.mean(grayscale(image)), by.contrast)
    if by.saturation is not None:
        image = blend(image, grayscale(image), by.saturation)
    if by.hue is not None:
        image = turn_hue(image, by.hue)
    return image


def blend(image: jax.Array, other: jax.Array, factor: jax.Array | float) -> jax.Array:
    """`other` at factor 0, `image` at 1, beyond it above 1; cut off at 0 and 255."""
    return jnp.clip(other + factor * (image - other), 0, 255)


def grayscale(image: jax.Array) -> jax.Array:
    """Luma of ITU-R 601, float32 [H, W, 1]."""
    red, green, blue = jnp.split(image, 3, axis=-1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def turn_hue(image: jax.Array, turn: jax.Array | float) -> jax.Array:
    """Add a fraction of the colour circle to the hue, keeping saturation and value (of HSV)."""
    red, green, blue = jnp.moveaxis(image, -1, 0)
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    slope = 1 / jnp.where(chroma > 0, chroma, 1)
    sextant = jnp.where(
        value == red,
        (green - blue) * slope,
        jnp.where(value == green, 2 + (blue - red) * slope, 4 + (red - green) * slope),
    )

    def channel(offset: float) -> jax.Array:
        distance = (offset + sextant + 6 * turn) % 6
        return value - chroma * jnp.clip(jnp.minimum(distance, 4 - distance), 0, 1)

    return jnp.stack([channel(5), channel(3), channel(1)], axis=-1)


def round_to_bytes(image: jax.Array) -> jax.Array:
    """float from 0 to 255 to uint8, to the nearest."""
    return jnp.round(image).astype(jnp.uint8)
