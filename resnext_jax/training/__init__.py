"""Training: configuration, loss, optimiser, step, and the loop that ties them together."""

from resnext_jax.training.config import TrainConfig, saved_config
from resnext_jax.training.fit import FitResult, fit
from resnext_jax.training.progress import Progress, Writer
from resnext_jax.training.stopping import Interrupted

__all__ = [
    "FitResult",
    "Interrupted",
    "Progress",
    "TrainConfig",
    "Writer",
    "fit",
    "saved_config",
]
