"""The steps in jaxnn, another port of timm's networks to Flax, with its own model and XLA's operators."""

import importlib
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from resnext_jax.benchmark.cases import LayerCase, StepCase
from resnext_jax.errors import BadInput, MissingPackage


def check_jaxnn(name: str, *, layers: bool) -> None:
    """Make sure that jaxnn is there and has the model.

    Args:
        name: of the model, timm's.
        layers: whether single convolutions are measured.

    Raises:
        MissingPackage: it is not installed.
        BadInput: it has no such model, or single convolutions are asked for.
    """
    if layers:
        raise BadInput("against jaxnn with layers: its convolutions are XLA's own; expected flax")
    if importlib.util.find_spec("jaxnn") is None:
        raise MissingPackage("against jaxnn: it is not installed: pip install jaxnn")
    if name not in _jaxnn().list_models():
        raise BadInput(f"against jaxnn: it has no model {name!r}")


def prepare_jaxnn(case: StepCase | LayerCase) -> tuple[Callable[[], None], float]:
    """What runs a step once, compiled; and the seconds that compiling took.

    Args:
        case: the step. Its optimiser is SGD with momentum.
    """
    assert isinstance(case, StepCase), "check_jaxnn has refused layers"
    dtype = jnp.dtype(case.dtype)
    model = _jaxnn().create_model(case.name, dtype=dtype, norm_dtype=dtype)
    model.train() if case.train else model.eval()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    optimizer = optax.sgd(0.01, momentum=0.9)
    images = jax.random.normal(jax.random.key(0), (case.batch_size, case.image_size, case.image_size, 3))
    labels = jnp.arange(case.batch_size)

    def loss(params: Any, rest: Any) -> tuple[jax.Array, Any]:
        merged = nnx.merge(graphdef, params, rest, copy=True)
        logits = merged(images).astype(jnp.float32)
        mean = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        _, _, rest = nnx.split(merged, nnx.Param, ...)
        return mean, rest

    def train(params: Any, rest: Any, moments: Any) -> tuple[Any, ...]:
        gradients, rest = jax.grad(loss, has_aux=True)(params, rest)
        updates, moments = optimizer.update(gradients, moments, params)
        return optax.apply_updates(params, updates), rest, moments

    def evaluate(params: Any, rest: Any) -> jax.Array:
        return nnx.merge(graphdef, params, rest, copy=True)(images)

    state: tuple[Any, ...] = (params, rest, optimizer.init(params)) if case.train else (params, rest)
    begin = time.perf_counter()
    donated = (0, 1, 2) if case.train else ()
    compiled = jax.jit(train if case.train else evaluate, donate_argnums=donated).lower(*state).compile()
    seconds = time.perf_counter() - begin

    def run() -> None:
        nonlocal state
        result = jax.block_until_ready(compiled(*state))
        state = result if case.train else state

    return run, seconds


def _jaxnn() -> Any:
    """The package, which is none of ours and loads torch: only where it is wanted."""
    return importlib.import_module("jaxnn")
