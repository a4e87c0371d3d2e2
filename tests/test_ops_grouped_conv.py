"""The grouped convolution against `jax.lax.conv_general_dilated`: values, derivatives, transformations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, PartitionSpec

from resnext_jax.ops import conv_general_dilated

NHWC = ("NHWC", "HWIO", "NHWC")
TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "bfloat16": 2e-2}


@st.composite
def convolutions(draw):
    """Shapes of input and kernel, and the arguments of the convolution."""
    groups = draw(st.sampled_from([1, 1, 2, 3, 4, 8, 32]))
    inputs = groups * draw(st.sampled_from([1, 2, 3, 4, 8, 24] if groups < 32 else [1, 2, 4]))
    outputs = groups * draw(st.integers(1, 4))
    window = draw(st.sampled_from([(1, 1), (1, 1), (3, 3), (3, 3), (2, 3), (1, 5), (4, 2)]))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    pads = st.tuples(st.integers(0, 3), st.integers(0, 3))
    padding = draw(st.sampled_from(["SAME", "SAME_LOWER", "VALID"]) | st.tuples(pads, pads))
    least = [(size - 1) * step + 1 for size, step in zip(window, dilation, strict=True)]
    size = [draw(st.integers(low, low + 6)) for low in least]
    arguments = {
        "window_strides": strides,
        "padding": padding,
        "rhs_dilation": dilation,
        "feature_group_count": groups,
    }
    return (draw(st.integers(1, 3)), *size, inputs), (*window, inputs // groups, outputs), arguments


def operands(x_shape, w_shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=x_shape), dtype), jnp.asarray(rng.normal(size=w_shape), dtype)


def value_and_gradients(conv, x, w):
    """The convolution and, for one fixed cotangent, both gradients; in one compiled call."""

    @jax.jit
    def run(x, w):
        y, vjp = jax.vjp(conv, x, w)
        return y, vjp(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(y.dtype))

    return run(x, w)


@given(convolutions())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_value_and_gradients(case):
    x_shape, w_shape, arguments = case
    x, w = operands(x_shape, w_shape, "float32")
    actual, expected = (
        value_and_gradients(partial(conv, **arguments, dimension_numbers=NHWC), x, w)
        for conv in (conv_general_dilated, jax.lax.conv_general_dilated)
    )
    assert_close(actual, expected, TOLERANCE["float32"])


LAYERS = {
    "resnext": ((2, 9, 9, 64), (3, 3, 2, 64), {"window_strides": (1, 1), "padding": [(1, 1)] * 2}, 32),
    "strided": ((2, 9, 8, 64), (3, 3, 4, 96), {"window_strides": (2, 2), "padding": [(1, 1)] * 2}, 16),
    "depthwise": ((2, 7, 7, 12), (3, 3, 1, 24), {"window_strides": (1, 1), "padding": "SAME"}, 12),
    "dense": ((2, 7, 7, 5), (3, 3, 5, 6), {"window_strides": (2, 1), "padding": "SAME"}, 1),
    "pointwise": ((2, 7, 7, 5), (1, 1, 5, 6), {"window_strides": (2, 2), "padding": "VALID"}, 1),
    "stem": ((2, 15, 15, 3), (7, 7, 3, 8), {"window_strides": (2, 2), "padding": [(3, 3)] * 2}, 1),
}


def layer(name, dtype="float32"):
    """Ours and the native form of a layer, and its operands."""
    x_shape, w_shape, arguments, groups = LAYERS[name]
    arguments = arguments | {"dimension_numbers": NHWC, "feature_group_count": groups}
    pair = (partial(conv, **arguments) for conv in (conv_general_dilated, jax.lax.conv_general_dilated))
    return *pair, *operands(x_shape, w_shape, dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
@pytest.mark.parametrize("name", LAYERS)
def test_other_dtypes(name, dtype):
    with jax.enable_x64(dtype == "float64"):
        ours, native, x, w = layer(name, dtype)
        assert_close(value_and_gradients(ours, x, w), value_and_gradients(native, x, w), TOLERANCE[dtype])


def loss(conv):
    return lambda x, w: jnp.sum(jnp.sin(conv(x, w)))


TRANSFORMS = {
    "eager": lambda conv: conv,
    "jit": jax.jit,
    "grad": lambda conv: jax.grad(loss(conv), (0, 1)),
    "checkpoint": lambda conv: jax.grad(jax.checkpoint(loss(conv)), (0, 1)),
    "jacfwd": lambda conv: lambda x, w: jax.jit(jax.jacfwd(lambda s: loss(conv)(x * s, w * s)))(1.0),
    "second derivative": lambda conv: jax.jit(
        jax.grad(lambda x, w: sum(jnp.vdot(g, g) for g in jax.grad(loss(conv), (0, 1))(x, w)), (0, 1))
    ),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", ["resnext", "strided", "pointwise"])
def test_transforms(name, transform):
    ours, native, x, w = layer(name)
    transform = TRANSFORMS[transform]
    assert_close(transform(ours)(x, w), transform(native)(x, w), 1e-4)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (3, 1)], ids=str)
@pytest.mark.parametrize("name", ["strided", "pointwise"])
def test_vmap(name, axes):
    ours, native, x, w = layer(name)
    x, w = (
        operand if axis is None else jnp.stack([operand, -2 * operand], axis)
        for operand, axis in zip((x, w), axes, strict=True)
    )
    for transform in (lambda conv: conv, lambda conv: jax.grad(loss(conv), (0, 1))):
        actual, expected = (jax.jit(jax.vmap(transform(conv), axes))(x, w) for conv in (ours, native))
        assert_close(actual, expected, 1e-4)


def test_pmap_and_shard_map():
    """Gradients summed over devices are those of the whole batch."""
    devices = jax.devices()
    ours, native, x, w = layer("strided")
    x = jnp.concatenate([x] * len(devices)) * jnp.arange(1.0, 1 + 2 * len(devices))[:, None, None, None]
    expected = jax.grad(loss(native), 1)(x, w)

    def summed(x, w):
        return jax.lax.psum(jax.grad(loss(ours), 1)(x, w), "batch")

    shards = x.reshape(len(devices), 2, *x.shape[1:])
    mapped = jax.pmap(summed, axis_name="batch", in_axes=(0, None), out_axes=None)
    assert_close(mapped(shards, w), expected, 1e-4)

    specs = {"in_specs": (PartitionSpec("batch"), PartitionSpec()), "out_specs": PartitionSpec()}
    mesh = Mesh(devices, "batch")
    assert_close(jax.jit(jax.shard_map(summed, mesh=mesh, check_vma=False, **specs))(x, w), expected, 1e-4)
    # With its types checked, shard_map sums the gradient of a replicated operand by itself.
    checked = jax.shard_map(jax.grad(loss(ours), 1), mesh=mesh, **specs)
    assert_close(jax.jit(checked)(x, w), expected, 1e-4)


def test_lowering_is_chosen_by_platform():
    """Groups stay on GPUs; CPUs and TPUs merge them, each in its own way."""
    ours, _, x, w = layer("resnext")
    jitted = jax.jit(ours)
    for platform, native in (("cuda", True), ("tpu", False), ("cpu", False)):
        text = jitted.trace(x, w).lower(lowering_platforms=(platform,)).as_text()
        assert ("feature_group_count = 32" in text) is native


@pytest.mark.parametrize(
    "arguments",
    [
        {"dimension_numbers": ("NCHW", "OIHW", "NCHW")},
        {"dimension_numbers": NHWC, "lhs_dilation": (2, 2)},
        {"dimension_numbers": NHWC, "batch_group_count": 2},
        {"dimension_numbers": NHWC, "preferred_element_type": jnp.float64},
    ],
    ids=["layout", "lhs_dilation", "batch_groups", "element_type"],
)
def test_other_cases_are_left_to_jax(arguments):
    x, w = operands((4, 4, 4, 4), (4, 4, 4, 4), "float32")
    arguments = {"window_strides": (1, 1), "padding": [(1, 1), (1, 1)], **arguments}
    with jax.enable_x64(True):
        ours, native = (
            jax.make_jaxpr(partial(conv, **arguments))(x, w)
            for conv in (conv_general_dilated, jax.lax.conv_general_dilated)
        )
    assert str(ours) == str(native)


@pytest.mark.parametrize(
    ("w_shape", "change", "words"),
    [
        ((3, 3, 2, 8), {"feature_group_count": 3}, ["feature_group_count=3", "C=8"]),
        ((3, 3, 2, 6), {"feature_group_count": 4}, ["feature_group_count=4", "O=6"]),
        ((3, 3, 8, 8), {"feature_group_count": 4}, ["(3, 3, 8, 8)", "= 2 input channels"]),
        ((3, 3, 2, 8), {"feature_group_count": 4, "window_strides": (1,)}, ["window_strides=(1,)"]),
        ((3, 3, 2, 8), {"feature_group_count": 4, "padding": "FULL"}, ["'FULL'", "SAME"]),
        ((3, 3, 2, 8), {"feature_group_count": 4, "padding": [(1, 1)]}, ["padding=[(1, 1)]"]),
    ],
)
def test_bad_input_is_named(w_shape, change, words):
    x, w = operands((1, 5, 5, 8), w_shape, "float32")
    arguments = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": NHWC} | change
    with pytest.raises(ValueError, match="convolution of input") as error:
        conv_general_dilated(x, w, **arguments)
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)
