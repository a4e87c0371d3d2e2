"""Training state: plain nested dictionaries of arrays, ordinary pytrees for optax, pmap and Orbax."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from resnext_jax.models import Tree


class TrainState(NamedTuple):
    """All that changes during training, and the seed (as a constant, it would make each seed compile anew).

    `params` and `batch_stats` are nested by attribute, as in {"layer1": {"0": {"conv1": {"kernel": ...}}}}.
    `lr_scale` is the factor by which plateaus have reduced the schedule's learning rate. `ema` holds the
    moving average of both trees, {"params": ..., "batch_stats": ...}, if the run keeps one.
    """

    seed: jax.Array
    step: jax.Array
    params: Tree
    batch_stats: Tree
    opt_state: optax.OptState
    lr_scale: jax.Array | np.float32 = np.float32(1)
    ema: Tree | None = None

    @property
    def model(self) -> Tree:
        """What is evaluated, exported and best: {"params": ..., "batch_stats": ...}, averaged if kept so."""
        return self.ema or {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def rest(self) -> Tree:
        """All but `model`: what only resuming needs. With an average these are the raw weights, too."""
        model = ("params", "batch_stats", "ema") if self.ema is None else ("ema",)
        return {name: value for name, value in self._asdict().items() if name not in model}

    def replaced(self, model: Tree, rest: Tree) -> "TrainState":
        """The state whose `model` and `rest` are these."""
        return TrainState(**rest, **model) if self.ema is None else TrainState(**rest, ema=model)


def create_state(
    params: Tree,
    batch_stats: Tree,
    optimizer: optax.GradientTransformation,
    seed: int,
    *,
    ema: bool = False,
) -> TrainState:
    """State of a run that has not made a step.

    Args:
        params: initial parameters.
        batch_stats: initial batch statistics.
        optimizer: of the run.
        seed: of the augmentation.
        ema: keep a moving average.
    """
    # Copies: the step takes its argument's memory, which it could not from two arrays that share theirs.
    average = {"params": params, "batch_stats": batch_stats}
    return TrainState(
        jnp.uint32(seed),
        jnp.int32(0),
        params,
        batch_stats,
        optimizer.init(params),
        jnp.float32(1),
        jax.tree.map(jnp.copy, average) if ema else None,
    )
