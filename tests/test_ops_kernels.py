"""The kernels in C++: against `jax.lax`, switched off, without a compiler, left out of what is exported."""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from arrays import assert_close, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export

from resnext_jax import ops
from resnext_jax.ops import native

pytestmark = pytest.mark.skipif(native.lanes() == 0, reason="no C++ compiler")

NHWC = ("NHWC", "HWIO", "NHWC")


@st.composite
def convolutions(draw):
    """Shapes that the kernels know: groups that are vectors wide, or that fill a vector together."""
    lanes = native.lanes()
    if draw(st.booleans()):
        inputs = outputs = draw(st.sampled_from([width for width in (1, 2, 4, 8) if width < lanes]))
        groups = draw(st.sampled_from([1, 2, 5])) * lanes // outputs
    else:
        groups = draw(st.integers(1, 3))
        inputs = draw(st.sampled_from([1, 3, 5, lanes, 2 * lanes, 150]))
        outputs = lanes * draw(st.integers(1, 5))
    window = draw(st.sampled_from([(3, 3), (3, 3), (1, 5), (4, 2), (7, 7)]))
    dilation, strides = (draw(st.tuples(st.integers(1, 2), st.integers(1, 3))) for _ in range(2))
    padding = [draw(st.tuples(st.integers(0, 3), st.integers(0, 3))) for _ in range(2)]
    height, width = ((size - 1) * step + 1 for size, step in zip(window, dilation, strict=True))
    size = draw(st.integers(height, height + 17)), draw(st.integers(width, width + 17))
    arguments = {
        "window_strides": strides,
        "padding": padding,
        "rhs_dilation": dilation,
        "feature_group_count": groups,
        "dimension_numbers": NHWC,
    }
    x_shape = (draw(st.integers(1, 5)), *size, groups * inputs)
    return x_shape, (*window, inputs, groups * outputs), arguments


def value_and_gradients(conv, x, w):
    y, vjp = jax.vjp(conv, x, w)
    return y, vjp(normal(y.shape, 2))


@given(convolutions())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_convolutions(case):
    x_shape, w_shape, arguments = case
    operands = normal(x_shape), normal(w_shape, 1)
    ours = jax.jit(partial(value_and_gradients, partial(ops.conv_general_dilated, **arguments)))
    native_form = jax.jit(partial(value_and_gradients, partial(jax.lax.conv_general_dilated, **arguments)))
    assert "grouped_conv_forward" in ours.lower(*operands).as_text()
    assert_close(ours(*operands), native_form(*operands))


def batch_norm(x, scale, bias, relu):
    y, mean, var = ops.batch_norm(x, scale, bias, 1e-5, relu=relu)
    return jnp.sum(y * jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)), (y, mean, var)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    "shape", [(3, 7, 5, 24), (2, 3, 3, 13), (600, 5), (1, 1, 1, 8), (2, 40, 31, 64)], ids=str
)
def test_batch_norm_is_that_without_kernels(shape, relu, monkeypatch):
    channels = shape[-1]
    operands = 2 * normal(shape) + 5, normal(channels, 1), normal(channels, 2)

    def run():
        step = jax.jit(
            lambda *operands: jax.value_and_grad(batch_norm, (0, 1, 2), has_aux=True)(*operands, relu)
        )
        return step.lower(*operands).as_text(), step(*operands)

    text, actual = run()
    assert "batch_norm_moments" in text
    assert "batch_norm_sums" in text
    monkeypatch.setattr(native, "lanes", lambda: 0)
    text, expected = run()
    assert "batch_norm_" not in text
    assert_close(actual, expected)


def network(x, w):
    arguments = {"window_strides": (1, 1), "padding": [(1, 1)] * 2, "feature_group_count": 16}
    y = ops.conv_general_dilated(x, w, **arguments, dimension_numbers=NHWC)
    y, _, _ = ops.batch_norm(y, jnp.ones(64), jnp.zeros(64), 1e-5, relu=True)
    return jnp.sum(jnp.square(y))


def test_an_exported_program_does_without():
    operands = normal((2, 9, 9, 64)), normal((3, 3, 4, 64), 1)
    gradient = jax.jit(jax.grad(network, (0, 1)))
    assert "resnext_jax." in gradient.lower(*operands).as_text()
    exported = export.export(gradient)(*operands)
    assert "resnext_jax." not in exported.mlir_module()
    assert_close(exported.call(*operands), gradient(*operands))


def test_kernels_serve_many_programs_at_once():
    """Devices of one process share the kernels' threads."""
    devices = jax.device_count()
    x, w = normal((devices, 2, 9, 9, 64)), normal((3, 3, 4, 64), 1)
    mapped = jax.pmap(jax.grad(network, 1), in_axes=(0, None))
    for _ in range(20):
        result = mapped(x, w)
    assert_close(result, jnp.stack([jax.grad(network, 1)(shard, w) for shard in x]))


SCRIPT = """
import jax.numpy as jnp
from resnext_jax.ops import conv_general_dilated, native
x, w = jnp.ones((1, 5, 5, 8)), jnp.ones((3, 3, 8, 8))
y = conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
print(native.lanes(), y[0, 2, 2, 0])
"""


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"RESNEXT_JAX_KERNELS": "0"}, ""),
        ({"CXX": "no-such-compiler"}, "no C++ compiler (no-such-compiler)"),
        ({"CXX": "false"}, "the C++ kernels could not be built"),
    ],
    ids=["off", "no compiler", "broken compiler"],
)
def test_operators_do_without_kernels(environment, words, monkeypatch, tmp_path):
    for name, value in environment.items() | {("RESNEXT_JAX_CACHE", str(tmp_path))}:
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "72.0"]
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == bool(words)
    assert not list(tmp_path.rglob("*.so"))
