"""A run directory made of weights that were trained elsewhere."""

from pathlib import Path

import numpy as np

from resnext_jax import runs
from resnext_jax.data import Preprocessing
from resnext_jax.errors import BadInput
from resnext_jax.models import split_model
from resnext_jax.runs import ModelSpec
from resnext_jax.weights import identify, is_name, preprocessing


def convert_to_run(
    source: str | Path,
    directory: Path,
    *,
    model: str | None = None,
    classes: Path | None = None,
    image_size: int | None = None,
) -> ModelSpec:
    """Make a run directory of weights, to predict and evaluate with as with a run that was trained here.

    Args:
        source: a file, a run directory, or torchvision's name of weights.
        directory: the new run directory.
        model: name of the variant; None: what the source tells.
        classes: file with the name of a class on each line, in the order of the outputs; None: a run's own,
            else their positions, "0" on.
        image_size: side of the image in pixels; None: what the weights were trained for, where their name or
            their run tells, else 224.

    Returns:
        What the run directory says of the model.

    Raises:
        FileNotFoundError: no source, or no file of classes.
        ConnectionError: a download failed.
        ValueError: the directory is in use, weights that do not fit or are not for RGB images, or another
            number of classes.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise BadInput(f"{directory}: exists already; choose another destination")
    name, filled = identify(source, model)
    if filled.in_channels != 3:
        raise BadInput(f"{source}: for images of {filled.in_channels} channels; a run reads RGB images")
    is_run = Path(source).is_dir()
    tells = is_run or is_name(str(source))
    prepare = (
        preprocessing(source, name) if tells and image_size is None else Preprocessing(image_size or 224)
    )
    names = _class_names(source, is_run, classes, filled.fc.out_features)
    spec = ModelSpec(name, filled.config, names, prepare)
    _, params, batch_stats = split_model(filled)
    settings = {"data": "", "weights": str(source)}
    runs.start(directory, spec, settings)
    with runs.Checkpoints(directory, write=True) as checkpoints:
        variables = {"params": params, "batch_stats": batch_stats}
        meta = spec.to_dict() | {"config": settings}
        checkpoints.save(0, variables, {"step": np.int32(0)}, meta, metrics=None)
    return spec


def _class_names(source: str | Path, is_run: bool, file: Path | None, count: int) -> tuple[str, ...]:
    if file is not None:
        names = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    elif is_run:
        names = runs.read_spec(Path(source)).classes
    else:
        names = tuple(map(str, range(count)))
    if len(names) != count or len(set(names)) != count:
        raise BadInput(
            f"{file}: {len(names)} names of classes, {len(set(names))} of them different; the weights "
            f"tell {count} classes apart"
        )
    return names
