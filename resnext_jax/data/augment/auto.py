"""TrivialAugmentWide (Müller & Hutter 2021) and RandAugment (Cubuk et al. 2020), as torchvision has them.

A choice among fourteen operations by a traced number would run all of them on every image. Here they are
settings of three stages: an affine warp, a blend with another image, and a table of values for each channel.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from resnext_jax.data.augment.color import blend, grayscale, round_to_bytes
from resnext_jax.data.augment.warp import Fill, make_matrix, warp

Policy = Literal["trivial", "rand"]

BINS = 31
RAND_BIN = 9
COUNTS: dict[Policy, int] = {"trivial": 1, "rand": 2}  # operations on an image

GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
BLENDS = ("brightness", "saturation", "contrast", "sharpness")
TABLES = ("posterize", "solarize", "autocontrast", "equalize")
OPERATIONS = ("identity", *GEOMETRIC, *BLENDS, *TABLES)
SIGNED = np.array([name in GEOMETRIC + BLENDS for name in OPERATIONS])


def magnitudes(policy: Policy, height: int, width: int) -> np.ndarray:
    """float32 [14, 31]: of each operation at each strength, for an image of this size.

    Shears are tangents, translations pixels, rotations degrees, blends what is added to the factor 1,
    posterize the bits that stay, solarize the value from which on it inverts. The sign is drawn apart.
    """
    wide = policy == "trivial"
    strength = np.linspace(0, 1, BINS)
    shear = (0.99 if wide else 0.3) * strength
    across, along = (32, 32) if wide else (150 / 331 * width, 150 / 331 * height)
    factor = (0.99 if wide else 0.9) * strength
    none = 0 * strength
    return np.stack(
        [
            none,
            shear,
            shear,
            np.trunc(np.float32(across * strength)),
            np.trunc(np.float32(along * strength)),
            (135 if wide else 30) * strength,
            *[factor] * len(BLENDS),
            np.round(8 - (6 if wide else 4) * strength),
            255 * (1 - strength),
            none,
            none,
        ]
    ).astype(np.float32)


def sample_operation(key: jax.Array, policy: Policy, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """An operation, int32 index into OPERATIONS, and its magnitude with its sign."""
    which, strength, sign = jax.random.split(key, 3)
    operation = jax.random.randint(which, (), 0, len(OPERATIONS))
    chosen = jax.random.randint(strength, (), 0, BINS) if policy == "trivial" else RAND_BIN
    magnitude = jnp.asarray(magnitudes(policy, height, width))[operation, chosen]
    negative = jnp.asarray(SIGNED)[operation] & jax.random.bernoulli(sign)
    return operation, jnp.where(negative, -magnitude, magnitude)


def apply_operation(
    image: jax.Array, operation: jax.Array | int, magnitude: jax.Array | float, fill: Fill
) -> jax.Array:
    """Apply one of OPERATIONS to an image, uint8 [H, W, 3].

    Args:
        image: uint8 [H, W, 3].
        operation: index into OPERATIONS.
        magnitude: in the unit of `magnitudes`, with its sign.
        fill: what appears where a warped image ends.

    Returns:
        uint8 [H, W, 3].
    """

    def chosen(name: str) -> jax.Array:
        return jnp.asarray(operation) == OPERATIONS.index(name)

    def setting(name: str, otherwise: float = 0.0) -> jax.Array:
        return jnp.where(chosen(name), magnitude, otherwise)

    height, width, channels = image.shape
    shear_x, shear_y = setting("shear_x"), setting("shear_y")  # about the upper left corner
    angle = jnp.deg2rad(setting("rotate"))  # anticlockwise, unlike in `Affine`
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    matrix = make_matrix(
        [cos, shear_x - sin, shear_x * height / 2 - setting("translate_x")],
        [shear_y + sin, cos, shear_y * width / 2 - setting("translate_y")],
    )
    image = warp(image, matrix, fill)

    pixels = image.astype(jnp.float32)
    gray = grayscale(pixels)
    other = jnp.where(chosen("saturation"), gray, 0)
    other = jnp.where(chosen("contrast"), jnp.mean(gray), other)
    other = jnp.where(chosen("sharpness"), _smooth(pixels), other)
    factor = 1 + sum(setting(name) for name in BLENDS)
    image = round_to_bytes(blend(pixels, other, factor))

    value = jnp.arange(256.0)[:, None]
    step = 2 ** (8 - setting("posterize", otherwise=8))
    table = jnp.floor(value / step) * step
    table = jnp.where(value >= setting("solarize", otherwise=256), 255 - table, table)
    table = jnp.where(chosen("autocontrast"), _autocontrast(image), table)
    table = jnp.where(chosen("equalize"), _equalize(image), table)
    table = round_to_bytes(jnp.broadcast_to(table, (256, channels)))
    # One channel after the other, as XLA would otherwise work out the table anew for each pixel.
    looked_up = jax.lax.map(lambda pair: pair[0][pair[1]], (table.T, jnp.moveaxis(image, -1, 0)))
    return jnp.moveaxis(looked_up, 0, -1)


def _smooth(image: jax.Array) -> jax.Array:
    """Pillow's SMOOTH filter, which leaves the border as it is."""
    # XLA would fuse a sum of shifted images with what makes them, and make them nine times.
    total = jax.lax.reduce_window(image, 0.0, jax.lax.add, (3, 3, 1), (1, 1, 1), "VALID")
    return image.at[1:-1, 1:-1].set((total + 4 * image[1:-1, 1:-1]) / 13)


def _autocontrast(image: jax.Array) -> jax.Array:
    """Values [256, C] that stretch each channel to the range from 0 to 255."""
    low, high = (f(image, axis=(0, 1)).astype(jnp.float32) for f in (jnp.min, jnp.max))
    value = jnp.arange(256.0)[:, None]
    stretched = jnp.clip((value - low) * 255 / jnp.maximum(high - low, 1), 0, 255)
    return jnp.where(high > low, stretched, value)


def _equalize(image: jax.Array) -> jax.Array:
    """Values [256, C] that make each channel's histogram flat, in Pillow's integer arithmetic."""
    channels = image.shape[-1]
    counts = jnp.zeros((256, channels)).at[image, jnp.arange(channels)].add(1)
    below = jnp.matmul(jnp.tri(256, k=-1), counts, precision="highest")
    brightest = counts[jnp.max(image, axis=(0, 1)), jnp.arange(channels)]
    step = jnp.floor((image.shape[0] * image.shape[1] - brightest) / 255)
    flat = jnp.minimum(jnp.floor((below + jnp.floor(step / 2)) / jnp.maximum(step, 1)), 255)
    return jnp.where(step > 0, flat, jnp.arange(256.0)[:, None])
