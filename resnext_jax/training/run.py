"""The run directory: configuration, history and summary as files that people and scripts read."""

import csv
import io
import json
import math
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnext_jax.data import Preprocessing
from resnext_jax.training.config import TrainConfig

Row = dict[str, float]


@dataclass(frozen=True)
class RunInfo:
    """What a model needs to be rebuilt and fed: kept in every checkpoint and in `config.json`."""

    config: TrainConfig
    classes: tuple[str, ...]
    preprocessing: Preprocessing

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "config": self.config.to_dict(),
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunInfo":
        """Back from `to_dict`; further keys are ignored."""
        return cls(
            TrainConfig.from_dict(values["config"]),
            tuple(values["classes"]),
            Preprocessing.from_dict(values["preprocessing"]),
        )


@dataclass(frozen=True)
class Progress:
    """What writers are given after each epoch.

    Args:
        directory: the run directory.
        info: configuration, classes and preprocessing.
        history: a row an epoch so far.
        labels: int [N], of the validation images.
        log_probabilities: float32 [N, K], of the same, as predicted after this epoch.
        samples: makes some training images as the network sees them, augmented anew; uint8 [n, S, S, 3].
    """

    directory: Path
    info: RunInfo
    history: list[Row]
    labels: np.ndarray
    log_probabilities: np.ndarray
    samples: Callable[[], np.ndarray]


Writer = Callable[[Progress], None]
"""Shows or logs a run: any function of its progress."""


def check_free(directory: Path, *, overwrite: bool) -> None:
    """Check, before anything is read, that a new run may be written to the directory.

    Raises:
        ValueError: something is there that may not be replaced.
    """
    if not directory.exists():
        return
    if not directory.is_dir():
        raise ValueError(f"{directory}: not a directory; choose another --out")
    if any(directory.iterdir()):
        if not overwrite:
            raise ValueError(f"{directory}: exists already; use --resume, --overwrite or another --out")
        if not (directory / "config.json").is_file():
            raise ValueError(f"{directory}: not a run directory (no config.json), so it is not overwritten")


def start(directory: Path, info: RunInfo) -> None:
    """Make a new run directory, in the place of an older run's, with `config.json`."""
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    write_config(directory, info)


def write_config(directory: Path, info: RunInfo) -> None:
    """Write `config.json`: configuration, classes, preprocessing, versions, devices, the exact command."""
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "resnext-jax")
    about = {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "devices": [device.device_kind for device in jax.devices()],
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    write_json(directory / "config.json", info.to_dict() | about)


def read_info(directory: Path) -> RunInfo:
    """Configuration, classes and preprocessing of the run in a directory.

    Raises:
        FileNotFoundError: there is no run.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{directory}: no run here (no config.json); train one, or check the path")
    return RunInfo.from_dict(json.loads(path.read_text()))


def write_history(directory: Path, history: list[Row]) -> None:
    """Write `history.csv` and `history.jsonl`, one row an epoch."""
    _replace(directory / "history.jsonl", "".join(to_json(row) + "\n" for row in history))
    if not history:
        return
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(history[-1]), lineterminator="\n")
    table.writeheader()
    table.writerows(history)
    _replace(directory / "history.csv", text.getvalue())


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    _replace(path, to_json(values, indent=2) + "\n")


def to_json(values: dict[str, Any], indent: int | None = None) -> str:
    """As JSON; NaN and infinity, which JSON has not, become null."""
    return json.dumps(_finite(values), indent=indent, ensure_ascii=False)


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
