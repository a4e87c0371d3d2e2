"""What lies beside weights and describes them: the config.json of timm and of transformers."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

from resnext_jax.data import Interpolation, Preprocessing
from resnext_jax.errors import BadInput
from resnext_jax.models import VARIANTS, Architecture, ResNetConfig, get_config
from resnext_jax.runs import ModelSpec

log = logging.getLogger(__name__)

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")

# Arguments of timm's models that change nothing in evaluation.
_HARMLESS = {"drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last", "pretrained"}
# Arguments of timm's ResNet, and the fields of ours that they are.
OURS = {"layers": "layers", "cardinality": "groups", "base_width": "width_per_group"}
_PILLOW: dict[int, Interpolation] = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # its numbers of filters
_CONVNEXT_SQUEEZES_FROM = 384  # px: transformers' ConvNext processor crops below, and stretches from here on


@dataclass(frozen=True)
class Description:
    """What is known of weights without reading an array.

    Args:
        model: name of the variant.
        config: the variant, or a registered factory.
        preprocessing: of the images.
        classes: their names, in the order of the outputs.
        license: identifier, such as "apache-2.0".
    """

    model: str | None = None
    config: Architecture | None = None
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] | None = None
    license: str | None = None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        BadInput: it does not.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: damaged: {error}") from None
    if not isinstance(content, dict):
        raise BadInput(f"{path}: expected a JSON object")
    return content


def is_description(config: Mapping[str, Any]) -> bool:
    """Whether this is a config.json of timm or of transformers, and not one of something else."""
    return isinstance(config.get("architecture"), str) or isinstance(config.get("architectures"), list)


def describe(config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None, where: str) -> Description:
    """Read a config.json.

    Args:
        config: its content, see `is_description`.
        preprocessor: content of transformers' preprocessor_config.json; None if there is none.
        where: names the file in errors.

    Raises:
        BadInput: an architecture that is not known here, or values of another kind than expected.
    """
    try:
        if "resnext_jax" in config:  # written by `write_hub_folder`, of a model that timm has not
            spec = ModelSpec.from_dict(config["resnext_jax"])
            license = config.get("pretrained_cfg", {}).get("license")
            return Description(spec.name, spec.architecture, spec.preprocessing, spec.classes, license)
        if "architecture" in config:
            return _of_timm(config, where)
        return _of_transformers(config, preprocessor, where)
    except (TypeError, AttributeError, KeyError, IndexError) as error:
        raise BadInput(f"{where}: not described as expected: {error!r}") from None


def _of_timm(config: Mapping[str, Any], where: str) -> Description:
    # timm's first versions had no part of its own for the weights.
    weights = config.get("pretrained_cfg") or config
    name = config["architecture"]
    if name not in VARIANTS:
        raise BadInput(f"{where}: weights of {name}, which is no model here; {_known_like(name)}")
    variant = _with_arguments(VARIANTS[name], config.get("model_args") or {}, where)
    pool = config.get("global_pool", "avg")
    if pool != "avg":
        raise BadInput(f"{where}: global_pool={pool!r}: only 'avg' is known here")
    size = weights.get("test_input_size") or weights["input_size"]
    crop = weights.get("test_crop_pct") or weights.get("crop_pct") or 1.0
    mode = weights.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        log.warning("%s: crop_mode=%r is not known here; images are cropped in the centre", where, mode)
    preprocessing = Preprocessing(
        image_size=size[-1],
        resize_size=math.floor(size[-1] / crop),
        resize="stretch" if mode == "squash" else "crop",
        interpolation=_interpolation(weights.get("interpolation") or "bicubic", where),
        mean=tuple(weights["mean"]),
        std=tuple(weights["std"]),
    )
    labels = weights.get("label_names") or config.get("label_names")
    return Description(name, variant, preprocessing, _classes(labels), weights.get("license"))


def _with_arguments(config: ResNetConfig, arguments: Mapping[str, Any], where: str) -> ResNetConfig:
    if unknown := sorted(set(arguments) - _HARMLESS - set(OURS)):
        raise BadInput(f"{where}: model_args has {', '.join(unknown)}, which is not known here")
    changes = {ours: arguments[theirs] for theirs, ours in OURS.items() if theirs in arguments}
    return replace(config, **{key: tuple(v) if isinstance(v, list) else v for key, v in changes.items()})


def _of_transformers(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None, where: str
) -> Description:
    if config.get("model_type") != "resnet":
        raise BadInput(
            f"{where}: weights of {', '.join(config['architectures'])}, expected ResNetForImageClassification"
        )
    block = config.get("layer_type", "bottleneck")
    expected = [64 * 2**stage * (4 if block == "bottleneck" else 1) for stage in range(len(config["depths"]))]
    fixed = {
        "embedding_size": 64,
        "hidden_sizes": expected,
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
    }
    for field, value in fixed.items():
        if config.get(field, value) != value:
            raise BadInput(f"{where}: {field}={config[field]!r}: only {value!r} is known here")
    variant = ResNetConfig(
        block,
        tuple(config["depths"]),
        stride_1x1=block == "bottleneck" and bool(config.get("downsample_in_bottleneck")),
    )
    name = next((name for name, known in VARIANTS.items() if known == variant), None)
    labels = config.get("id2label")
    classes = None if labels is None else [labels[str(i)] for i in range(len(labels))]
    return Description(
        name, variant, _of_processor(preprocessor) if preprocessor else None, _classes(classes)
    )


def _of_processor(processor: Mapping[str, Any]) -> Preprocessing:
    """Of transformers' image processors: ConvNext's, and those with a size and perhaps a crop."""
    size = processor["size"]
    side = size.get("shortest_edge") or size["height"] if isinstance(size, Mapping) else size
    kind = str(processor.get("image_processor_type", processor.get("feature_extractor_type", "")))
    crop = processor.get("crop_size")
    if kind.startswith("ConvNext") or "crop_pct" in processor:
        if side < _CONVNEXT_SQUEEZES_FROM:
            image_size, resize_size, resize = (
                side,
                int(side / (processor.get("crop_pct") or 224 / 256)),
                "crop",
            )
        else:
            image_size, resize_size, resize = side, side, "stretch"
    elif processor.get("do_center_crop") and crop is not None:
        image_size = crop["height"] if isinstance(crop, Mapping) else crop
        resize_size, resize = side, "crop"
    else:
        image_size, resize_size, resize = side, side, "stretch"
    interpolation = _PILLOW.get(processor.get("resample", 2), "bilinear")
    mean, std = tuple(processor["image_mean"]), tuple(processor["image_std"])
    return Preprocessing(image_size, resize_size, resize, interpolation, mean, std)


def _interpolation(name: str, where: str) -> Interpolation:
    if name in get_args(Interpolation):
        return cast(Interpolation, name)
    log.warning("%s: its interpolation, %r, is not known here; bicubic is taken", where, name)
    return "bicubic"


def _classes(labels: Any) -> tuple[str, ...] | None:
    """Class names, those that occur twice (ImageNet's two cranes) with their position."""
    if not labels:
        return None
    names = [str(label) for label in (labels.values() if isinstance(labels, Mapping) else labels)]
    return tuple(f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names))


def _known_like(name: str) -> str:
    try:
        get_config(name)
    except BadInput as error:
        return str(error)
    return ""
