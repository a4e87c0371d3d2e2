"""Batch normalisation and max pooling against the plain forms and their derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import assert_close, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, PartitionSpec

from resnext_jax import ops


def plain_batch_norm(x, scale, bias, epsilon, axis_name=None, relu=False):
    assert axis_name is None
    dtype, x = x.dtype, x.astype(jnp.float32)
    mean, var = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
    y = (x - mean) / jnp.sqrt(var + epsilon) * scale + bias
    return (jax.nn.relu(y) if relu else y).astype(dtype), mean, var


def loss(norm, relu, *operands):
    """A number that all three results of a norm take part in."""
    y, mean, var = norm(*operands, 1e-3, relu=relu)
    channels = jnp.arange(1.0, 1 + y.shape[-1])
    return jnp.sum(jnp.sin(y) * normal(y.shape, 3)) + jnp.vdot(mean, channels) + jnp.vdot(var, var)


def over_all(function):
    return jax.grad(function, (0, 1, 2))


def forward(function):
    """Derivative in one direction of all operands."""
    return lambda *p: jax.jvp(function, p, tuple(normal(a.shape, 7, a.dtype) for a in p))


DERIVATIVES = {
    "gradient": over_all,
    "checkpoint": lambda loss: over_all(jax.checkpoint(loss)),
    "of the bias alone": lambda loss: jax.grad(loss, 2),
    "forward mode": forward,
    "jacfwd": lambda loss: jax.jacfwd(loss, (1, 2)),
    "second derivative": lambda loss: over_all(lambda *p: sum(jnp.sum(g**2) for g in over_all(loss)(*p))),
    "forward over reverse": lambda loss: forward(over_all(loss)),
}


@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_batch_norm(dtype, relu):
    operands = 3 + 2 * normal((3, 5, 4, 6), dtype=dtype), normal(6, 1), normal(6, 2)
    ours, plain = (partial(norm, relu=relu)(*operands, 1e-3) for norm in (ops.batch_norm, plain_batch_norm))
    assert_close(ours, plain)
    assert not relu or 0.2 < float(jnp.mean(ours[0] == 0)) < 0.8


@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_batch_norm_derivatives(derivative, dtype, relu):
    operands = 3 + 2 * normal((3, 5, 4, 6), dtype=dtype), normal(6, 1), normal(6, 2)
    ours, plain = (
        jax.jit(DERIVATIVES[derivative](partial(loss, norm, relu)))(*operands)
        for norm in (ops.batch_norm, plain_batch_norm)
    )
    assert_close(ours, plain, 5e-5 if dtype == "float32" else 2e-2)


@pytest.mark.parametrize("axes", [(0, None, None), (None, 0, 0), (3, 1, None)], ids=str)
def test_batch_norm_vmap(axes):
    operands = [
        a if axis is None else jnp.stack([a, 3 - 2 * a], axis)
        for a, axis in zip((normal((3, 5, 4, 6)), normal(6, 1), normal(6, 2)), axes, strict=True)
    ]
    ours, plain = (
        jax.jit(jax.vmap(over_all(partial(loss, norm, True)), axes))(*operands)
        for norm in (ops.batch_norm, plain_batch_norm)
    )
    assert_close(ours, plain, 5e-5)


@pytest.mark.parametrize("shape", [(4, 8, 8, 3), (4, 16, 16, 64)], ids=str)
def test_batch_norm_keeps_its_precision_beside_a_large_mean(shape):
    x = 1e4 * normal(shape[-1], 1) + normal(shape)
    # The first pixel is far off: a bad one to see the others from.
    x = x.at[0, 0, 0].add(100)
    exact = np.asarray(x, np.float64)
    y, mean, var = ops.batch_norm(x, jnp.ones(shape[-1]), jnp.zeros(shape[-1]), 1e-5)
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=2e-6)
    np.testing.assert_allclose(var, exact.var((0, 1, 2)), rtol=2e-5)
    np.testing.assert_allclose(y, (exact - exact.mean((0, 1, 2))) / exact.std((0, 1, 2)), atol=2e-3)


@pytest.mark.parametrize("mapped", ["pmap", "shard_map", "unchecked shard_map"])
def test_batch_norm_over_devices_is_that_of_the_whole_batch(mapped):
    devices = jax.device_count()
    x, scale, bias = normal((2 * devices, 3, 3, 4)), normal(4, 1), normal(4, 2)
    x = x * jnp.arange(1.0, 1 + len(x))[:, None, None, None]
    weights = normal(x.shape, 3)

    def gradient(x, scale, weights, axis_name):
        def loss(x, scale):
            y, mean, var = ops.batch_norm(x, scale, bias, 1e-5, axis_name, relu=True)
            return jnp.sum(y * weights), (mean, var)

        return jax.grad(loss, has_aux=True)(x, scale)

    expected = gradient(x, scale, weights, None)
    if mapped == "pmap":
        run = jax.pmap(
            partial(gradient, axis_name="batch"), "batch", in_axes=(0, None, 0), out_axes=(0, None)
        )
        shards = (a.reshape(devices, 2, *a.shape[1:]) for a in (x, weights))
        dx, statistics = run(next(shards), scale, next(shards))
        actual = dx.reshape(x.shape), statistics
    else:
        split, whole = PartitionSpec("batch"), PartitionSpec()
        run = jax.shard_map(
            partial(gradient, axis_name="batch"),
            mesh=Mesh(jax.devices(), "batch"),
            in_specs=(split, whole, split),
            out_specs=(split, whole),
            check_vma=mapped == "shard_map",
        )
        actual = jax.jit(run)(x, scale, weights)
    assert_close(actual, expected, 1e-4)


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


def test_max_pool_is_one_operation_also_when_mapped():
    pool = partial(ops.max_pool, window_shape=(3, 2), strides=(2, 1), padding=((1, 0), (0, 1)))
    x = normal((3, 2, 7, 6, 4))
    mapped = jax.make_jaxpr(jax.vmap(pool, 1, 1))(x).eqns
    assert [e.params["window_shape"] for e in mapped if e.primitive.name == "max_pool"] == [(3, 2)]
    each = [pool(x[:, i]) for i in range(2)]
    np.testing.assert_array_equal(jax.vmap(pool, 1, 1)(x), np.stack(each, 1))


def test_max_pool_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"window_shape=\(3, 3\)"):
        ops.max_pool(normal((1, 2, 2, 3)), (3, 3), (2, 2), ((0, 0), (0, 0)))
    with pytest.raises(ValueError, match="N, H, W, C"):
        ops.max_pool(normal((2, 2, 3)), (1, 1), (1, 1), ((0, 0), (0, 0)))
