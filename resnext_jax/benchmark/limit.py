"""The least time that the machine allows a model's convolutions: by its arithmetic and by its memory."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from resnext_jax import ops
from resnext_jax.benchmark.cases import LayerCase, StepCase, count_convolutions

TURNS = 8


@dataclass(frozen=True)
class Rates:
    """What the machine reaches.

    Args:
        multiply_adds: a second, in matrix products, whose operands come from the cache.
        memory_bytes: a second, read and written, of arrays that no cache holds.
    """

    multiply_adds: float
    memory_bytes: float

    def best(self, other: "Rates") -> "Rates":
        """The higher of each."""
        return Rates(max(self.multiply_adds, other.multiply_adds), max(self.memory_bytes, other.memory_bytes))


def measure_rates(dtype: str) -> Rates:
    """The rates of one device for a compute type: the best of some turns.

    Matrix products are XLA's own and those of our 1x1 convolution, whichever is faster.
    """
    pixels, inputs, outputs = 4096, 1024, 1024
    x = jax.random.normal(jax.random.key(0), (1, 64, pixels // 64, inputs), dtype)
    w = jax.random.normal(jax.random.key(1), (1, 1, inputs, outputs), dtype)
    case = LayerCase(x.shape, w.shape, (1, 1), ((0, 0), (0, 0)), 1, train=False, dtype=dtype)
    convolve = partial(ops.conv_general_dilated, **case.arguments)
    seconds = min(
        _least_seconds(convolve, x, w), _least_seconds(jnp.matmul, x.reshape(pixels, inputs), w[0, 0])
    )
    large = jnp.ones(2**26, "float32")  # 256 MiB
    copied = _least_seconds(lambda x: x + 1, large)
    return Rates(pixels * inputs * outputs / seconds, 2 * large.nbytes / copied)


def _least_seconds(function: Callable[..., jax.Array], *arguments: jax.Array) -> float:
    compiled = jax.jit(function).lower(*arguments).compile()
    seconds = []
    for _ in range(TURNS):
        begin = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def least_seconds(case: StepCase | LayerCase, rates: Rates) -> float:
    """The time of a convolution, or of all convolutions of a step one after the other.

    Each operator (the convolution and, in training, its two gradients) reads its two operands and writes its
    result once, and multiplies at the same time. What else a step does is taken to cost nothing.

    Args:
        case: what is computed.
        rates: of the machine.
    """
    if isinstance(case, LayerCase):
        return _operators(case) * _of_one_operator(case, rates)
    counts = count_convolutions(case)
    seconds = sum(count * least_seconds(layer, rates) for layer, count in counts.items())
    # The images need no gradient.
    return seconds - (_of_one_operator(next(iter(counts)), rates) if case.train else 0)


def _operators(case: LayerCase) -> int:
    return 3 if case.train else 1


def _of_one_operator(case: LayerCase, rates: Rates) -> float:
    outputs = math.prod(case.output_shape)
    multiply_adds = outputs * math.prod(case.kernel_shape[:3])
    values = math.prod(case.input_shape) + math.prod(case.kernel_shape) + outputs
    memory_bytes = values * jnp.dtype(case.dtype).itemsize
    return max(multiply_adds / rates.multiply_adds, memory_bytes / rates.memory_bytes)
