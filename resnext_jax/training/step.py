"""The training step of one device: a pure function, to be mapped over devices.

It runs under a mapped axis named `AXIS`. What it returns is the same on every device: gradients, batch
statistics and metric sums are reduced over the axis here, and nowhere else.
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.flatten_util import ravel_pytree

from resnext_jax.data import Normalize
from resnext_jax.data.augment import Augment, Mix
from resnext_jax.devices import AXIS, Batch
from resnext_jax.inference import Sums, metric_sums, zero_sums
from resnext_jax.models import Tree, merge_model, split_model, trainable_mask
from resnext_jax.training.ema import update_ema
from resnext_jax.training.loss import Loss
from resnext_jax.training.state import TrainState

TrainStep = Callable[[TrainState, Sums, Batch], tuple[TrainState, Sums]]


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    normalize: Normalize,
    augment: Augment,
    loss: Loss,
    *,
    mix: Mix | None = None,
    frozen: Sequence[str] = (),
    accumulate: int = 1,
    ema_decay: float | None = None,
    skip_nan: bool = False,
    stochastic: bool = False,
) -> TrainStep:
    """One step of gradient descent on the global batch.

    Args:
        graphdef: structure of the model, in training form.
        optimizer: from gradients to updates.
        normalize: uint8 images to floats.
        augment: `(keys [N], uint8 images [N, H, W, C]) -> images`, one key an example. The seed and the step
            of the state and the position in the global batch fix every draw, so neither a resumed run nor
            another number of devices changes them.
        loss: of each example; its mean over the global batch is minimised.
        mix: `(keys [N], images, targets [N, K]) -> (images, targets)`, after the augmentation.
        frozen: prefixes of parameters that are not trained, as in `trainable_mask`; no gradient is computed
            for them, while the optimiser sees to it that nothing else moves them.
        accumulate: number of parts into which each device divides its share of the batch. It computes one
            after the other, which takes less memory; their gradients add up to the batch's. Batch norms in
            training form differ: they normalise each part by itself and update their running statistics
            once a part.
        ema_decay: of the moving average, for a state that keeps one.
        skip_nan: leave the state as it is, but for the number of steps, if the loss or the gradient is not
            finite.
        stochastic: the model draws random numbers in training (`drop_path`), so it is given a key for each
            image, which the seed, the step and the position in the global batch fix.

    Returns:
        A function `(state, sums, batch) -> (state, sums)`; batch holds this device's `image` uint8
        [N, H, W, C], `label` int32 [N] and `mask` bool [N]. It adds to those sums of `zero_sums` and
        `step_sums` that the argument has.
    """

    def train_step(state: TrainState, sums: Sums, batch: Batch) -> tuple[TrainState, Sums]:
        labels, mask = batch["label"], batch["mask"]
        positions = jax.lax.axis_index(AXIS) * len(labels) + jnp.arange(len(labels))
        step_key = jax.random.fold_in(jax.random.key(state.seed), state.step)
        augment_key, mix_key = jax.random.split(step_key)
        model_key = jax.random.fold_in(step_key, 2)  # a third one, which leaves the two as they were
        keys_of = jax.vmap(jax.random.fold_in, (None, 0))
        images = augment(keys_of(augment_key, positions), batch["image"])
        targets = loss.targets(labels)
        if mix is not None:
            images, targets = mix(keys_of(mix_key, positions), images, targets)
        total = jax.lax.psum(jnp.sum(mask), AXIS)

        def add_part(carry: tuple, part: tuple) -> tuple:
            grads, batch_stats, sums = carry
            images, targets, labels, mask, positions = part
            # Each part waits for the gradients of those before it, or the compiler would hold the activations
            # of all at once: on CPU it drops barriers, and is many times slower at convolutions in loops.
            images = normalize(images) + 0 * sum(leaf.ravel()[0] for leaf in jax.tree.leaves(grads))

            def objective(params: Tree) -> tuple:
                model = merge_model(graphdef, _hold(params, frozen), batch_stats)
                logits = model(images, keys_of(model_key, positions)) if stochastic else model(images)
                losses = loss(logits, targets)
                _, _, moved = split_model(model)
                return jnp.sum(jnp.where(mask, losses, 0)) / total, (moved, logits, losses)

            more, (moved, logits, losses) = jax.grad(objective, has_aux=True)(state.params)
            more_sums = metric_sums(logits, losses, labels, mask)
            return _add(grads, more), moved, _add(sums, more_sums)

        nothing = jax.tree.map(jnp.zeros_like, state.params), state.batch_stats, zero_sums(loss.num_classes)
        parts = (x.reshape(accumulate, -1, *x.shape[1:]) for x in (images, targets, labels, mask, positions))
        grads, batch_stats, more_sums = reduce(add_part, zip(*parts, strict=True), nothing)
        if jax.lax.axis_size(AXIS) > 1:  # XLA's CPU backend copies the gradients to sum those of one device
            grads, more_sums, batch_stats = _summed((grads, more_sums, batch_stats))
            batch_stats = jax.tree.map(lambda leaf: leaf / jax.lax.axis_size(AXIS), batch_stats)

        norm, old = optax.tree.norm(grads), state

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        updates = jax.tree.map(lambda update: state.lr_scale * update, updates)
        params = optax.apply_updates(state.params, updates)
        state = state._replace(
            step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state
        )
        if state.ema is not None:
            assert ema_decay is not None  # the state was created by the same configuration
            model = {"params": params, "batch_stats": batch_stats}
            state = state._replace(ema=update_ema(state.ema, model, state.step, ema_decay))
        more_sums |= {"grad_norm": norm * more_sums["count"], "skipped": jnp.float32(0)}
        if skip_nan:
            good = jnp.isfinite(norm) & jnp.isfinite(more_sums["loss"])
            state = jax.tree.map(partial(jnp.where, good), state, old._replace(step=state.step))
            more_sums = {name: jnp.where(good, value, 0) for name, value in more_sums.items()}
            more_sums["skipped"] = jnp.float32(~good)
        return state, {name: total + more_sums[name] for name, total in sums.items()}

    return train_step


def step_sums(num_classes: int) -> Sums:
    """The sums before the first step: those of `zero_sums`, the gradient's norm (times the number of images,
    as the others, so that its mean is over steps), and the number of skipped steps."""
    return zero_sums(num_classes) | {"grad_norm": jnp.zeros(()), "skipped": jnp.zeros(())}


def _hold(params: Tree, frozen: Sequence[str]) -> Tree:
    """The parameters, the frozen ones as constants."""
    if not frozen:
        return params
    trained = trainable_mask(params, frozen)
    return jax.tree.map(lambda p, t: p if t else jax.lax.stop_gradient(p), params, trained)


def _add(a: Tree, b: Tree) -> Tree:
    return jax.tree.map(jnp.add, a, b)


def _summed(tree: Any) -> Any:
    """The sums over the axis of all arrays, which are float32."""
    if jax.default_backend() != "cpu" or jax.process_count() == 1:
        return jax.lax.psum(tree, AXIS)
    # On CPU, each array is a message between processes, and each message keeps them waiting for some ms.
    flat, unflatten = ravel_pytree(tree)
    return unflatten(jax.lax.psum(flat, AXIS))
