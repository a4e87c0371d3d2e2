"""What the experiments share: flags, training, evaluation of the best checkpoint, images to predict.

Every experiment takes all flags of `resnext-jax train`, its own recipe being their defaults; `--smoke`, which
makes a run of seconds of it, on the rendered demo set unless `--data` says otherwise; and, where its source
differs from the standard network, `--exact`, which takes the source's.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import resnext_jax as rj
from resnext_jax import cli
from resnext_jax.data import Source
from resnext_jax.data.images import decode
from resnext_jax.inference import Predictor
from resnext_jax.reports import tables
from resnext_jax.runs import write_json

SMOKE = {"data": "demo", "data_dir": None, "group_by": None, "model": "resnet18", "image_size": 32}
SMOKE |= {"epochs": 1, "batch_size": 16, "train_limit": 32, "val_limit": 32, "overwrite": True}


def run(
    description: str,
    config: rj.TrainConfig,
    main: Callable[[rj.TrainConfig], object],
    smoke: Mapping[str, Any] | None = None,
    exact: Mapping[str, Any] | None = None,
) -> None:
    """Run an experiment as a script: where something is wrong, one line and an exit code, as the command has.

    Args:
        description: what `--help` prints first.
        config: the experiment; flags override its fields.
        main: what is done with it.
        smoke: what `--smoke` changes besides `SMOKE`.
        exact: what `--exact` changes.
    """
    arguments = sys.argv[1:]
    if "--smoke" in arguments:
        arguments.remove("--smoke")
        out = config.out.with_name(f"{config.out.name}_smoke")
        config = replace(config, **SMOKE | {"out": out} | dict(smoke or {}))
    if "--exact" in arguments and exact is not None:
        arguments.remove("--exact")
        config = replace(config, **exact)
    with cli.clean_exit():
        main(cli.parse_train(arguments, config, prog=Path(sys.argv[0]).name, description=description))


def train_and_evaluate(config: rj.TrainConfig, *splits: str) -> tuple[Predictor, dict[str, Any]]:
    """Train; then load the best checkpoint and evaluate it, on `val` unless splits are named.

    Returns:
        The trained model, and its metrics by split, which are in `evaluation.json` too.
    """
    cli.train(config)
    predictor = rj.load_run(config.out)
    metrics = {}
    for split in splits or ("val",):
        metrics[split] = predictor.evaluate(split)
        print(f"{split}, {metrics[split]['images']} images, after {predictor.step} steps:")
        tables.print_metrics(metrics[split])
    write_json(config.out / "evaluation.json", metrics)
    return predictor, metrics


def save_images(config: rj.TrainConfig, split: str, count: int) -> Path:
    """Write some images of a split, spread evenly over it, to `images/CLASS/` in the run directory.

    Args:
        config: of the run.
        split: where to take them from.
        count: how many, at most.

    Returns:
        The folder `images`.
    """
    source = config.open().split(split)
    for i in np.unique(np.linspace(0, len(source) - 1, count).round().astype(int)):
        save_image(source, i, config.out / "images", Path(source.keys[i]).stem)
    return config.out / "images"


def save_image(source: Source, index: int, folder: Path, stem: str) -> None:
    """Write an image of a source to `CLASS/STEM.png` in a folder."""
    record = source[index]
    file = folder / source.classes[record["label"]] / f"{stem}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(decode(record["image"], record["key"])).save(file)
