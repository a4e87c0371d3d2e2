"""Training and evaluation step of one device: pure functions, to be mapped over devices.

Both run under a mapped axis named `AXIS`. What they return is the same on every device: gradients, batch
statistics and metric sums are reduced over the axis here, and nowhere else.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from resnext_jax.models import trainable_mask
from resnext_jax.training.metrics import Sums, cross_entropy, metric_sums
from resnext_jax.training.state import TrainState, Tree, merge_model, split_model

AXIS = "batch"

Batch = dict[str, jax.Array]
Augment = Callable[[jax.Array, jax.Array], jax.Array]
TrainStep = Callable[[TrainState, Sums, Batch], tuple[TrainState, Sums]]
EvalStep = Callable[[TrainState, Sums, Batch], Sums]


class Normalize(NamedTuple):
    """uint8 [N, H, W, C] to (x / 255 - mean) / std, float32."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: jax.Array) -> jax.Array:
        mean, std = jnp.asarray(self.mean, jnp.float32), jnp.asarray(self.std, jnp.float32)
        return (images.astype(jnp.float32) / 255 - mean) / std


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    normalize: Normalize,
    augment: Augment,
    frozen: Sequence[str] = (),
) -> TrainStep:
    """One step of gradient descent on the global batch.

    Args:
        graphdef: structure of the model, in training form.
        optimizer: from gradients to updates.
        normalize: uint8 images to floats.
        augment: `(keys [N], uint8 images [N, H, W, C]) -> images`, one key an example. The seed and the step
            of the state and the position in the global batch fix every draw, so neither a resumed run nor
            another number of devices changes them.
        frozen: prefixes of parameters that are not trained, as in `trainable_mask`; no gradient is computed
            for them, while the optimiser sees to it that nothing else moves them.

    Returns:
        A function `(state, sums, batch) -> (state, sums)`; batch holds this device's `image` uint8
        [N, H, W, C], `label` int32 [N] and `mask` bool [N]. The loss is the mean over the global batch.
    """

    def train_step(state: TrainState, sums: Sums, batch: Batch) -> tuple[TrainState, Sums]:
        labels, mask = batch["label"], batch["mask"]
        positions = jax.lax.axis_index(AXIS) * len(labels) + jnp.arange(len(labels))
        key = jax.random.fold_in(jax.random.key(state.seed), state.step)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, positions)
        images = normalize(augment(keys, batch["image"]))
        total = jax.lax.psum(jnp.sum(mask), AXIS)

        def objective(params):
            model = merge_model(graphdef, _hold(params, frozen), state.batch_stats)
            logits = model(images)
            losses = cross_entropy(logits, labels)
            _, _, batch_stats = split_model(model)
            return jnp.sum(jnp.where(mask, losses, 0)) / total, (logits, losses, batch_stats)

        grads, (logits, losses, batch_stats) = jax.grad(objective, has_aux=True)(state.params)
        grads = jax.lax.psum(grads, AXIS)
        batch_stats = jax.lax.pmean(batch_stats, AXIS)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = TrainState(state.seed, state.step + 1, params, batch_stats, opt_state)
        return state, _add(sums, metric_sums(logits, losses, labels, mask))

    return train_step


def make_eval_step(graphdef: nnx.GraphDef, normalize: Normalize) -> EvalStep:
    """Metric sums of one batch.

    Args:
        graphdef: structure of the model, in evaluation form.
        normalize: uint8 images to floats.

    Returns:
        A function `(state, sums, batch) -> sums`, batch as in `make_train_step`.
    """

    def eval_step(state: TrainState, sums: Sums, batch: Batch) -> Sums:
        model = merge_model(graphdef, state.params, state.batch_stats)
        logits = model(normalize(batch["image"]))
        losses = cross_entropy(logits, batch["label"])
        return _add(sums, metric_sums(logits, losses, batch["label"], batch["mask"]))

    return eval_step


def _hold(params: Tree, frozen: Sequence[str]) -> Tree:
    """The parameters, the frozen ones as constants."""
    if not frozen:
        return params
    trained = trainable_mask(params, frozen)
    return jax.tree.map(lambda p, t: p if t else jax.lax.stop_gradient(p), params, trained)


def _add(sums: Sums, more: Sums) -> Sums:
    return jax.tree.map(jnp.add, sums, jax.lax.psum(more, AXIS))
