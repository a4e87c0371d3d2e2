"""What the experiments share: flags, training, and the evaluation of the best checkpoint.

Every experiment takes all flags of `resnext-jax train`, its own recipe being their defaults, and `--smoke`,
which makes a run of seconds of it, on the rendered demo set unless `--data` says otherwise.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import resnext_jax as rj
from resnext_jax import cli
from resnext_jax.reports import tables
from resnext_jax.training import Predictor

SMOKE = {"data": "demo", "data_dir": None, "group_by": None, "image_size": 32, "batch_size": 16}
SMOKE |= {"epochs": 1, "train_limit": 32, "val_limit": 32, "overwrite": True}


def run(
    description: str,
    config: rj.TrainConfig,
    main: Callable[[rj.TrainConfig], object],
    smoke: Mapping[str, Any] | None = None,
) -> None:
    """Run an experiment as a script: where something is wrong, one line and an exit code, as the command has.

    Args:
        description: what `--help` prints first.
        config: the experiment; flags override its fields.
        main: what is done with it.
        smoke: what `--smoke` changes besides `SMOKE`.
    """
    arguments = sys.argv[1:]
    if "--smoke" in arguments:
        arguments.remove("--smoke")
        out = config.out.with_name(f"{config.out.name}_smoke")
        config = replace(config, **SMOKE | {"out": out} | dict(smoke or {}))
    with cli.clean_exit():
        main(cli.parse_train(arguments, config, prog=Path(sys.argv[0]).name, description=description))


def train_and_evaluate(config: rj.TrainConfig, *splits: str) -> Predictor:
    """Train, then load the best checkpoint and evaluate it, on `val` unless splits are named."""
    cli.train(config)
    predictor = rj.load_run(config.out)
    for split in splits or ("val",):
        print(f"{split}, after {predictor.step} steps:")
        tables.print_metrics(predictor.evaluate(split))
    return predictor
