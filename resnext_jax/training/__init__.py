"""Training: configuration, loss, optimiser, step, and the loop that ties them together."""

from resnext_jax.training.config import TrainConfig, saved_config
from resnext_jax.training.fit import FitResult, fit
from resnext_jax.training.loss import Loss
from resnext_jax.training.progress import Progress, Writer
from resnext_jax.training.setup import prepare_step
from resnext_jax.training.stopping import Interrupted

__all__ = [
    "FitResult",
    "Interrupted",
    "Loss",
    "Progress",
    "TrainConfig",
    "Writer",
    "fit",
    "prepare_step",
    "saved_config",
]
