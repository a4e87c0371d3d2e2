"""What is told after each epoch to those who show or log a run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnext_jax.data import Images
from resnext_jax.runs import ModelSpec, Row
from resnext_jax.training.config import TrainConfig


@dataclass(frozen=True)
class Progress:
    """What writers are given after each epoch.

    Args:
        directory: the run directory.
        spec: model, classes and preprocessing.
        config: configuration of the run.
        history: a row an epoch so far.
        labels: int [N], of the validation images.
        log_probabilities: float32 [N, K], of the same, as predicted after this epoch.
        images: the validation images, with their names and pixels, in the order of the labels.
        samples: makes some training images as the network sees them, augmented anew; uint8 [n, S, S, 3].
    """

    directory: Path
    spec: ModelSpec
    config: TrainConfig
    history: list[Row]
    labels: np.ndarray
    log_probabilities: np.ndarray
    images: Images
    samples: Callable[[], np.ndarray]


Writer = Callable[[Progress], None]
"""Shows or logs a run: any function of its progress."""
