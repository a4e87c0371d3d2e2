"""A run as a folder of the Hugging Face hub, laid out as timm's: weights, config.json and a model card."""

import json
import logging
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from resnext_jax.data import Preprocessing
from resnext_jax.errors import BadInput
from resnext_jax.models import VARIANTS, ResNetConfig, get_config
from resnext_jax.runs import ModelSpec, has_average, read_best, read_config
from resnext_jax.storage import write_whole
from resnext_jax.weights.descriptions import CONFIG, OURS, WEIGHT_FILES
from resnext_jax.weights.files import FloatType, write_weights
from resnext_jax.weights.named import known_license, timm_weights
from resnext_jax.weights.state_dict import StateDict, from_trees

log = logging.getLogger(__name__)

CARD = "README.md"
_STAGES = 4  # of every model of timm's
_NAMED = 20  # classes that the card names


def write_hub_folder(
    run: Path,
    directory: Path,
    *,
    ema: bool = True,
    dtype: FloatType = "float32",
    license: str | None = None,
) -> ModelSpec:
    """Write a run's best weights as timm reads them: `timm.create_model("local-dir:DIR", pretrained=True)`.

    Args:
        run: the run directory.
        directory: the new folder, to be used where it is or uploaded to the hub.
        ema: if the run keeps a moving average, write the averaged weights; False: the raw ones.
        dtype: type of the numbers in the file.
        license: identifier for the model card; None: that of converted weights if known, else none is stated.

    Returns:
        The model. If timm has none like it, the log says so: the folder is then read by this package only.

    Raises:
        FileNotFoundError: no run or no checkpoint there.
        BadInput: the folder is in use, numbers that float16 has not, or `ema=False` of a run that keeps no
            average.
        OSError: no space left, or no permission.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise BadInput(f"{directory}: exists already; choose another destination")
    if not ema and not has_average(run):
        raise BadInput(f"ema=False with {run}: the run has one set of weights, no average; leave it out")
    step, model, meta = read_best(run, ema=ema)
    spec, about = ModelSpec.from_dict(meta), read_config(run)
    license = license or about["config"].get("license")
    state_dict = _with_counters(from_trees(model["params"], model["batch_stats"]), step)
    config = hub_config(spec, state_dict, license)
    is_timms = "resnext_jax" not in config
    if not is_timms:
        log.warning("%s: timm has no model like %s; only resnext_jax reads this folder", directory, spec.name)
    card = model_card(run, spec, about, license, ema=ema, is_timms=is_timms)
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write_weights(partial / WEIGHT_FILES[0], state_dict, dtype=dtype)
        write_whole(partial / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        write_whole(partial / CARD, card)
        if directory.exists():
            directory.rmdir()
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return spec


def hub_config(spec: ModelSpec, state_dict: StateDict, license: str | None) -> dict[str, Any]:
    """The content of config.json.

    Args:
        spec: the model.
        state_dict: its arrays by torch's names.
        license: identifier; None if it is not stated.
    """
    prepare, classes = spec.preprocessing, len(spec.classes)
    weights = {
        "tag": "",
        "custom_load": False,
        "input_size": [spec.in_channels, prepare.image_size, prepare.image_size],
        "fixed_input_size": False,
        "interpolation": prepare.interpolation,
        "crop_pct": crop_pct(prepare),
        "crop_mode": "squash" if prepare.resize == "stretch" else "center",
        "mean": list(prepare.mean),
        "std": list(prepare.std),
        "num_classes": classes,
        "pool_size": [max(1, prepare.image_size // 32)] * 2,
        "first_conv": "conv1" if "conv1.weight" in state_dict else "conv1.0",
        "classifier": "fc",
        "label_names": list(spec.classes),
    }
    if license:
        weights["license"] = license
    architecture, arguments = _as_timm(spec)
    config: dict[str, Any] = {
        "architecture": architecture or spec.name,
        "num_classes": classes,
        "num_features": int(state_dict["fc.weight"].shape[1]),
        "global_pool": "avg",
    }
    if arguments:
        config["model_args"] = arguments
    if architecture is None:
        config["resnext_jax"] = spec.to_dict()
    return config | {"pretrained_cfg": weights}


def crop_pct(preprocessing: Preprocessing) -> float:
    """The share that timm divides the image size by, so that its whole part is the resize size again."""
    size, resize = preprocessing.image_size, preprocessing.resize_size or preprocessing.image_size
    share = size / resize
    while math.floor(size / share) < resize:
        share = math.nextafter(share, 0)
    return share


def model_card(
    run: Path,
    spec: ModelSpec,
    about: dict[str, Any],
    license: str | None,
    *,
    ema: bool = True,
    is_timms: bool,
) -> str:
    """The text of the card: what was trained on what, how well it does, how to use it.

    Args:
        run: the run directory.
        spec: its model.
        about: its config.json.
        license: identifier; None if it is not stated.
        ema: whether these are the weights that the run's metrics are of.
        is_timms: whether timm reads the folder.
    """
    settings, prepare = about["config"], spec.preprocessing
    tags = ["image-classification", "jax", *(["timm"] if is_timms else [])]
    head = ["---", *([f"license: {license}"] if license else []), "tags:", *(f"- {tag}" for tag in tags)]
    head += ["pipeline_tag: image-classification", *(["library_name: timm"] if is_timms else []), "---"]
    names = ", ".join(spec.classes[:_NAMED]) + (" ..." if len(spec.classes) > _NAMED else "")
    resize_size = prepare.resize_size or prepare.image_size
    facts = {
        "Model": spec.name,
        "Classes": f"{len(spec.classes)}: {names}",
        "Images": f"{prepare.image_size} px, {prepare.resize} from {resize_size} px, "
        f"{prepare.interpolation}; mean {prepare.mean}, standard deviation {prepare.std}",
        "Data": settings.get("data") or "not trained here",
        "Weights it started from" if settings.get("data") else "Converted from": _origin(settings, spec),
        "Command": f"`{about['command']}`" if about.get("command") else "",
        "Licence": license or "not stated",
    } | (_metrics(run) if ema else {"Validation": "not measured: the run validated the moving average"})
    rows = [f"| {name} | {value} |" for name, value in facts.items() if value]
    use = ["```python"]
    if is_timms:
        use += ["import timm", "model = timm.create_model('local-dir:PATH/TO/THIS/FOLDER', pretrained=True)"]
    use += [
        "import resnext_jax as rj",
        f"model = rj.create_model({spec.name!r}, weights='PATH/TO/THIS/FOLDER')",
        "```",
    ]
    title = f"# {spec.name}, {len(spec.classes)} classes"
    return "\n".join([*head, title, "", "| | |", "|---|---|", *rows, "", "## Use", "", *use, ""])


def _metrics(run: Path) -> dict[str, str]:
    """What the run's summary says, if it has one that can be read."""
    try:
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
        top1, loss = summary.get("best_val_top1"), summary.get("best_val_loss")
        found = {"Validation top-1": f"{100 * top1:.2f} %"} if top1 is not None else {}
        return found | ({"Validation loss": f"{loss:.4f}"} if loss is not None else {})
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _origin(settings: dict[str, Any], spec: ModelSpec) -> str:
    weights = settings.get("weights")
    if not weights:
        return "" if settings.get("data") else "not known"
    license = known_license(str(weights), spec.name)
    return f"{weights}, licence {license}" if license else str(weights)


def _as_timm(spec: ModelSpec) -> tuple[str | None, dict[str, Any]]:
    """timm's name of the architecture and arguments that turn it into the model; None if there is none."""
    if spec.name in timm_weights() and get_config(spec.name) == spec.architecture:
        return spec.name, {}
    if not isinstance(spec.architecture, ResNetConfig):
        return None, {}
    arguments = {theirs: getattr(spec.architecture, ours) for theirs, ours in OURS.items()}
    for base in ("resnet50", "resnet18"):
        variant = VARIANTS[base]
        changes = {ours: arguments[theirs] for theirs, ours in OURS.items()}
        if (
            len(spec.architecture.layers) == _STAGES
            and spec.architecture.block == variant.block
            and replace(variant, **changes) == spec.architecture
        ):
            return base, {name: list(v) if isinstance(v, tuple) else v for name, v in arguments.items()}
    return None, {}


def _with_counters(state_dict: StateDict, step: int) -> dict[str, np.ndarray]:
    """With torch's count of the batches that each norm has seen."""
    counters = {
        name.replace("running_mean", "num_batches_tracked"): np.array(step, np.int64)
        for name in state_dict
        if name.endswith("running_mean")
    }
    return dict(sorted((state_dict | counters).items()))
