"""The first layers of a network in training as one operator: convolution, batch norm, ReLU, max pooling."""

from functools import partial

import jax
import jax.numpy as jnp

from resnext_jax.ops.batch_norm import batch_norm
from resnext_jax.ops.conv.spec import DIMENSION_NUMBERS
from resnext_jax.ops.grouped_conv import conv_general_dilated
from resnext_jax.ops.max_pool import max_pool


def stem(
    x: jax.Array,
    kernel: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    epsilon: float,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Max pooling, 3x3 with stride 2, of relu(batch_norm(convolution with stride 2)).

    A TPU computes on 128 channels at once, and the largest arrays of a network have 64 here. There each 2x2
    pixels of them lie side by side in 256 channels, from the convolution to the maximum, which needs just
    these neighbours. The sums are the same, but for their order.

    Args:
        x: [N, H, W, C].
        kernel: [k, k, C, O] of an odd k, padded by k // 2; it is converted to the type of x.
        scale, bias: [O], of the norm.
        epsilon, axis_name: as in `batch_norm`.

    Returns:
        y [N, H / 4, W / 4, O], rounded up; mean and biased variance [O], float32.

    Example:
        >>> x, kernel = jnp.ones((2, 32, 32, 3)), jnp.ones((7, 7, 3, 64))
        >>> [a.shape for a in stem(x, kernel, jnp.ones(64), jnp.zeros(64), 1e-5)]
        [(2, 8, 8, 64), (64,), (64,)]
    """
    in_turn = partial(_in_turn, epsilon=epsilon, axis_name=axis_name)
    if any(size % 4 for size in x.shape[1:3]):
        return in_turn(x, kernel, scale, bias)
    in_phases = partial(_in_phases, epsilon=epsilon, axis_name=axis_name)
    return jax.lax.platform_dependent(x, kernel, scale, bias, tpu=in_phases, default=in_turn)


def _in_turn(x, kernel, scale, bias, *, epsilon, axis_name):
    pads = ((kernel.shape[0] // 2,) * 2,) * 2
    y = conv_general_dilated(x, kernel.astype(x.dtype), (2, 2), pads, dimension_numbers=DIMENSION_NUMBERS)
    y, mean, var = batch_norm(y, scale, bias, epsilon, axis_name, relu=True)
    return max_pool(y, (3, 3), (2, 2), ((1, 1), (1, 1))), mean, var


def _in_phases(x, kernel, scale, bias, *, epsilon, axis_name):
    """The same, with arrays [N, H / 4, W / 4, (column, row, O)]: columns and rows are those of 2x2 pixels."""
    # Four copies of the kernel, in windows that are 2 larger and move by 4. Before it is converted, so that
    # the sum of their gradients is not.
    copies = [
        jnp.pad(kernel, ((2 * row, 2 - 2 * row), (2 * column, 2 - 2 * column), (0, 0), (0, 0)))
        for column in (0, 1)
        for row in (0, 1)
    ]
    kernels = jnp.concatenate(copies, -1).astype(x.dtype)
    low = kernel.shape[0] // 2
    pads = ((low, low - 1),) * 2
    y = jax.lax.conv_general_dilated(x, kernels, (4, 4), pads, dimension_numbers=DIMENSION_NUMBERS)
    y, mean, var = batch_norm(y, scale, bias, epsilon, axis_name, relu=True, repeats=4)
    return _pool(y), mean, var


@jax.custom_jvp
def _pool(x: jax.Array) -> jax.Array:
    """Max pooling 3x3 with stride 2; [N, H, W, (column, row, O)] -> [N, H, W, O]."""
    return _maxima(x)[0]


@_pool.defjvp
def _pool_jvp(primals, tangents):
    y, *indices = _maxima(*primals)
    # Stored, and not found anew where they are used.
    column, row = jax.lax.optimization_barrier(tuple(indices))
    (tangent,) = tangents
    tangent = _at(column, _neighbours(tangent, 2, 0))
    return y, _at(row, _neighbours(tangent, 1, 0))


def _maxima(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The maxima; in each row which of 3 columns has its maximum, [N, H, W, (row, O)]; and which of 3 rows.

    Of equal ones the first row by row, as in `max_pool`.
    """
    x, column = _largest(_neighbours(x, 2, -jnp.inf))
    x, row = _largest(_neighbours(x, 1, -jnp.inf))
    return x, column, row


def _neighbours(x: jax.Array, axis: int, fill: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What a window sees along an axis: the last of the pair before, and both of its own pair."""
    first, second = jax.lax.split(x, (x.shape[3] // 2,) * 2, axis=3)
    pads = [(0, 0, 0)] * 4
    pads[axis] = (1, -1, 0)
    return jax.lax.pad(second, jnp.asarray(fill, x.dtype), pads), first, second


def _largest(arrays: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    a, b, c = arrays
    largest = jnp.maximum(jnp.maximum(a, b), c)
    index = jnp.where(a >= largest, 0, jnp.where(b >= largest, 1, 2))
    return largest, index.astype(jnp.int8)


def _at(index: jax.Array, arrays: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
    a, b, c = (jnp.where(index == i, x, 0) for i, x in enumerate(arrays))
    return a + b + c
