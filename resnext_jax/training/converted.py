"""A run directory made of weights that were trained elsewhere."""

from pathlib import Path

import numpy as np

from resnext_jax.data import Preprocessing
from resnext_jax.training import run
from resnext_jax.training.checkpoint import Checkpoints
from resnext_jax.training.config import TrainConfig
from resnext_jax.training.run import RunInfo
from resnext_jax.training.state import TrainState, split_model
from resnext_jax.weights import identify, preprocessing
from resnext_jax.weights.named import is_name


def convert_to_run(
    source: str | Path,
    directory: Path,
    *,
    model: str | None = None,
    classes: Path | None = None,
    image_size: int | None = None,
) -> RunInfo:
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
        raise ValueError(f"{directory}: exists already; choose another destination")
    name, filled = identify(source, model)
    if filled.in_channels != 3:
        raise ValueError(f"{source}: for images of {filled.in_channels} channels; a run reads RGB images")
    is_run = Path(source).is_dir()
    tells = is_run or is_name(str(source))
    prepare = (
        preprocessing(source, name) if tells and image_size is None else Preprocessing(image_size or 224)
    )
    config = TrainConfig(
        data="",
        model=name,
        weights=str(source),
        image_size=prepare.image_size,
        resize=prepare.resize,
        out=directory,
    )
    info = RunInfo(config, _class_names(source, is_run, classes, filled.fc.out_features), prepare)
    _, params, batch_stats = split_model(filled)
    run.start(directory, info)
    with Checkpoints(directory, create=True) as checkpoints:
        state = TrainState(np.uint32(0), np.int32(0), params, batch_stats, ())
        checkpoints.save(0, state, info.to_dict(), metrics=None)
    return info


def _class_names(source: str | Path, is_run: bool, file: Path | None, count: int) -> tuple[str, ...]:
    if file is not None:
        names = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    elif is_run:
        names = run.read_info(Path(source)).classes
    else:
        names = tuple(map(str, range(count)))
    if len(names) != count or len(set(names)) != count:
        raise ValueError(
            f"{file}: {len(names)} names of classes, {len(set(names))} of them different; the weights "
            f"tell {count} classes apart"
        )
    return names
