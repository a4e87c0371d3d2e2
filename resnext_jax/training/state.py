"""Training state: plain nested dictionaries of arrays, ordinary pytrees for optax, pmap and Orbax."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

Tree = dict[str, Any]


class TrainState(NamedTuple):
    """All that changes while a run is trained, and its seed (a constant of the step would compile anew).

    `params` and `batch_stats` are nested by attribute, as in {"layer1": {"0": {"conv1": {"kernel": ...}}}}.
    `lr_scale` is what plateaus have left of the schedule's learning rate. `ema` holds the moving average of
    both trees, {"params": ..., "batch_stats": ...}, in a run that keeps one.
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


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, Tree, Tree]:
    """Structure, parameters and batch statistics of a model."""
    graphdef, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graphdef, _plain(params), _plain(batch_stats)


def merge_model(graphdef: nnx.GraphDef, params: Tree, batch_stats: Tree) -> nnx.Module:
    """The model again; a fresh one at each call, so that it can be merged inside a traced function."""
    return nnx.merge(graphdef, nnx.State(_keyed(params)), nnx.State(_keyed(batch_stats)), copy=True)


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


def _plain(state: nnx.State) -> Tree:
    def walk(tree: dict) -> Tree:
        return {str(key): walk(value) if isinstance(value, dict) else value for key, value in tree.items()}

    return walk(nnx.to_pure_dict(state))


def _keyed(tree: Tree) -> dict:
    # List positions are integers in NNX; Orbax and JSON know text keys only.
    return {
        int(key) if key.isdigit() else key: _keyed(value) if isinstance(value, dict) else value
        for key, value in tree.items()
    }
