"""The evaluation step of one device: a pure function, to be mapped over devices."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from resnext_jax.data import Normalize
from resnext_jax.devices import Batch
from resnext_jax.models import Tree, merge_model

EvalStep = Callable[[Tree, Batch], jax.Array]


def make_eval_step(graphdef: nnx.GraphDef, normalize: Normalize) -> EvalStep:
    """Predictions of one batch.

    Args:
        graphdef: structure of the model, in evaluation form.
        normalize: uint8 images to floats.

    Returns:
        A function `(model, batch) -> log-probabilities`, float32 [N, K]; model holds `params` and
        `batch_stats`, batch is as in `make_train_step`.
    """

    def eval_step(model: Tree, batch: Batch) -> jax.Array:
        logits = merge_model(graphdef, **model)(normalize(batch["image"]))
        return jax.nn.log_softmax(logits.astype(jnp.float32))

    return eval_step
