"""The cases in JAX: the steps that training and evaluation use, and single convolutions."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from resnext_jax import ops
from resnext_jax.benchmark.cases import LayerCase, StepCase
from resnext_jax.data import Preprocessing
from resnext_jax.devices import DataParallel
from resnext_jax.inference import make_eval_step, zero_sums
from resnext_jax.models import ResNet, split_model
from resnext_jax.training import Loss, TrainConfig, prepare_step

Convolution = Callable[..., jax.Array]
NORMALIZE = Preprocessing().normalize


def prepare_jax(case: StepCase | LayerCase, *, ours: bool) -> tuple[Callable[[], None], float]:
    """What runs a case once, compiled; and the seconds that compiling took.

    Args:
        case: what to run.
        ours: with the operators of `resnext_jax.ops`, or with XLA's own convolution.
    """
    convolution = ops.conv_general_dilated if ours else jax.lax.conv_general_dilated
    if isinstance(case, LayerCase):
        return _layer(case, convolution)
    dtype = jnp.dtype(case.dtype)
    model = ResNet(case.config, dtype=dtype, conv_general_dilated=convolution, rngs=nnx.Rngs(0))
    prepare = train_step if case.train else eval_step
    return prepare(model, case.batch_size, case.image_size)


def train_step(
    model: ResNet, batch_size: int, image_size: int, config: TrainConfig | None = None
) -> tuple[Callable[[], None], float]:
    """What makes one training step on one device, compiled; and the seconds that compiling took.

    Args:
        model: the network; the call puts it into training form.
        batch_size: images in a step.
        image_size: side of the images in pixels.
        config: optimiser and augmentation; by default SGD with momentum, and none.
    """
    config = TrainConfig(lr=0.01) if config is None else config
    loss, parallel = Loss(model.num_classes), DataParallel(1)
    step, state = prepare_step(config, model, NORMALIZE, loss, steps_per_epoch=1)
    state, sums = parallel.replicate((state, zero_sums(loss.num_classes)))
    batch = parallel.split(random_batch(batch_size, image_size, loss.num_classes))
    begin = time.perf_counter()
    compiled = parallel.compile_train_step(step, state, sums, batch)
    compile_seconds = time.perf_counter() - begin

    def run() -> None:
        nonlocal state, sums
        state, sums = jax.block_until_ready(compiled(state, sums, batch))

    return run, compile_seconds


def eval_step(model: ResNet, batch_size: int, image_size: int) -> tuple[Callable[[], None], float]:
    """What predicts one batch on one device, compiled; and the seconds that compiling took.

    Args:
        model: the network; the call puts it into evaluation form.
        batch_size: images in a step.
        image_size: side of the images in pixels.
    """
    model.eval()
    graphdef, params, batch_stats = split_model(model)
    parallel = DataParallel(1)
    state = parallel.replicate({"params": params, "batch_stats": batch_stats})
    batch = parallel.split(random_batch(batch_size, image_size, model.num_classes))
    begin = time.perf_counter()
    compiled = parallel.compile_eval_step(make_eval_step(graphdef, NORMALIZE), state, batch)
    compile_seconds = time.perf_counter() - begin
    return lambda: jax.block_until_ready(compiled(state, batch)), compile_seconds


def random_batch(batch_size: int, image_size: int, num_classes: int) -> dict[str, np.ndarray]:
    """Random images and labels, as the pipeline gives them for one device."""
    rng, shape = np.random.default_rng(0), (1, batch_size)
    return {
        "image": rng.integers(0, 256, (*shape, image_size, image_size, 3), dtype=np.uint8),
        "label": rng.integers(0, num_classes, shape, dtype=np.int32),
        "mask": np.ones(shape, bool),
    }


def _layer(case: LayerCase, convolution: Convolution) -> tuple[Callable[[], None], float]:
    x = jax.random.normal(jax.random.key(0), case.input_shape, case.dtype)
    w = jax.random.normal(jax.random.key(1), case.kernel_shape, case.dtype)
    convolve = partial(convolution, **case.arguments)
    arguments = (x, w)
    if case.train:
        arguments += (jax.random.normal(jax.random.key(2), case.output_shape, case.dtype),)

    def forward_and_gradients(x: jax.Array, w: jax.Array, g: jax.Array) -> tuple[Any, ...]:
        y, vjp = jax.vjp(convolve, x, w)
        return (y, *vjp(g))

    begin = time.perf_counter()
    function = forward_and_gradients if case.train else convolve
    compiled = jax.jit(function).lower(*arguments).compile()
    compile_seconds = time.perf_counter() - begin
    return lambda: jax.block_until_ready(compiled(*arguments)), compile_seconds
