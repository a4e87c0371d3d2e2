"""Experiment trackers: Weights & Biases and MLflow get the settings, and each epoch's metrics."""

from typing import Any

import numpy as np

from resnext_jax.errors import MissingPackage
from resnext_jax.runs import Row
from resnext_jax.training import Progress

PROJECT = "resnext-jax"


class WandB:
    """A writer for `fit`: a run of Weights & Biases, as `WANDB_MODE` and its other variables say.

    Args:
        options: arguments of `wandb.init`, such as `project`, `entity` or `mode="offline"`.

    Raises:
        MissingPackage: wandb is not installed.
    """

    def __init__(self, **options: Any) -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingPackage(f"Weights & Biases: {error}; pip install 'resnext-jax[wandb]'") from error
        self._wandb, self._options, self.run = wandb, options, None

    def __call__(self, progress: Progress) -> None:
        rows = progress.history[-1:]
        if self.run is None:  # of a run that goes on, all that it has done
            named = {"project": PROJECT, "name": progress.directory.name, "dir": str(progress.directory)}
            self.run = self._wandb.init(config=progress.config.to_dict(), **named | self._options)
            rows = progress.history
        for row in rows:
            self.run.log(_finite(row), step=int(row["epoch"]))


class MLflow:
    """A writer for `fit`: a run of MLflow, where `MLFLOW_TRACKING_URI` says.

    Args:
        options: arguments of `mlflow.start_run`, such as `experiment_id` or `tags`.

    Raises:
        MissingPackage: mlflow is not installed.
    """

    def __init__(self, **options: Any) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise MissingPackage(
                f"MLflow needs mlflow ({error}): pip install 'resnext-jax[mlflow]'"
            ) from error
        self._mlflow, self._options, self.run = mlflow, options, None

    def __call__(self, progress: Progress) -> None:
        rows = progress.history[-1:]
        if self.run is None:
            self.run = self._mlflow.start_run(**{"run_name": progress.directory.name} | self._options)
            self._mlflow.log_params(progress.config.to_dict())
            rows = progress.history
        for row in rows:
            self._mlflow.log_metrics(_finite(row), step=int(row["epoch"]), run_id=self.run.info.run_id)


def _finite(row: Row) -> dict[str, float]:
    """The metrics of an epoch that are numbers."""
    return {name: value for name, value in row.items() if name != "epoch" and np.isfinite(value)}
