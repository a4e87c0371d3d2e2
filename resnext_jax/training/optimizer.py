"""Optimisers and learning-rate schedules, as optax transformations."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from resnext_jax.models import Tree, trainable_mask
from resnext_jax.training.config import LAYERWISE, TrainConfig


def make_schedule(config: TrainConfig, steps_per_epoch: int) -> optax.Schedule:
    """Learning rate as a function of the step, counted from 0; under `plateau`, before it is reduced."""
    total, warmup = config.epochs * steps_per_epoch, config.warmup * steps_per_epoch
    if config.schedule == "onecycle":
        return _onecycle(config.peak_lr, total)
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(
            config.peak_lr, total - warmup, alpha=config.min_lr / config.peak_lr
        )
    else:
        # Without milestones, the constant schedule. Counted from the end of the warm-up.
        within = (milestone for milestone in config.milestones if milestone < config.epochs)
        drops = {milestone * steps_per_epoch - warmup: 0.1 for milestone in within}
        after = optax.piecewise_constant_schedule(config.peak_lr, drops)
    if not warmup:
        return after
    return optax.join_schedules(
        [optax.linear_schedule(config.peak_lr / warmup, config.peak_lr, warmup - 1), after], [warmup]
    )


def _onecycle(lr: float, total: int) -> optax.Schedule:
    """Half cosines from lr / 25 to lr in the first 30 % of the steps, then to lr / 250,000, as torch."""
    first, last = lr / 25, lr / 25 / 1e4
    peak = max(0.3 * total - 1, 0.5)

    def rate(step: Any) -> jax.Array:
        rising = step < peak
        way = jnp.where(rising, step / peak, (step - peak) / (total - 1 - peak))
        start, end = jnp.where(rising, first, lr), jnp.where(rising, lr, last)
        return start + (end - start) * (1 - jnp.cos(jnp.pi * way)) / 2

    return rate


def make_optimizer(config: TrainConfig, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimiser of a run.

    sgd, adam and adamw follow torch.optim's, lars You et al. 2017 (arXiv 1708.03888), lamb You et al. 2020
    (arXiv 1904.00962); the gradient is clipped before all else.
    Frozen parameters get no update and have no state. `layer_decay` lowers the rates stage by stage towards
    the input, weight decay included, as timm's does block by block. If `head_lr` is given, it is the head's
    rate, under the same schedule.
    """
    decay = optax.stateless(lambda updates, params: _add_decay(config, updates, params))
    momentum = optax.trace(config.momentum, config.nesterov) if config.momentum else optax.identity()
    rate = optax.scale_by_learning_rate(make_schedule(config, steps_per_epoch))
    # torch adds the decay to the gradient, before momentum and moments see it; adamw and lamb after it. The
    # momentum of lars is that of steps, whose rates differ, not of gradients.
    parts = {
        "sgd": [decay, momentum, rate],
        "adam": [decay, optax.scale_by_adam(), rate],
        "adamw": [optax.scale_by_adam(), decay, rate],
        "lars": [decay, _by_trust_ratio(0.001), rate, momentum],
        "lamb": [optax.scale_by_adam(eps=1e-6), decay, _by_trust_ratio(1.0), rate],
    }[config.optimizer]
    if config.clip_grad_norm is not None:
        parts.insert(0, optax.clip_by_global_norm(config.clip_grad_norm))
    if config.head_lr is not None:
        parts.append(optax.masked(optax.scale(config.head_lr / config.peak_lr), _is_head))
    # Only if asked for: the saved state of runs without it has no place for it.
    if config.layer_decay != 1:
        parts.append(optax.stateless(lambda updates, _: _decay_layers(config.layer_decay, updates)))
    if not config.freeze:
        return optax.chain(*parts)

    def labels(params: Tree) -> Tree:
        return jax.tree.map(lambda t: "trained" if t else "frozen", trainable_mask(params, config.freeze))

    return optax.partition({"trained": optax.chain(*parts), "frozen": optax.set_to_zero()}, labels)


def _by_trust_ratio(coefficient: float) -> optax.GradientTransformation:
    """Scale the update of each layer to the norm of its parameters; biases and norms are left out."""
    ratio = optax.scale_by_trust_ratio(trust_coefficient=coefficient)
    return optax.masked(ratio, lambda params: jax.tree.map(lambda param: param.ndim > 1, params))


def _is_head(params: Tree) -> Tree:
    return jax.tree.map_with_path(lambda path, _: path[0].key == "fc", params)


def _decay_layers(factor: float, updates: Any) -> Any:
    """Multiply each stage's updates by the factor, once for each step down from the head."""
    stages = sum(name.startswith("layer") and name[5:].isdigit() for name in updates)
    # What lies between the last stage and the head (the norm of a v2 network) goes with that stage; the rest,
    # whatever layers it has, is the stem.
    depths = {f"layer{number}": stages + 1 - number for number in range(1, stages + 1)} | {"fc": 0, "norm": 1}
    rates = {name: factor ** depths.get(name, stages + 1) for name in updates}
    return {name: optax.tree.scale(rates[name], part) for name, part in updates.items()}


def _add_decay(config: TrainConfig, updates: Any, params: Any) -> Any:
    """Add the parameters, times their decay, to the updates."""
    paths = [path for path, _ in jax.tree.leaves_with_path(params)]
    norms = {path[:-1] for path in paths if _name(path) == "scale"}
    of_bias, of_norm = (
        0.0 if decay is None and config.optimizer in LAYERWISE else decay
        for decay in (config.bias_weight_decay, config.norm_weight_decay)
    )

    def rate(path: tuple[Any, ...]) -> float:
        if _name(path) == "bias" and of_bias is not None:
            return of_bias
        if path[:-1] in norms and of_norm is not None:
            return of_norm
        return config.weight_decay

    def add(path: tuple[Any, ...], update: jax.Array, param: jax.Array) -> jax.Array:
        return update + rate(path) * param if rate(path) else update

    return jax.tree.map_with_path(add, updates, params)


def _name(path: tuple[Any, ...]) -> str:
    return path[-1].key if path else ""
