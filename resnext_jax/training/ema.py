"""Moving average of the weights (Polyak & Juditsky 1992): steadier than the weights of any one step."""

import jax
import jax.numpy as jnp

from resnext_jax.models import Tree


def update_ema(average: Tree, model: Tree, step: jax.Array, decay: float) -> Tree:
    """Move the average towards the model.

    Args:
        average: {"params": ..., "batch_stats": ...}; batch statistics are averaged with the parameters that
            they belong to.
        model: the same, after the step.
        step: steps made, this one included; the decay rises with it, (1 + step) / (10 + step) at most, so
            that a short run is not held to its random beginning.
        decay: share of the old average that is kept in each step.
    """
    rising = (1 + step) / (10 + step)
    kept = jnp.minimum(decay, rising).astype(jnp.float32)
    return jax.tree.map(lambda old, new: kept * old + (1 - kept) * new, average, model)
