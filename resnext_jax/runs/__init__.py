"""Runs: the directory, the model that it describes, its history, its checkpoints. Knows no training."""

from resnext_jax.runs.checkpoints import Checkpoints, Which, read_best
from resnext_jax.runs.directory import CONFIG, check_free, read_config, read_spec, start, write_config
from resnext_jax.runs.history import (
    Monitor,
    Row,
    best_row,
    monitored,
    rank,
    read_history,
    to_json,
    write_history,
    write_json,
)
from resnext_jax.runs.spec import ModelSpec

__all__ = [
    "CONFIG",
    "Checkpoints",
    "ModelSpec",
    "Monitor",
    "Row",
    "Which",
    "best_row",
    "check_free",
    "monitored",
    "rank",
    "read_best",
    "read_config",
    "read_history",
    "read_spec",
    "start",
    "to_json",
    "write_config",
    "write_history",
    "write_json",
]
