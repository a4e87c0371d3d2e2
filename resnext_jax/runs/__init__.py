"""Runs: the directory, the model that it describes, its history, its checkpoints. Knows no training."""

from resnext_jax.runs.checkpoints import Checkpoints, Damaged, NotSaved, Saved, Which, read_best
from resnext_jax.runs.directory import (
    CONFIG,
    PICTURES,
    SUMMARY,
    claim,
    has_average,
    is_run,
    read_config,
    read_spec,
    saved_steps,
    start,
    write_config,
)
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
    "PICTURES",
    "SUMMARY",
    "Checkpoints",
    "Damaged",
    "ModelSpec",
    "Monitor",
    "NotSaved",
    "Row",
    "Saved",
    "Which",
    "best_row",
    "claim",
    "has_average",
    "is_run",
    "monitored",
    "rank",
    "read_best",
    "read_config",
    "read_history",
    "read_spec",
    "saved_steps",
    "start",
    "to_json",
    "write_config",
    "write_history",
    "write_json",
]
