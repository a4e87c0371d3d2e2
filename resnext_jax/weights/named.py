"""torchvision's ImageNet weights by name: where they are, how good they are, how images are prepared."""

from dataclasses import dataclass

from resnext_jax.data import Preprocessing
from resnext_jax.errors import BadInput

BASE_URL = "https://download.pytorch.org/models/"
DEFAULT = "DEFAULT"
"""Stands for the best weights of a model."""


@dataclass(frozen=True)
class NamedWeights:
    """Weights that torchvision publishes; the figures are its own, on ImageNet-1k's validation images.

    Args:
        file: name of the file; its last part begins the SHA-256 of the content.
        top1: accuracy in percent.
        top5: accuracy in percent.
        resize_size: shorter side before the 224 px centre crop.
    """

    file: str
    top1: float
    top5: float
    resize_size: int = 256

    @property
    def url(self) -> str:
        return BASE_URL + self.file

    @property
    def sha256_prefix(self) -> str:
        return self.file.removesuffix(".pth").rpartition("-")[2]

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(image_size=224, resize_size=self.resize_size, interpolation="bilinear")


def _v1(file: str, top1: float, top5: float) -> dict[str, NamedWeights]:
    return {"IMAGENET1K_V1": NamedWeights(file, top1, top5)}


def _v2(file: str, top1: float, top5: float) -> dict[str, NamedWeights]:
    return {"IMAGENET1K_V2": NamedWeights(file, top1, top5, 232)}


NAMED_WEIGHTS: dict[str, dict[str, NamedWeights]] = {
    "resnet18": _v1("resnet18-f37072fd.pth", 69.758, 89.078),
    "resnet34": _v1("resnet34-b627a593.pth", 73.314, 91.420),
    "resnet50": _v1("resnet50-0676ba61.pth", 76.130, 92.862) | _v2("resnet50-11ad3fa6.pth", 80.858, 95.434),
    "resnet101": _v1("resnet101-63fe2227.pth", 77.374, 93.546)
    | _v2("resnet101-cd907fc2.pth", 81.886, 95.780),
    "resnet152": _v1("resnet152-394f9c45.pth", 78.312, 94.046)
    | _v2("resnet152-f82ba261.pth", 82.284, 96.002),
    "resnext50_32x4d": _v1("resnext50_32x4d-7cdf4587.pth", 77.618, 93.698)
    | _v2("resnext50_32x4d-1a0047aa.pth", 81.198, 95.340),
    "resnext101_32x8d": _v1("resnext101_32x8d-8ba56ff5.pth", 79.312, 94.526)
    | _v2("resnext101_32x8d-110c445d.pth", 82.834, 96.228),
    # The one file of this model was trained and is measured as the V2 files are.
    "resnext101_64x4d": {"IMAGENET1K_V1": NamedWeights("resnext101_64x4d-173b62eb.pth", 83.246, 96.454, 232)},
    "wide_resnet50_2": _v1("wide_resnet50_2-95faca4d.pth", 78.468, 94.086)
    | _v2("wide_resnet50_2-9ba9bcbe.pth", 81.602, 95.758),
    "wide_resnet101_2": _v1("wide_resnet101_2-32ee1156.pth", 78.848, 94.284)
    | _v2("wide_resnet101_2-d733dc28.pth", 82.510, 96.020),
}


def is_name(weights: str) -> bool:
    """Whether it is a name of weights and not a path."""
    return weights == DEFAULT or any(weights in names for names in NAMED_WEIGHTS.values())


def named_weights(weights: str, model: str) -> NamedWeights:
    """Weights of a model by name.

    Args:
        weights: "IMAGENET1K_V1", "IMAGENET1K_V2" or "DEFAULT" (the best).
        model: name of the variant.

    Raises:
        ValueError: the model has no weights of that name.
    """
    known = NAMED_WEIGHTS.get(model, {})
    if weights == DEFAULT and known:
        weights = list(known)[-1]
    if weights not in known:
        raise BadInput(
            f"weights={weights!r}: {model} has no weights of that name; "
            f"it has {', '.join([*known, DEFAULT]) if known else 'none: give a file'}"
        )
    return known[weights]
