"""Optimisers and learning-rate schedules, as optax transformations."""

import optax

from resnext_jax.training.config import TrainConfig


def make_schedule(config: TrainConfig, steps_per_epoch: int) -> optax.Schedule:
    """Learning rate as a function of the step, counted from 0."""
    warmup = config.warmup_epochs * steps_per_epoch
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(config.lr, config.epochs * steps_per_epoch - warmup)
    else:
        # Without milestones, the constant schedule. Counted from the end of the warm-up.
        drops = {milestone * steps_per_epoch - warmup: 0.1 for milestone in config.milestones}
        after = optax.piecewise_constant_schedule(config.lr, drops)
    if not warmup:
        return after
    return optax.join_schedules(
        [optax.linear_schedule(config.lr / warmup, config.lr, warmup - 1), after], [warmup]
    )


def make_optimizer(config: TrainConfig, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimiser of a run; sgd and adam follow torch.optim.SGD and torch.optim.Adam."""
    schedule = make_schedule(config, steps_per_epoch)
    if config.optimizer == "adamw":
        return optax.adamw(schedule, weight_decay=config.weight_decay)
    # torch adds the decay to the gradient, before momentum and moments see it.
    decay = optax.add_decayed_weights(config.weight_decay) if config.weight_decay else optax.identity()
    if config.optimizer == "adam":
        return optax.chain(decay, optax.adam(schedule))
    return optax.chain(decay, optax.sgd(schedule, config.momentum or None, config.nesterov))
