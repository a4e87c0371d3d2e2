"""The C++ kernels of bfloat16 against NumPy in float64, in the matrix unit and in vectors."""

import ctypes
import shlex
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import assert_close, convolutions, convolve_in_numpy, normal
from hypothesis import given, settings

from resnext_jax import ops
from resnext_jax.ops import cpp_kernels, cpp_library
from resnext_jax.ops.conv import lowering

NHWC = ("NHWC", "HWIO", "NHWC")
OPERATORS = ("forward", "input_grad", "kernel_grad")
# Products are exact and sums float32; each result is then rounded to 8 bits.
TOLERANCE = 2**-8

needs_instructions = pytest.mark.skipif(
    not cpp_kernels.multiplies_bfloat16(),
    reason="no C++ compiler, or no instructions for bfloat16 (AVX512_BF16)",
)


@pytest.fixture(scope="module", params=["matrix unit", "vectors"])
def kernels(request, tmp_path_factory) -> dict[str, str]:
    """The names by which XLA calls the three operators' kernels."""
    if request.param == "matrix unit":
        if cpp_library.library().functions.resnext_jax_bfloat16() < 2:
            pytest.skip("no matrix unit (AMX)")
        return {operator: cpp_kernels.target(f"conv_{operator}_bf16") for operator in OPERATORS}
    compiler = [*cpp_library._compiler(), *shlex.split("-mno-amx-bf16 -mno-amx-tile")]
    library = ctypes.CDLL(cpp_library._build(compiler, tmp_path_factory.mktemp("vectors"), "vectors"))
    assert library.resnext_jax_bfloat16() == 1
    for operator in OPERATORS:
        handler = jax.ffi.pycapsule(getattr(library, f"conv_{operator}_bf16"))
        jax.ffi.register_ffi_target(f"vectors.{operator}", handler, platform="cpu")
    return {operator: f"vectors.{operator}" for operator in OPERATORS}


@needs_instructions
@given(convolutions())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_operators(kernels, case):
    *shapes, strides, padding, dilation, groups = case
    x, w, g = (normal(shape, seed, "bfloat16") for seed, shape in enumerate(shapes))
    attributes = {"strides": strides, "padding": [low for low, _ in padding], "dilation": dilation}
    attributes = {name: np.array(pair, np.int64) for name, pair in attributes.items()}
    calls = zip(OPERATORS, (g, x, w), ((x, w), (g, w), (x, g)), strict=True)
    actual = [
        jax.ffi.ffi_call(kernels[operator], jax.typeof(result))(*operands, **attributes)
        for operator, result, operands in calls
    ]
    expected = convolve_in_numpy(x, w, g, strides, padding, dilation, groups)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(
            np.asarray(a, np.float64), b, rtol=TOLERANCE, atol=1e-5 * (1 + np.abs(b).max())
        )


def value_and_gradients(x, w, g):
    convolve = partial(
        ops.conv_general_dilated, window_strides=(2, 2), padding="SAME", dimension_numbers=NHWC
    )
    y, vjp = jax.vjp(partial(convolve, feature_group_count=8), x, w)
    return y, vjp(g)


@pytest.fixture
def layer():
    """x, w and dy of a layer of 8 groups of 14 channels."""
    shapes = (2, 15, 15, 112), (3, 3, 14, 112), (2, 8, 8, 112)
    return [normal(shape, seed, "bfloat16") for seed, shape in enumerate(shapes)]


@needs_instructions
def test_they_serve_every_shape(layer):
    text = jax.jit(value_and_gradients).lower(*layer).as_text()
    assert all(f"conv_{operator}_bf16" in text for operator in OPERATORS)


@needs_instructions
def test_threads_do_not_change_the_result(layer):
    """Sums are added up in an order that only the shape decides."""
    first = jax.jit(value_and_gradients)(*layer)
    for _ in range(5):
        again = jax.jit(value_and_gradients)(*layer)
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), first, again)))


@pytest.mark.skipif(cpp_kernels.lanes() == 0, reason="no C++ compiler")
def test_without_instructions_it_is_computed_in_float32(monkeypatch):
    monkeypatch.setattr(cpp_kernels, "multiplies_bfloat16", lambda: False)
    shapes = (2, 9, 9, 64), (3, 3, 8, 64), (2, 5, 5, 64)
    operands = [normal(shape, seed, "bfloat16") for seed, shape in enumerate(shapes)]
    function = jax.jit(value_and_gradients)
    text = function.lower(*operands).as_text()
    assert "bf16." not in text
    assert all(f"conv_{operator}." in text for operator in OPERATORS)
    exact = value_and_gradients(*(a.astype(jnp.float32) for a in operands))
    assert_close(function(*operands), jax.tree.map(lambda a: a.astype(jnp.bfloat16), exact), TOLERANCE)


@needs_instructions
def test_choice():
    spec = lowering.ConvSpec(
        (1, 3, 3, 5), (3, 3, 5, 7), (1, 3, 3, 7), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, None
    )
    assert lowering.choose("forward", spec, 16) == "native"
    assert lowering.choose("forward", spec, 16, multiplies_bfloat16=True) == "cpp"
