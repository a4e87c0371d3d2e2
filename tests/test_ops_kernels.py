"""The C++ kernels against NumPy, what they refuse, and that exports leave them out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import assert_close, convolutions, convolve_in_numpy, normal
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax import export

from resnext_jax import ops
from resnext_jax.ops import cpp_kernels

pytestmark = pytest.mark.skipif(cpp_kernels.lanes() == 0, reason="no C++ compiler")

NHWC = ("NHWC", "HWIO", "NHWC")


@st.composite
def degenerate_convolutions(draw):
    """Images of few pixels, under windows that meet few of them or none."""
    lanes = cpp_kernels.lanes()
    groups, channels = draw(st.sampled_from([(lanes // 4, 4), (lanes // 2, 2), (1, lanes), (1, 3 * lanes)]))
    window, size = (draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) for _ in range(2))
    strides = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    dilation = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    padding = []
    for k, step, length in zip(window, dilation, size, strict=True):
        missing = max(0, (k - 1) * step + 1 - length)  # for one window to fit
        low = draw(st.integers(0, missing + 7))
        padding.append((low, draw(st.integers(max(0, missing - low), missing + 7))))
    shapes = (draw(st.integers(1, 3)), *size, groups * channels), (*window, channels, groups * channels)
    return *shapes, strides, tuple(padding), dilation, groups


def value_and_gradients_in_kernels(x, w, g, strides, padding, dilation, groups):
    """The same by the kernels, called directly, so that no other lowering can serve instead."""
    attributes = {"strides": strides, "padding": [low for low, _ in padding], "dilation": dilation}
    attributes = {name: np.array(pair, np.int64) for name, pair in attributes.items()}
    return [
        jax.ffi.ffi_call(cpp_kernels.target(f"conv_{name}"), jax.typeof(result))(*operands, **attributes)
        for name, result, operands in (
            ("forward", g, (x, w)),
            ("input_grad", x, (g, w)),
            ("kernel_grad", w, (x, g)),
        )
    ]


@given(convolutions())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_operators(case):
    """Of every shape, also where groups fill no vector, or share one."""
    *shapes, strides, padding, dilation, groups = case
    operands = [normal(shape, seed) for seed, shape in enumerate(shapes)]
    actual = value_and_gradients_in_kernels(*operands, strides, padding, dilation, groups)
    expected = convolve_in_numpy(*operands, strides, padding, dilation, groups)
    assert_close(actual, [a.astype(np.float32) for a in expected])


@given(degenerate_convolutions())
@example(((1, 1, 1, 32), (1, 1, 4, 32), (2, 2), ((3, 3), (3, 3)), (1, 1), 8))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_windows_that_meet_few_pixels_or_none(case):
    x_shape, w_shape, strides, padding, dilation, _ = case
    size = [
        (length + sum(pads) - (k - 1) * step - 1) // stride + 1
        for length, pads, k, step, stride in zip(
            x_shape[1:3], padding, w_shape[:2], dilation, strides, strict=True
        )
    ]
    operands = normal(x_shape), normal(w_shape, 1), normal((x_shape[0], *size, w_shape[3]), 2)
    actual = value_and_gradients_in_kernels(*operands, *case[2:])
    expected = [a.astype(np.float32) for a in convolve_in_numpy(*operands, *case[2:])]
    assert_close(actual, expected)


SIZES = {
    "x": (2, 5, 5, 64),
    "w": (3, 3, 4, 64),
    "y": (2, 3, 3, 64),
    "strides": (2, 2),
    "padding": (1, 1),
    "dilation": (1, 1),
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"strides": (2, 2, 2)}, "two numbers each"),
        ({"padding": ()}, "two numbers each"),
        ({"strides": (0, 1)}, "must be positive"),
        ({"padding": (-1, 0)}, "not negative"),
        ({"x": (2, 5, 64)}, "four dimensions"),
        ({"w": (3, 3, 5, 64)}, "do not match"),
        ({"y": (3, 3, 3, 64)}, "do not match"),
        ({"y": (2, 3, 3, 128)}, "do not match"),
    ],
    ids=str,
)
def test_kernels_refuse_what_they_do_not_know(change, words):
    sizes = SIZES | change
    attributes = {name: np.array(sizes[name], np.int64) for name in ("strides", "padding", "dilation")}
    arrays = {name: jnp.ones(sizes[name]) for name in "xwy"}
    for kernel, (a, b, result) in {"forward": "xwy", "input_grad": "ywx", "kernel_grad": "xyw"}.items():
        call = jax.ffi.ffi_call(cpp_kernels.target(f"conv_{kernel}"), jax.typeof(arrays[result]))
        with pytest.raises(jax.errors.JaxRuntimeError, match=words):
            jax.block_until_ready(call(arrays[a], arrays[b], **attributes))


def test_kernels_of_batch_norm_refuse_what_does_not_match():
    x, vector = jnp.ones((2, 3, 3, 8)), jnp.ones(8)
    moments = jax.ffi.ffi_call(
        cpp_kernels.target("batch_norm_moments"), (jax.typeof(vector), jax.typeof(jnp.ones(7)))
    )
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"vector \[7\]"):
        jax.block_until_ready(moments(x))
    sums = jax.ffi.ffi_call(cpp_kernels.target("batch_norm_sums"), (jax.typeof(vector),) * 2)
    with pytest.raises(jax.errors.JaxRuntimeError, match="same shape"):
        jax.block_until_ready(sums(x[:1], x, vector, vector, vector, relu=True))


def batch_norm(x, scale, bias, relu):
    y, mean, var = ops.batch_norm(x, scale, bias, 1e-5, relu=relu)
    return jnp.sum(y * jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)), (y, mean, var)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "shape", [(3, 7, 5, 24), (2, 3, 3, 13), (600, 5), (1, 1, 1, 8), (2, 40, 31, 64)], ids=str
)
def test_batch_norm_is_that_without_kernels(shape, dtype, relu, monkeypatch):
    channels = shape[-1]
    operands = 2 * normal(shape, dtype=dtype) + 5, normal(channels, 1), normal(channels, 2)

    def run():
        step = jax.jit(
            lambda *operands: jax.value_and_grad(batch_norm, (0, 1, 2), has_aux=True)(*operands, relu)
        )
        return step.lower(*operands).as_text(), step(*operands)

    text, actual = run()
    assert ("batch_norm_moments_bf16" if dtype == "bfloat16" else "batch_norm_moments.") in text
    assert "batch_norm_sums" in text
    monkeypatch.setattr(cpp_kernels, "lanes", lambda: 0)
    text, expected = run()
    assert "batch_norm_" not in text
    assert_close(actual, expected, 2e-5 if dtype == "float32" else 1e-2)


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
