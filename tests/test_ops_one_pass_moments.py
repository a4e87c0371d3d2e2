"""Batch moments in one pass, for accelerators: as exact as two passes, whatever the mean."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from resnext_jax.ops import norm_primitives, one_pass_moments
from resnext_jax.ops.batch_norm import batch_norm


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("mean", [0.0, 3.0, -30.0, 1e3, 1e4])
def test_moments_are_exact_beside_any_mean(mean, dtype):
    rng = np.random.default_rng(0)
    x = (rng.normal(mean, 1, (4, 7, 7, 5)) * rng.uniform(0.1, 10, 5)).astype(dtype)
    exact = x.astype(np.float64)
    found_mean, found_variance = jax.jit(one_pass_moments.moments)(jnp.asarray(x))
    np.testing.assert_allclose(found_mean, exact.mean((0, 1, 2)), rtol=1e-6, atol=1e-6)
    # 14 bits at the edge of one pass; two passes beyond it.
    np.testing.assert_allclose(found_variance, exact.var((0, 1, 2)), rtol=1e-4)


def test_constant_channels_and_values_that_are_not_finite():
    x = np.zeros((2, 3, 3, 3), np.float32)
    x[..., 1] = 5.0
    mean, variance = one_pass_moments.moments(jnp.asarray(x))
    np.testing.assert_array_equal(mean, [0, 5, 0])
    np.testing.assert_array_equal(variance, 0)
    x[0, 0, 0, 2] = np.nan
    mean, variance = one_pass_moments.moments(jnp.asarray(x))
    assert np.isnan(mean[2])
    assert np.isnan(variance[2])
    np.testing.assert_array_equal(mean[:2], [0, 5])


@pytest.mark.parametrize(("platform", "branches"), [("tpu", True), ("cuda", True), ("cpu", False)])
def test_accelerators_take_one_pass(platform, branches):
    def loss(x, scale, bias):
        return jnp.sum(batch_norm(x, scale, bias, 1e-5, None, True)[0] ** 2)

    arguments = jnp.zeros((2, 4, 4, 8), jnp.bfloat16), jnp.ones(8), jnp.zeros(8)
    traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(*arguments)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.case" in text) == branches


def test_two_passes_are_those_of_the_primitive():
    x = jnp.asarray(np.random.default_rng(1).normal(1e4, 1, (8, 5, 5, 3)), jnp.float32)
    for ours, theirs in zip(one_pass_moments.moments(x), norm_primitives.moments(x), strict=True):
        np.testing.assert_array_equal(ours, theirs)
