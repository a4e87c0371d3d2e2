"""Max pooling whose backward pass is as cheap as its forward."""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from resnext_jax.errors import BadInput


def max_pool(
    x: jax.Array,
    window_shape: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> jax.Array:
    """Maximum over windows; ties give the gradient to the first, row by row, as torch and XLA do.

    XLA derives a reduce-window by a scatter (select-and-scatter), which on CPU takes some 20 times the
    forward pass. Here the tangent is picked by the index of each window's maximum, so that the transpose is
    a handful of selects and concatenations.

    Args:
        x: float [N, H, W, C].
        window_shape: rows and columns of the window.
        strides: of the window.
        padding: ((low, high), (low, high)), filled with minus infinity.

    Returns:
        [N, H', W', C].

    Raises:
        BadInput: x is not four-dimensional, or no window fits.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
        >>> max_pool(x, (2, 2), (2, 2), ((0, 0), (0, 0)))[0, ..., 0].tolist()
        [[5.0, 7.0], [13.0, 15.0]]
    """
    return max_pool_p.bind(
        x,
        window_shape=tuple(window_shape),
        strides=tuple(strides),
        padding=tuple((low, high) for low, high in padding),
    )


def _max_pool(x: jax.Array, **window: Any) -> jax.Array:
    return reduce(jnp.maximum, _taps(x, fill=-jnp.inf, **window))


def _max_pool_jvp(primals, tangents, **window):
    derive = partial(_derive, **window)
    # XLA on CPU converts every bfloat16 anew for each tap: in float32 the gradient is 10 times as fast.
    # Elsewhere it would move twice the bytes.
    return jax.lax.platform_dependent(*primals, *tangents, cpu=partial(derive, wide=True), default=derive)


def _derive(x, tangent, *, wide=False, **window):
    """The maxima, and the tangents of the pixels that they come from."""
    compute = jnp.promote_types(x.dtype, jnp.float32) if wide else x.dtype
    taps = _taps(x.astype(compute), fill=-jnp.inf, **window)
    largest, index = taps[0], jnp.zeros(taps[0].shape, jnp.int32)
    for i, tap in enumerate(taps[1:], 1):
        index = jnp.where(tap > largest, i, index)
        largest = jnp.maximum(largest, tap)
    # Padded and cropped so that XLA stores the index: fused with its uses, it would be found anew in each.
    index = jnp.pad(index, ((0, 0), (1, 1), (1, 1), (0, 0)))
    index = jax.lax.optimization_barrier(index)[:, 1:-1, 1:-1]
    parts = _taps(tangent.astype(compute), fill=0, **window)
    tangent = reduce(jnp.add, (jnp.where(index == i, part, 0) for i, part in enumerate(parts)))
    return largest.astype(x.dtype), tangent.astype(x.dtype)


def _max_pool_batch(operands, axes, **window):
    (x,), (axis,) = operands, axes
    x = jnp.moveaxis(x, axis, 0)
    y = max_pool_p.bind(x.reshape(-1, *x.shape[2:]), **window)
    return y.reshape(*x.shape[:2], *y.shape[1:]), 0


# A primitive, and not a function with a rule of its own, so that who reads a program (to write it in another
# format, say) finds one operation with its window.
max_pool_p = Primitive("max_pool")
max_pool_p.def_impl(jax.jit(_max_pool, static_argnames=("window_shape", "strides", "padding")))
ad.primitive_jvps[max_pool_p] = _max_pool_jvp
batching.primitive_batchers[max_pool_p] = _max_pool_batch
mlir.register_lowering(max_pool_p, mlir.lower_fun(_max_pool, multiple_results=False))


@max_pool_p.def_abstract_eval
def _max_pool_type(x, **window):
    return x.update(shape=jax.eval_shape(partial(_max_pool, **window), x).shape, weak_type=False)


def _taps(
    x: jax.Array,
    *,
    window_shape: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    fill: float,
) -> list[jax.Array]:
    """What each window sees at each of its places, [N, H', W', C] each.

    The pixels are first split by their phase within the stride: the transpose of a split is a concatenation,
    where that of a strided slice would be a scatter.
    """
    if x.ndim != 4:
        raise BadInput(f"max_pool of shape {x.shape}: expected [N, H, W, C]")
    n, *size, channels = x.shape
    counts = [
        (length + low + high - window) // stride + 1
        for length, (low, high), window, stride in zip(size, padding, window_shape, strides, strict=True)
    ]
    if min(counts) < 1:
        raise BadInput(f"max_pool of {x.shape}: no window of window_shape={tuple(window_shape)} fits")
    # Padded up to whole strides, and cropped where the last pixels meet no window.
    cells = [
        count + (window - 1) // stride
        for count, window, stride in zip(counts, window_shape, strides, strict=True)
    ]
    pads = [
        (low, cell * stride - length - low, 0)
        for length, (low, _), cell, stride in zip(size, padding, cells, strides, strict=True)
    ]
    x = jax.lax.pad(x, jnp.asarray(fill, x.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
    x = x.reshape(n, cells[0], strides[0], cells[1], strides[1], channels)
    phases = [
        [column.squeeze((2, 4)) for column in jax.lax.split(row, (1,) * strides[1], axis=4)]
        for row in jax.lax.split(x, (1,) * strides[0], axis=2)
    ]
    taps = []
    for i in range(window_shape[0]):
        for j in range(window_shape[1]):
            top, left = i // strides[0], j // strides[1]
            phase = phases[i % strides[0]][j % strides[1]]
            taps.append(phase[:, top : top + counts[0], left : left + counts[1]])
    return taps
