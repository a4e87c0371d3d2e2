"""What a run decides after an epoch, as functions of its history.

Nothing else has to be kept for it: a resumed run decides as an uninterrupted one.
"""

import math

from resnext_jax.training.config import Monitor, TrainConfig
from resnext_jax.training.run import Row
from resnext_jax.weights.runs import rank


def monitored(row: Row, monitor: Monitor) -> dict[str, float]:
    """The metrics by which epochs are ranked: the loss, and before it top-1 if that is monitored."""
    names = ("val_top1", "val_loss") if monitor == "top1" else ("val_loss",)
    return {name: row[name] for name in names}


def best_row(history: list[Row], monitor: Monitor = "top1") -> Row:
    """The epoch whose checkpoint is the best; the first of equal ones."""
    return max(history, key=lambda row: rank(monitored(row, monitor)))


def lr_scale(config: TrainConfig, history: list[Row]) -> float:
    """What plateaus of the validation loss have left of the learning rate, as a factor of it.

    As Keras' ReduceLROnPlateau: after `plateau_patience` epochs without a loss lower than the lowest so far
    by more than `plateau_min_delta`, the rate is multiplied by `plateau_factor`, down to `min_lr`, and the
    wait begins anew. Epochs of the warm-up do not count.
    """
    if config.schedule != "plateau":
        return 1.0
    scale, lowest, waited = 1.0, math.inf, 0
    for row in history[config.warmup_epochs :]:
        if row["val_loss"] < lowest - config.plateau_min_delta:
            lowest, waited = row["val_loss"], 0
            continue
        waited += 1
        if waited == config.plateau_patience:
            scale, waited = max(scale * config.plateau_factor, config.min_lr / config.lr), 0
    return scale


def stops_early(config: TrainConfig, history: list[Row]) -> bool:
    """Whether `early_stop` epochs have gone by since the best one."""
    if config.early_stop is None or not history:
        return False
    return history[-1]["epoch"] - best_row(history, config.monitor)["epoch"] >= config.early_stop
