"""Batch normalisation and max pooling against the plain forms and their derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnext_jax import ops


def normal(shape, seed=0, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def assert_close(actual, expected, tolerance=2e-5):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * (1 + np.abs(b).max()))


def plain_batch_norm(x, scale, bias, epsilon):
    x = x.astype(jnp.float32)
    mean, var = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
    return (x - mean) / jnp.sqrt(var + epsilon) * scale + bias, mean, var


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("derivative", ["value", "gradient", "forward mode", "second derivative"])
def test_batch_norm(derivative, dtype):
    x, scale, bias = 3 + 2 * normal((3, 5, 4, 6), dtype=dtype), normal(6, 1), normal(6, 2)
    weights = normal(x.shape, 3)

    def loss(norm, *operands):
        y, mean, var = norm(*operands, 1e-3)
        return jnp.sum(jnp.sin(y) * weights) + jnp.vdot(mean, jnp.arange(6.0)) + jnp.vdot(var, var)

    def run(norm):
        function = partial(loss, norm)
        if derivative == "value":
            return norm(x, scale, bias, 1e-3)
        if derivative == "gradient":
            return jax.grad(function, (0, 1, 2))(x, scale, bias)
        if derivative == "forward mode":
            return jax.jacfwd(function, 1)(x, scale, bias)
        norm2 = lambda *p: sum(jnp.sum(jnp.square(g)) for g in jax.grad(function, (0, 1))(*p))  # noqa: E731
        return jax.grad(norm2, (0, 1))(x, scale, bias)

    assert_close(run(ops.batch_norm), run(plain_batch_norm), 2e-5 if dtype == "float32" else 2e-2)


def test_batch_norm_keeps_its_variance_beside_a_large_mean():
    x = 1e4 + normal((4, 8, 8, 3))
    _, _, var = ops.batch_norm(x, jnp.ones(3), jnp.zeros(3), 1e-5)
    np.testing.assert_allclose(var, np.var(np.asarray(x, np.float64), (0, 1, 2)), rtol=1e-3)


def test_batch_norm_over_devices_is_that_of_the_whole_batch():
    devices = jax.device_count()
    x, scale, bias = normal((2 * devices, 3, 3, 4)), normal(4, 1), normal(4, 2)
    x = x * jnp.arange(1.0, 1 + len(x))[:, None, None, None]
    weights = normal(x.shape, 3)

    def gradient(x, weights, axis_name):
        return jax.grad(lambda x: jnp.sum(ops.batch_norm(x, scale, bias, 1e-5, axis_name)[0] * weights))(x)

    shards = (a.reshape(devices, 2, *a.shape[1:]) for a in (x, weights))
    mapped = jax.pmap(partial(gradient, axis_name="batch"), axis_name="batch")(*shards)
    assert_close(mapped.reshape(x.shape), gradient(x, weights, None), 1e-4)


@given(
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    low=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    high=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    ties=st.booleans(),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_max_pool(size, window, strides, low, high, ties):
    # Padding wider than a window would leave windows that see nothing.
    low, high = (tuple(min(p, w - 1) for p, w in zip(pads, window, strict=True)) for pads in (low, high))
    padding = tuple(zip(low, high, strict=True))
    x = normal((2, *size, 3))
    x = jnp.round(x) if ties else x

    def native(x):
        pads = ((0, 0), *padding, (0, 0))
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, *window, 1), (1, *strides, 1), pads)

    def run(pool):
        y, vjp = jax.vjp(pool, x)
        return y, vjp(normal(y.shape, 1))

    ours = partial(ops.max_pool, window_shape=window, strides=strides, padding=padding)
    assert_close(jax.jit(partial(run, ours))(), jax.jit(partial(run, native))())


def test_max_pool_forward_mode_and_bfloat16():
    x, tangent = normal((1, 7, 6, 2), dtype="bfloat16"), normal((1, 7, 6, 2), 1, "bfloat16")
    pool = partial(ops.max_pool, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    y, dy = jax.jvp(pool, (x,), (tangent,))
    expected = jax.grad(lambda x: jnp.sum(pool(x).astype(jnp.float32)))(x)
    assert y.dtype == dy.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        jnp.sum(dy.astype(jnp.float32)), jnp.sum((expected * tangent).astype(jnp.float32)), 0.05
    )


def test_max_pool_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"window_shape=\(3, 3\)"):
        ops.max_pool(normal((1, 2, 2, 3)), (3, 3), (2, 2), ((0, 0), (0, 0)))
    with pytest.raises(ValueError, match="N, H, W, C"):
        ops.max_pool(normal((2, 2, 3)), (1, 1), (1, 1), ((0, 0), (0, 0)))
