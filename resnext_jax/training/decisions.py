"""What a run decides after an epoch, as functions of its history.

Nothing else has to be kept for it: a resumed run decides as an uninterrupted one.
"""

import math

from resnext_jax.runs import Row, best_row
from resnext_jax.training.config import TrainConfig


def lr_scale(config: TrainConfig, history: list[Row]) -> float:
    """The factor by which plateaus of the validation loss have reduced the learning rate.

    As Keras' ReduceLROnPlateau: after `plateau_patience` epochs without a loss lower than the lowest so far
    by more than `plateau_min_delta`, the rate is multiplied by `plateau_factor`, down to `min_lr`, and the
    wait begins anew. Epochs of the warm-up do not count.
    """
    if config.schedule != "plateau":
        return 1.0
    scale, lowest, waited = 1.0, math.inf, 0
    for row in history[config.warmup :]:
        if row["val_loss"] < lowest - config.plateau_min_delta:
            lowest, waited = row["val_loss"], 0
            continue
        waited += 1
        if waited == config.plateau_patience:
            scale, waited = max(scale * config.plateau_factor, config.min_lr / config.peak_lr), 0
    return scale


def stops_early(config: TrainConfig, history: list[Row]) -> bool:
    """Whether `early_stop` epochs have gone by since the best one."""
    if config.early_stop is None or not history:
        return False
    return history[-1]["epoch"] - best_row(history, config.monitor)["epoch"] >= config.early_stop
