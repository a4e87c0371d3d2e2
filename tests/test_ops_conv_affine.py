"""A convolution with what follows it, against NumPy in float64 and against its own parts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import assert_close, convolutions, convolve_in_numpy, normal
from flax import nnx
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, PartitionSpec
from small_models import small_model

from resnext_jax import ops
from resnext_jax.ops import cpp_kernels
from resnext_jax.ops.conv_affine import conv_affine_p, in_parts

TOLERANCE = {"float32": 1e-5, "bfloat16": 2**-8}


@given(convolutions(), st.sampled_from(["float32", "bfloat16"]), st.booleans(), st.booleans())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_values(case, dtype, joins, relu):
    x_shape, w_shape, y_shape, strides, padding, dilation, groups = case
    x, w, shortcut = (normal(s, seed, dtype) for seed, s in enumerate((x_shape, w_shape, y_shape)))
    scale, shift = (normal(y_shape[-1:], seed) for seed in (3, 4))
    actual = ops.conv_affine(
        x,
        w,
        scale,
        shift,
        shortcut if joins else None,
        relu=relu,
        window_strides=strides,
        padding=padding,
        rhs_dilation=dilation,
        feature_group_count=groups,
    )
    assert (actual.shape, actual.dtype) == (y_shape, x.dtype)
    y, _, _ = convolve_in_numpy(x, w, shortcut, strides, padding, dilation, groups)
    expected = y * np.asarray(scale, np.float64) + np.asarray(shift, np.float64)
    expected = expected + np.asarray(shortcut, np.float64) if joins else expected
    expected = np.maximum(expected, 0) if relu else expected
    # Where bfloat16 has no kernel, the convolution is rounded before it is scaled.
    atol = TOLERANCE[dtype] * (1 + np.abs(y).max() * np.abs(np.asarray(scale)).max())
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, rtol=TOLERANCE[dtype], atol=atol)


@st.composite
def pointwise(draw):
    """Windows of one pixel: channels in one block and several, panels that are full or not, any stride."""
    inputs = draw(st.sampled_from([1, 3, 16, 40, 64, 300, 513, 1100]))
    outputs = draw(st.sampled_from([1, 7, 16, 24, 32, 33, 64, 200]))
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    size = draw(st.tuples(st.integers(1, 23), st.integers(1, 23)))
    return (draw(st.sampled_from([1, 2, 5])), *size, inputs), outputs, strides


@pytest.mark.skipif(cpp_kernels.lanes() == 0, reason="no C++ compiler")
@given(pointwise(), st.booleans(), st.booleans())
@example(((1, 150, 150, 33), 192, (1, 1)), True, True)  # a result that no cache keeps
@settings(max_examples=60, deadline=None, derandomize=True)
def test_kernel_of_one_pixel(case, joins, relu):
    """Called directly, as other lowerings serve some of these."""
    x_shape, outputs, strides = case
    result = [(length - 1) // stride + 1 for length, stride in zip(x_shape[1:3], strides, strict=True)]
    y = jax.ShapeDtypeStruct((x_shape[0], *result, outputs), jnp.float32)
    x, w, shortcut = normal(x_shape), normal((1, 1, x_shape[3], outputs), 1), normal(y.shape, 2)
    scale, shift = (normal((outputs,), seed) for seed in (3, 4))
    window = {"strides": strides, "padding": (0, 0), "dilation": (1, 1)}
    window = {name: np.array(pair, np.int64) for name, pair in window.items()}
    target = cpp_kernels.target("conv_then_join" if joins else "conv_then_norm")
    operands = (x, w, shortcut, scale, shift) if joins else (x, w, scale, shift)
    actual = jax.ffi.ffi_call(target, y)(*operands, **window, relu=np.bool_(relu))
    x, w, shortcut, scale, shift = (np.asarray(a, np.float64) for a in (x, w, shortcut, scale, shift))
    expected = x[:, :: strides[0], :: strides[1]] @ w[0, 0] * scale + shift
    expected = expected + shortcut if joins else expected
    assert_close(actual, (np.maximum(expected, 0) if relu else expected).astype(np.float32))


@pytest.fixture(params=["float32", "bfloat16"])
def layer(request):
    """x, kernel, shortcut, scale and shift of a layer of 4 groups that fill vectors."""
    shapes = (2, 7, 7, 64), (3, 3, 16, 64), (2, 7, 7, 64)
    return [normal(s, seed, request.param) for seed, s in enumerate(shapes)] + [normal((64,), 3)] * 2


def apply(x, kernel, shortcut, scale, shift):
    padding = ((1, 1), (1, 1))
    options = {"relu": True, "padding": padding, "feature_group_count": 4}
    return ops.conv_affine(x, kernel, scale, shift, shortcut, **options)


def apply_in_parts(*operands):
    (spec,) = (
        eqn.params["spec"]
        for eqn in jax.make_jaxpr(apply)(*operands).jaxpr.eqns
        if eqn.primitive is conv_affine_p
    )
    return in_parts(*operands, spec=spec, relu=True)


def tolerance(layer):
    return 4 * TOLERANCE[str(layer[0].dtype)]


def test_derivatives_are_those_of_the_parts(layer):
    def gradients(function):
        return jax.grad(lambda *a: jnp.sum(function(*a).astype(jnp.float32) ** 2), range(5))(*layer)

    assert_close(gradients(apply), gradients(apply_in_parts), tolerance(layer))


def test_derivative_in_one_operand(layer):
    x, kernel, *others = layer
    _, tangent = jax.jvp(lambda kernel: apply(x, kernel, *others), (kernel,), (kernel,))
    _, expected = jax.jvp(lambda kernel: apply_in_parts(x, kernel, *others), (kernel,), (kernel,))
    assert_close(tangent, expected, tolerance(layer))


@pytest.mark.parametrize("axes", [(0, None, 0, None, None), (None, None, None, 0, None), (0,) * 5])
def test_vmap(layer, axes):
    operands = [a if axis is None else jnp.stack([a, -a]) for a, axis in zip(layer, axes, strict=True)]
    expected = [
        apply(*(a if axis is None else a[i] for a, axis in zip(operands, axes, strict=True)))
        for i in range(2)
    ]
    assert_close(jax.vmap(apply, axes)(*operands), jnp.stack(expected), tolerance(layer))


def test_shard_map(layer):
    mesh = Mesh(jax.devices()[:2], "device")
    images, whole = PartitionSpec("device"), PartitionSpec()
    specs = (images, whole, images, whole, whole)
    mapped = jax.shard_map(apply, mesh=mesh, in_specs=specs, out_specs=images)
    assert_close(jax.jit(mapped)(*layer), apply(*layer), tolerance(layer))


def test_not_a_number_passes_relu(layer):
    x, *others = layer
    y = apply(x.at[0, 3, 3].set(jnp.nan), *others)
    assert bool(jnp.all(jnp.isnan(y[0, 3, 3])))
    assert not bool(jnp.any(jnp.isnan(y[1])))


@pytest.mark.skipif(cpp_kernels.lanes() == 0, reason="no C++ compiler")
def test_one_kernel_computes_it_but_in_no_exported_program(layer):
    text = jax.jit(apply).lower(*layer).as_text()
    assert "conv_then_join" in text
    assert "conv_forward" not in text
    exported = jax.export.export(jax.jit(apply))(*layer)
    assert "resnext_jax." not in exported.mlir_module()


@pytest.mark.skipif(cpp_kernels.lanes() == 0, reason="no C++ compiler")
def test_the_kernel_refuses_what_does_not_match():
    x, w, vector = jnp.ones((1, 4, 4, 16)), jnp.ones((1, 1, 16, 16)), jnp.ones(16)
    pair = {name: np.array((n, n), np.int64) for name, n in (("strides", 1), ("padding", 0), ("dilation", 1))}

    def call(kernel, *operands):
        target = cpp_kernels.target(kernel)
        return jax.ffi.ffi_call(target, jax.typeof(x))(*operands, **pair, relu=np.bool_(True))

    with pytest.raises(jax.errors.JaxRuntimeError, match=r"with a vector \[15\]"):
        call("conv_then_norm", x, w, vector[1:], vector)
    with pytest.raises(jax.errors.JaxRuntimeError, match="with a shortcut"):
        call("conv_then_join", x, w, x[:, 1:], vector, vector)


@pytest.mark.parametrize("name", ["bottleneck", "bias", "preactivation"])
def test_a_network_in_evaluation_is_made_of_them(name):
    """Each convolution with a norm after it is one operator, and the logits are those of the parts."""
    model = small_model(name)
    images = normal((2, 32, 32, 3))
    graphdef, state = nnx.split(model)
    forward = jax.jit(lambda state: nnx.merge(graphdef, state)(images))
    primitives = [eqn.primitive for eqn in jax.make_jaxpr(model)(images).jaxpr.eqns]
    fused = forward(state)
    for _, conv in nnx.iter_modules(model):
        if isinstance(conv, nnx.Conv):
            conv.conv_general_dilated = partial(ops.conv_general_dilated)  # is taken for another one
    graphdef, state = nnx.split(model)
    parts = jax.jit(lambda state: nnx.merge(graphdef, state)(images))(state)
    before = {"bottleneck": 0, "bias": 0, "preactivation": 4}[name]
    norms = sum(isinstance(module, nnx.BatchNorm) for _, module in nnx.iter_modules(model))
    assert primitives.count(conv_affine_p) == norms - before
    assert_close(fused, parts, 1e-4)
