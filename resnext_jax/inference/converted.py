"""A run directory made of weights that were trained elsewhere."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from resnext_jax import runs
from resnext_jax.data import Preprocessing
from resnext_jax.errors import BadInput
from resnext_jax.models import split_model
from resnext_jax.runs import ModelSpec
from resnext_jax.weights import LICENSE, Identified, identify

log = logging.getLogger(__name__)


def convert_to_run(
    source: str | Path,
    directory: Path,
    *,
    model: str | None = None,
    ema: bool = True,
    classes: Path | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> ModelSpec:
    """Make a run directory of weights, to predict and evaluate with as with a run that was trained here.

    Args:
        source: weights as `create_model` takes them.
        directory: the new run directory.
        model: name of the variant; None: what the source tells.
        ema: if there are averaged weights beside the raw ones, take the averaged.
        classes: file with the name of a class on each line, in the order of the outputs; None: those that the
            source names, else their positions, "0" on.
        preprocessing: fields of `Preprocessing` to be set, `image_size` and others, and `crop_pct`, which
            stands for `resize_size` as in timm; the others are what the source says, or assumed.

    Returns:
        What the run directory says of the model.

    Raises:
        FileNotFoundError: no source, or no file of classes.
        ConnectionError: a download failed.
        BadInput: the directory is in use, weights that do not fit, without a head or not for RGB images, or
            another number of classes.

    Example:
        >>> from resnext_jax.weights import write_weights
        >>> model = rj.create_model("test_resnet", num_classes=2)
        >>> write_weights(Path("a.safetensors"), rj.to_torch_state_dict(model))
        >>> convert_to_run("a.safetensors", Path("run"), preprocessing={"image_size": 160}).classes
        ('0', '1')
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise BadInput(f"{directory}: exists already; choose another destination")
    found = identify(source, model, ema=ema)
    if found.model.in_channels != 3:
        raise BadInput(f"{source}: for images of {found.model.in_channels} channels; a run reads RGB images")
    if not found.has_head:
        raise BadInput(
            f"{source}: the weights have no head (fc.weight), so a run could not classify; convert to a "
            "file, or train a head on them (new_head=True)"
        )
    names = _class_names(source, found, classes)
    prepare = _preprocessing(source, found, dict(preprocessing or {}))
    if lost := [name for name in found.file.metadata if name != LICENSE]:
        log.info("%s: what the file's metadata says of %s stays behind", directory, ", ".join(lost))
    spec = ModelSpec(found.name, found.architecture, names, prepare)
    _, params, batch_stats = split_model(found.model)
    settings = {"data": "", "weights": str(source)}
    if found.description.license:
        settings["license"] = found.description.license
    runs.start(directory, spec, settings)
    with runs.Checkpoints(directory, write=True) as checkpoints:
        tree = {"params": params, "batch_stats": batch_stats}
        checkpoints.save(0, tree, {"step": np.int32(0)}, spec.to_dict() | {"config": settings}, metrics=None)
    return spec


def _preprocessing(source: str | Path, found: Identified, changes: dict[str, Any]) -> Preprocessing:
    told = found.description.preprocessing or Preprocessing()
    crop = changes.pop("crop_pct", None)
    size = changes.get("image_size", told.image_size)
    if crop is not None:
        if not 0 < crop <= 1 or "resize_size" in changes:
            raise BadInput(f"crop_pct={crop}: expected above 0 and at most 1, and no resize_size beside it")
        changes["resize_size"] = int(size / crop)
    elif "resize_size" not in changes and told.resize_size is not None:
        # The share of the image that is seen stays as it was.
        changes["resize_size"] = round(size * told.resize_size / told.image_size)
    prepare = replace(told, **changes)
    if (
        found.description.preprocessing is None
        and not {"image_size", "interpolation", "mean"} <= changes.keys()
    ):
        log.warning(
            "%s: does not say how images are prepared; assumed: %d px, %s, mean %s, standard deviation %s",
            *(source, prepare.image_size, prepare.interpolation, prepare.mean, prepare.std),
        )
    return prepare


def _class_names(source: str | Path, found: Identified, file: Path | None) -> tuple[str, ...]:
    assert found.model.fc is not None  # the weights have a head
    count = found.model.fc.out_features
    if file is not None:
        names = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    else:
        names = found.description.classes or tuple(map(str, range(count)))
    if len(names) != count or len(set(names)) != count:
        raise BadInput(
            f"{file or source}: {len(names)} names of classes, {len(set(names))} of them different; the "
            f"weights tell {count} classes apart"
        )
    return names
