"""What does augmentation add to a training step? Whole steps with and without it, and it alone, taking turns.

Run:       python experiments/benchmarks/augmentation.py
Hardware:  2 CPU cores; about 5 minutes, most of it to compile, 1 minute when compiled before.
Expected:  alone, each recipe takes less than 5 % of a ResNeXt-50 32x4d step at 224 px.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np
import tyro

from resnext_jax import TrainConfig, ops
from resnext_jax.benchmark import train_step
from resnext_jax.data.augment import AugmentConfig, make_augment, make_mix
from resnext_jax.devices import enable_compilation_cache
from resnext_jax.models import build_model

CLASSES = 10
RECIPES = {
    "none": AugmentConfig(),
    "warp": AugmentConfig(flip=True, rotate=20, shift=0.2, shear=0.2, zoom=0.2),
    "imagenet": AugmentConfig(
        flip=True, random_resized_crop=(0.08, 1.0), auto="trivial", erase=0.1, mixup=0.2, cutmix=1.0
    ),
}


@dataclass(frozen=True)
class Augmentation:
    """Measure training steps under each recipe."""

    model: str = "resnext50_32x4d"
    """A name of `resnext-jax models`."""
    batch_size: int = 8
    """Images a step."""
    image_size: int = 224
    """Side of the images, in pixels."""
    rounds: int = 8
    """Steps of each recipe."""
    recipes: tuple[Literal["warp", "imagenet"], ...] = ("warp", "imagenet")
    """warp: folders_resnext50_full's; imagenet: the second of imagenet_resnext50's."""

    def __call__(self) -> None:
        ops.keep_freed_memory()
        enable_compilation_cache()
        steps = {name: self.prepare(RECIPES[name]) for name in ("none", *self.recipes)}
        steps |= {f"{name} alone": self.prepare_alone(RECIPES[name]) for name in self.recipes}
        times = {name: [] for name in steps}
        for _ in range(self.rounds):
            for name, step in steps.items():
                start = time.perf_counter()
                step()
                times[name].append(time.perf_counter() - start)
        least = min(times["none"])
        for name, taken in times.items():
            share = 100 * min(taken) / least
            print(
                f"{name:15} least {1e3 * min(taken):7.0f} ms  median {1e3 * statistics.median(taken):7.0f} ms"
                f"  {share:6.1f} %"
            )

    def prepare_alone(self, config: AugmentConfig) -> Callable[[], None]:
        """The augmentation by itself, compiled and made once, on random images."""
        augment, mix = make_augment(config), make_mix(config.mixup, config.cutmix)
        keys = jax.random.split(jax.random.key(0), self.batch_size)
        images = np.random.default_rng(0).integers(
            0, 256, (self.batch_size, self.image_size, self.image_size, 3), dtype=np.uint8
        )
        arguments = jax.device_put((keys, images, jax.numpy.eye(self.batch_size, CLASSES)))

        @jax.jit
        def augmented(keys: jax.Array, images: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
            images = augment(keys, images)
            return mix(keys, images, targets) if mix else (images, targets)

        def step() -> None:
            jax.block_until_ready(augmented(*arguments))

        step()
        return step

    def prepare(self, config: AugmentConfig) -> Callable[[], None]:
        """A training step, compiled and made once, on random images."""
        model = build_model(self.model, num_classes=CLASSES)
        run = TrainConfig(lr=0.01, **config.to_dict())
        step, _ = train_step(model, self.batch_size, self.image_size, run)
        step()
        return step


if __name__ == "__main__":
    tyro.cli(Augmentation)()
