"""Training: configuration, steps, data parallelism, checkpoints, and the loop that ties them together."""

from resnext_jax.training.checkpoint import Which
from resnext_jax.training.config import TrainConfig
from resnext_jax.training.fit import FitResult, fit
from resnext_jax.training.predictor import Predictions, Predictor, load_run
from resnext_jax.training.run import Row, Writer, best_row, read_info
from resnext_jax.training.stopping import Interrupted

__all__ = [
    "FitResult",
    "Interrupted",
    "Predictions",
    "Predictor",
    "Row",
    "TrainConfig",
    "Which",
    "Writer",
    "best_row",
    "fit",
    "load_run",
    "read_info",
]
