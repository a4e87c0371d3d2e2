"""Training: configuration, steps, data parallelism, checkpoints, and the loop that ties them together."""

from resnext_jax.training.checkpoint import Which
from resnext_jax.training.config import Monitor, TrainConfig
from resnext_jax.training.converted import convert_to_run
from resnext_jax.training.decisions import best_row
from resnext_jax.training.fit import FitResult, fit
from resnext_jax.training.predictor import Predictions, Predictor, load_run
from resnext_jax.training.run import Progress, Row, Writer, read_info, to_json, write_json
from resnext_jax.training.setup import read_dataset
from resnext_jax.training.stopping import Interrupted

__all__ = [
    "FitResult",
    "Interrupted",
    "Monitor",
    "Predictions",
    "Predictor",
    "Progress",
    "Row",
    "TrainConfig",
    "Which",
    "Writer",
    "best_row",
    "convert_to_run",
    "fit",
    "load_run",
    "read_dataset",
    "read_info",
    "to_json",
    "write_json",
]
