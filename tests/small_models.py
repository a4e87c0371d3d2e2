"""A small model of every kind that the table has, with norms as training leaves them."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from resnext_jax.data import Images, Preprocessing, Record, load_images
from resnext_jax.models import BatchNorm, ResNet, ResNetConfig, build_model
from resnext_jax.runs import ModelSpec

SIDE = 32  # pixels
CLASSES = ("ring", "scales", "猴痘")

KINDS = {
    "basic": ResNetConfig("basic", (2, 1)),
    "bottleneck": ResNetConfig("bottleneck", (1, 2), 4, 8),
    "bias": ResNetConfig("bottleneck", (1, 1), 8, 4, stride_1x1=True, conv_bias=True, epsilon=1e-3),
    "cifar": ResNetConfig("bottleneck", (1, 1), 2, 16, stem="cifar"),
    "preactivation": ResNetConfig("preactivation", (2, 1)),
}


def small_model(kind: str, **options: object) -> ResNet:
    """In evaluation form. Norms of a fresh model, all ones and zeros, would hide mistakes."""
    model = build_model(KINDS[kind], **{"num_classes": len(CLASSES)} | options)
    rng = np.random.default_rng(0)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, BatchNorm):
            for array, low, high in (
                (module.mean, -0.3, 0.3),
                (module.var, 0.5, 2),
                (module.scale, 0.5, 1.5),
                (module.bias, -0.3, 0.3),
            ):
                drawn = rng.uniform(low, high, array[...].shape)
                array.set_value(jnp.asarray(drawn, jnp.float32))
        elif isinstance(module, nnx.Conv) and module.bias is not None:
            drawn = rng.uniform(-0.3, 0.3, module.bias[...].shape)
            module.bias.set_value(jnp.asarray(drawn, jnp.float32))
    model.eval()
    return model


def small_spec(kind: str) -> ModelSpec:
    """What a run would say of it."""
    return ModelSpec(kind, KINDS[kind], CLASSES, Preprocessing(SIDE, mean=(0.5, 0.4, 0.3)))


def photos(count: int, side: int = SIDE, seed: int = 0) -> np.ndarray:
    """Smooth pictures, uint8 [count, side, side, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 4, 4, 3))
    return np.kron(coarse, np.ones((1, side // 4, side // 4, 1))).astype(np.uint8)


class Labelled:
    """A source of pictures in memory."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], keys: list[str]):
        self.pixels, self.labels, self.classes, self.keys = pixels, labels, classes, keys
        self.sizes = np.full(len(labels), pixels[0].size)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Record:
        return {"image": self.pixels[index], "label": int(self.labels[index]), "key": self.keys[index]}


def labelled(
    labels: np.ndarray, classes: tuple[str, ...] = CLASSES, name: str = "{}.jpg", side: int = SIDE
) -> Images:
    """Pictures with these classes, as a split has them."""
    keys = [name.format(i) for i in range(len(labels))]
    source = Labelled(photos(len(labels), side), np.asarray(labels, np.int32), classes, keys)
    return load_images(source, Preprocessing(side), budget_bytes=2**30)
