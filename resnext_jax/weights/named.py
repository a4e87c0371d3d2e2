"""Published weights by name: torchvision's, and timm's tags; where they are and how good they are."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

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


@dataclass(frozen=True)
class TimmWeights:
    """Weights that timm publishes on the hub; figures and licence are as timm has them.

    The table `timm_weights.csv` has the models of timm 1.0's file resnet.py with their tags, classes, sizes
    and licences, and the accuracies of timm's results/results-imagenet.csv of August 2024. Those that are not
    in there are None.

    Args:
        model: name of the variant.
        tag: name of the weights, such as "a1h_in1k".
        classes: outputs of the head; 0: it has none.
        image_size: side of the images in pixels that the accuracies are for.
        top1: accuracy in percent, on ImageNet-1k's validation images.
        top5: accuracy in percent.
        license: identifier, such as "apache-2.0".
    """

    model: str
    tag: str
    classes: int
    image_size: int
    top1: float | None
    top5: float | None
    license: str | None

    @property
    def repository(self) -> str:
        """Its name on the hub."""
        return f"timm/{self.model}.{self.tag}"


@cache
def timm_weights() -> dict[str, dict[str, TimmWeights]]:
    """timm's weights by model and tag, each model's default first; models without weights have none.

    Example:
        >>> weights = timm_weights()["resnext50_32x4d"]["a1h_in1k"]
        >>> weights.classes, weights.license
        (1000, 'apache-2.0')
    """
    table: dict[str, dict[str, TimmWeights]] = {}
    text = files("resnext_jax.weights").joinpath("timm_weights.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        tags = table.setdefault(row["model"], {})
        if row["tag"]:
            tags[row["tag"]] = TimmWeights(
                row["model"],
                row["tag"],
                int(row["classes"]),
                int(row["image_size"]),
                float(row["top1"]) if row["top1"] else None,
                float(row["top5"]) if row["top5"] else None,
                row["license"] or None,
            )
    return table


def split_tag(name: str) -> tuple[str, str | None]:
    """Model and tag of a name as timm forms it, "resnet50.a1_in1k"; the tag is None if there is none.

    Raises:
        BadInput: the model has no weights of that tag.
    """
    model, dot, tag = name.partition(".")
    if not dot or model not in timm_weights():
        return name, None
    if tag not in timm_weights()[model]:
        raise BadInput(_no_such_weights(tag, model))
    return model, tag


def is_name(weights: str) -> bool:
    """Whether it is torchvision's name of weights or a tag of timm's, and not a path."""
    tables: list[dict[str, dict]] = [NAMED_WEIGHTS, timm_weights()]
    return weights == DEFAULT or any(weights in names for table in tables for names in table.values())


def named_weights(weights: str, model: str) -> NamedWeights | TimmWeights:
    """Weights of a model by name.

    Args:
        weights: "IMAGENET1K_V1", "IMAGENET1K_V2", a tag of timm's, or "DEFAULT": torchvision's best if the
            model is torchvision's, else timm's default.
        model: name of the variant.

    Raises:
        BadInput: the model has no weights of that name.

    Example:
        >>> named_weights("DEFAULT", "resnext50_32x4d").top1
        81.198
    """
    torchvision, timm = NAMED_WEIGHTS.get(model, {}), timm_weights().get(model, {})
    if weights == DEFAULT and torchvision:
        weights = list(torchvision)[-1]
    elif weights == DEFAULT and timm:
        weights = next(iter(timm))
    if weights in torchvision:
        return torchvision[weights]
    if weights in timm:
        return timm[weights]
    raise BadInput(_no_such_weights(weights, model))


def known_license(weights: str, model: str = "") -> str | None:
    """Licence of weights that are in timm's table; None if they are not, or it has none.

    Args:
        weights: "timm/model.tag" (also after "hf-hub:"), "model.tag", or a tag.
        model: name of the variant, for a tag alone.
    """
    name = weights.partition("@")[0].rpartition("timm/")[2]
    variant, _, tag = name.partition(".") if "." in name else (model, "", name)
    known = timm_weights().get(variant, {}).get(tag)
    return known and known.license


def _no_such_weights(weights: str, model: str) -> str:
    known = [*NAMED_WEIGHTS.get(model, {}), *timm_weights().get(model, {})]
    has = ", ".join([*known, DEFAULT]) if known else "none: give a file, or a repository of the hub"
    return f"weights={weights!r}: {model} has no weights of that name; it has {has}"
