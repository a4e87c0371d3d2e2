"""The first layers as one operator: the form for TPUs is convolution, norm and pooling in turn."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import assert_close, normal

from resnext_jax.ops import max_pool
from resnext_jax.ops import stem as stem_operator
from resnext_jax.ops.stem import _in_phases, _in_turn, _pool


def operands(size=(16, 12), window=7, images=2, dtype="float32"):
    kernel, scale = normal((window, window, 3, 5), 1), 1 + 0.2 * normal(5, 2)
    return normal((images, *size, 3), dtype=dtype), kernel, scale, 0.3 * normal(5, 3)


def loss(form, *operands, axis_name=None):
    """A number that all three results take part in."""
    y, mean, var = form(*operands, epsilon=1e-3, axis_name=axis_name)
    return jnp.sum(jnp.sin(y.astype(jnp.float32)) * normal(y.shape, 4)) + jnp.vdot(mean, mean) + jnp.sum(var)


@pytest.mark.parametrize("window", [3, 7])
def test_both_forms_give_the_same_values_and_gradients(window):
    given = operands(window=window)

    def run(form, *operands):
        results = form(*operands, epsilon=1e-3, axis_name=None)
        return results, jax.grad(partial(loss, form), (0, 1, 2, 3))(*operands)

    (values, gradients), expected = (jax.jit(partial(run, form))(*given) for form in (_in_phases, _in_turn))
    assert_close(values, expected[0])
    assert_close(gradients, expected[1], 1e-4)


def test_both_forms_are_alike_in_bfloat16():
    given = operands(dtype="bfloat16")
    forms = [partial(form, epsilon=1e-3, axis_name=None) for form in (_in_phases, _in_turn)]
    values = [jax.jit(form)(*given)[0] for form in forms]
    assert values[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(*(v.astype(np.float32) for v in values), atol=0.04)
    gradients = [jax.jit(jax.grad(partial(loss, form), 1))(*given) for form in (_in_phases, _in_turn)]
    assert gradients[0].dtype == jnp.float32
    cosine = jnp.vdot(*gradients) / jnp.linalg.norm(gradients[0]) / jnp.linalg.norm(gradients[1])
    assert cosine > 0.999


def test_devices_share_their_statistics():
    given = operands(images=2 * jax.device_count())
    expected = loss(_in_turn, *given)
    parts = given[0].reshape(jax.device_count(), 2, *given[0].shape[1:])
    run = jax.pmap(
        partial(_in_phases, epsilon=1e-3, axis_name="batch"), "batch", in_axes=(0, None, None, None)
    )
    y, mean, var = run(parts, *given[1:])
    whole = y.reshape(-1, *y.shape[2:]), mean[0], var[0]
    assert_close(loss(lambda *_, **__: whole), expected, 1e-4)


@pytest.mark.parametrize("ties", [False, True])
def test_pooling_of_phases(ties):
    x = normal((2, 6, 4, 3))
    x = jnp.round(x) if ties else x

    def by_phases(x):
        # [N, row, phase, column, phase, C] -> [N, row, column, (phase of the column, of the row, C)]
        x = x.reshape(2, 3, 2, 2, 2, 3).transpose(0, 1, 3, 4, 2, 5)
        return _pool(x.reshape(2, 3, 2, 12))

    def run(pool, x):
        y, vjp = jax.vjp(pool, x)
        return y, vjp(normal(y.shape, 1))[0]

    whole = partial(max_pool, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    assert_close(*(jax.jit(partial(run, pool))(x) for pool in (by_phases, whole)), 1e-6)


@pytest.mark.parametrize(
    ("platform", "size", "window"),
    [("tpu", 16, "9x9x3x20"), ("tpu", 18, "7x7x3x5"), ("cuda", 16, "7x7x3x5"), ("cpu", 16, "7x7x3x5")],
)
def test_the_platform_chooses(platform, size, window):
    traced = jax.jit(partial(stem_operator, epsilon=1e-3)).trace(*operands((size, 16)))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert f"tensor<{window}xf32>" in text
    assert ("tensor<9x9x3x20xf32>" in text) == (window == "9x9x3x20")
