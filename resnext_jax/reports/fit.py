"""Training with the reports that a run's configuration asks for."""

from collections.abc import Iterator, Sequence

from resnext_jax import training
from resnext_jax.reports.pictures import write_pictures
from resnext_jax.training import FitResult, TrainConfig, Writer


def fit(config: TrainConfig, *, writers: Sequence[Writer] = (), quiet: bool = False) -> FitResult:
    """Train a classifier, keeping the best and the latest state; as `training.fit`, which it calls.

    Pictures of the last validation are written to the run directory, where `watch` shows them.
    TensorBoard's files, Weights & Biases and MLflow are written to if the configuration asks for them.

    Args:
        config: the run.
        writers: called after every epoch, once it is saved, beside the CSV and JSONL that are always written.
        quiet: print nothing.

    Returns:
        History and summary; the run directory holds everything else.

    Raises:
        BadInput: bad configuration or data; nothing was written. For all else see `training.fit`.

    Example:
        >>> import resnext_jax as rj
        >>> config = rj.TrainConfig(data="demo", model="resnext14_32x4d", image_size=64, epochs=2)
        >>> result = rj.fit(config)  # doctest: +SKIP
    """
    config.check()
    return training.fit(config, writers=(write_pictures, *writers, *_asked_for(config)), quiet=quiet)


def _asked_for(config: TrainConfig) -> Iterator[Writer]:
    """The writers that the configuration asks for; each needs a package of an extra."""
    if config.tensorboard:
        from resnext_jax.reports.tensorboard import TensorBoard

        yield TensorBoard()
    if config.wandb:
        from resnext_jax.reports.trackers import WandB

        yield WandB()
    if config.mlflow:
        from resnext_jax.reports.trackers import MLflow

        yield MLflow()
