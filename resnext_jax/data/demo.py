"""A data set drawn by our own code: three kinds of lesion on skin, told apart by shape and texture alone.

Skin tone, lighting, size, position, contrast and noise are drawn alike for all classes, and every lesion
darkens the whole image by an amount drawn from one distribution, so that mean colour says nothing about the
class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resnext_jax.data.dataset import Dataset
from resnext_jax.data.sources import Record
from resnext_jax.data.split import Split

CLASSES = ("blisters", "ring", "scales")
IMAGE_SIZE = 96
SPLIT_SIZES = {"train": 600, "val": 150, "test": 150}


class DemoSource:
    """Consecutive images of the endless demo set; image i is of class i % 3.

    Args:
        name: prefix of the keys.
        start: index of the first image.
        length: how many images.
    """

    classes = CLASSES
    groups = None

    def __init__(self, name: str, start: int, length: int):
        self.start = start
        self.labels = np.arange(start, start + length, dtype=np.int32) % len(CLASSES)
        self.keys: Sequence[str] = [f"{name}/{CLASSES[label]}/{i:04d}" for i, label in enumerate(self.labels)]
        self.names = self.keys
        self.sizes = np.zeros(length, np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Record:
        label = int(self.labels[index])
        return {"image": draw(label, seed=self.start + index), "label": label, "key": self.keys[index]}


def open_demo(rule: Split) -> Dataset:
    """The demo set: 600 images to train on, 150 to validate on, 150 to test on."""
    starts = np.cumsum([0, *SPLIT_SIZES.values()]).tolist()
    splits = {
        name: DemoSource(name, start, length)
        for (name, length), start in zip(SPLIT_SIZES.items(), starts, strict=False)
    }
    return Dataset("demo", CLASSES, splits, rule)


def draw(label: int, seed: int, size: int = IMAGE_SIZE) -> np.ndarray:
    """Draw one image. The same arguments give the same image on every machine.

    Args:
        label: index into `CLASSES`.
        seed: of everything random in the image.
        size: side in pixels.

    Returns:
        uint8 [size, size, 3].
    """
    # RandomState, because NumPy promises that its numbers never change, and float64, so that the last bit of
    # a platform's sine does not show after rounding.
    rng = np.random.RandomState(seed)
    axis = np.linspace(-1, 1, size)
    x, y = axis[None, :], axis[:, None]

    # Skin: a tone, slow mottling, lighting from one side, pores.
    tone = np.array([0.85, 0.65, 0.53]) * rng.uniform(0.65, 1.05) + rng.uniform(-0.02, 0.02, 3)
    slope = rng.uniform(-0.12, 0.12, 2)
    light = 1 + slope[0] * x + slope[1] * y + 0.05 * _mottle(rng, x, y, waves=4, cycles=2)
    light = light + 0.015 * _mottle(rng, x, y, waves=8, cycles=16)

    # The lesion: a faint inflamed patch, the same for all classes, and on it the shape that is the class, in
    # a strength that makes its sum over the image a random share of the patch, whatever the shape.
    u, v = _lesion_coordinates(rng, x, y)
    patch = _ramp(np.hypot(u, v) - 1.05, 0.3)
    shape = _SHAPES[label](rng, u, v)
    shape *= rng.uniform(0.28, 0.4) * patch.mean() / shape.mean()
    image = tone * light[..., None] * (1 - 0.12 * patch[..., None] * np.array([0.1, 1, 0.9]))
    image = image * (1 - shape[..., None] * np.array([0.35, 0.6, 0.55]))
    image = image + rng.normal(0, rng.uniform(0.006, 0.02), image.shape)
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _lesion_coordinates(
    rng: np.random.RandomState, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates turned, shifted, scaled and warped: the lesion is the unit disk in them."""
    angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.55, 0.8)
    centre = rng.uniform(-1, 1, 2) * (0.9 - radius)
    u = (np.cos(angle) * (x - centre[0]) + np.sin(angle) * (y - centre[1])) / radius
    v = (np.cos(angle) * (y - centre[1]) - np.sin(angle) * (x - centre[0])) / (radius * rng.uniform(0.75, 1))
    return u + 0.12 * _mottle(rng, u, v, 3, 0.6), v + 0.12 * _mottle(rng, u, v, 3, 0.6)


def _mottle(
    rng: np.random.RandomState, x: np.ndarray, y: np.ndarray, waves: int, cycles: float
) -> np.ndarray:
    """A sum of plane waves in random directions, standard deviation about 1."""
    frequency = np.pi * cycles * rng.uniform(0.5, 1, waves)
    direction, phase = rng.uniform(0, 2 * np.pi, (2, waves))
    total = sum(
        np.cos(f * (np.cos(d) * x + np.sin(d) * y) + p)
        for f, d, p in zip(frequency, direction, phase, strict=True)
    )
    return total * np.sqrt(2 / waves)


def _ramp(distance: np.ndarray, width: float) -> np.ndarray:
    """1 where distance is well below 0, 0 well above, smooth over the width between."""
    return 1 / (1 + np.exp(np.clip(distance / width, -40, 40) * 4))


def _ring(rng: np.random.RandomState, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A raised border around a clear centre."""
    width = rng.uniform(0.1, 0.16)
    return _ramp(np.abs(np.hypot(u, v) - 0.95 + width) - width, 0.16)


def _blisters(rng: np.random.RandomState, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Round spots strewn over the patch."""
    spots, count = np.zeros(u.shape), rng.randint(7, 13)
    for i in range(count):
        # A golden-angle spiral with jitter: strewn evenly, never in a ring or a row.
        distance, angle = 0.9 * np.sqrt((i + 0.5) / count), 2.4 * i + rng.uniform(-0.3, 0.3)
        offset = np.hypot(u - distance * np.cos(angle), v - distance * np.sin(angle))
        spots = np.maximum(spots, _ramp(offset - rng.uniform(0.14, 0.21), 0.12))
    return spots


def _scales(rng: np.random.RandomState, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Parallel, slightly wavy flakes inside the patch."""
    across = u + 0.1 * _mottle(rng, u, v, 2, 1)
    flakes = np.cos(rng.uniform(9, 14) * across + rng.uniform(0, 2 * np.pi))
    return _ramp(np.hypot(u, v) - 0.95, 0.12) * _ramp(0.2 - flakes, 0.8)


_SHAPES = (_blisters, _ring, _scales)
