"""Groups merged into blocks, for matrix units: the values and gradients of XLA's own grouped convolution."""

import re

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from resnext_jax.ops import conv_general_dilated
from resnext_jax.ops.conv import lowering, native, wide
from resnext_jax.ops.conv.spec import ConvSpec

NHWC = ("NHWC", "HWIO", "NHWC")


@st.composite
def specs(draw) -> ConvSpec:
    groups = draw(st.sampled_from([1, 2, 3, 8, 12, 32, 64]))
    inputs, outputs = draw(st.sampled_from([(1, 1), (2, 4), (4, 4), (5, 3), (16, 16), (32, 32), (4, 20)]))
    window = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    strides = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding = draw(st.tuples(*2 * [st.tuples(st.integers(0, 2), st.integers(0, 2))]))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    shape = (draw(st.integers(1, 2)), draw(st.integers(5, 7)), draw(st.integers(5, 7)), groups * inputs)
    kernel = (*window, inputs, groups * outputs)
    output = jax.eval_shape(
        lambda x, w: jax.lax.conv_general_dilated(
            x, w, strides, padding, None, dilation, NHWC, feature_group_count=groups
        ),
        jax.ShapeDtypeStruct(shape, jnp.float32),
        jax.ShapeDtypeStruct(kernel, jnp.float32),
    )
    return ConvSpec(shape, kernel, output.shape, strides, padding, dilation, groups, None)


@given(specs(), st.integers(0, 2**31))
@settings(max_examples=10)
def test_all_three_operators_are_xlas(spec, seed):
    rng = np.random.default_rng(seed)
    x, w, g = (
        rng.integers(-4, 5, shape).astype(np.float32)  # small integers: sums in any order are exact
        for shape in (spec.input_shape, spec.kernel_shape, spec.output_shape)
    )
    for name, operands in (("forward", (x, w)), ("input_grad", (g, w)), ("kernel_grad", (x, g))):
        ours, theirs = (getattr(module, name)(*operands, spec=spec) for module in (wide, native))
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("groups", "channels", "blocks"),
    [(32, 4, 1), (32, 8, 2), (32, 16, 4), (32, 32, 32), (64, 4, 2), (1, 64, 1)],
)
def test_blocks_fill_the_lanes(groups, channels, blocks):
    spec = ConvSpec(
        (1, 8, 8, groups * channels),
        (3, 3, channels, groups * channels),
        (1, 8, 8, groups * channels),
        (1, 1),
        ((1, 1), (1, 1)),
        (1, 1),
        groups,
        None,
    )
    assert wide.block_of(spec).groups == blocks


@pytest.mark.parametrize(
    ("platform", "asked", "groups"),
    [("tpu", None, {1}), ("tpu", "native", {32}), ("cuda", None, {32}), ("cuda", "merged", {1})],
)
def test_the_platform_chooses_and_a_variable_overrules(platform, asked, groups, monkeypatch):
    monkeypatch.delenv(lowering.VARIABLE, raising=False)
    if asked:
        monkeypatch.setenv(lowering.VARIABLE, asked)

    def loss(x, w):
        y = conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC, feature_group_count=32)
        return jnp.sum(y**2)

    x, w = jnp.zeros((2, 8, 8, 128)), jnp.zeros((3, 3, 4, 128))
    text = jax.jit(jax.grad(loss, (0, 1))).trace(x, w).lower(lowering_platforms=(platform,)).as_text()
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert len(convolutions) == 3
    counts = set()
    for line in convolutions:
        counts.add(max(int(n) for n in re.findall(r"(?:feature|batch)_group_count = (\d+)", line)))
    assert counts == groups
    assert "resnext_jax." not in text  # no kernel of the CPU's
