"""Which lowering computes what on CPU: the rows of the table in `ops/README.md`."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

import resnext_jax.ops
from resnext_jax.ops.conv.lowering import choose
from resnext_jax.ops.conv.spec import ConvSpec

README = Path(resnext_jax.ops.__file__).with_name("README.md")


def spec(size, inputs, outputs, groups=1, window=3, stride=1, batch=8):
    pad = (window - 1) // 2
    result = (size - 1) // stride + 1
    return ConvSpec(
        input_shape=(batch, size, size, inputs),
        kernel_shape=(window, window, inputs // groups, outputs),
        output_shape=(batch, result, result, outputs),
        strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        dilation=(1, 1),
        groups=groups,
        precision=None,
    )


# With the C++ kernels of 16 lanes, and without: forward, input gradient, kernel gradient.
CASES = {
    "1x1": (spec(56, 64, 256, window=1), "dot dot cpp", "dot dot dot"),
    "1x1, few pixels": (spec(1, 64, 256, window=1), "dot dot dot", "dot dot dot"),
    "1x1, stride 2": (spec(56, 256, 512, window=1, stride=2), "dot dot dot", "dot dot dot"),
    "stem": (spec(224, 3, 64, window=7, stride=2), "cpp native cpp", "native native native"),
    "3x3": (spec(56, 64, 64), "cpp cpp cpp", "native native native"),
    "3x3, small image": (spec(2, 64, 64), "cpp cpp cpp", "im2col im2col native"),
    "3x3, 20 channels": (spec(56, 20, 20), "native native cpp", "native native native"),
    "32x4d": (spec(56, 128, 128, 32), "cpp cpp cpp", "merged merged merged"),
    "32x32d": (spec(7, 1024, 1024, 32), "cpp cpp cpp", "merged merged merged"),
    "8x14d": (spec(56, 112, 112, 8), "cpp cpp cpp", "merged merged merged"),
    "groups of 4 to 8": (spec(56, 64, 128, 16), "cpp cpp cpp", "merged merged merged"),
    "1x1, groups": (spec(56, 128, 128, 32, window=1), "cpp cpp cpp", "merged merged merged"),
}


@pytest.mark.parametrize("name", CASES)
def test_choice(name):
    convolution, with_kernels, without = CASES[name]
    operators = ("forward", "input_grad", "kernel_grad")
    assert [choose(operator, convolution, 16) for operator in operators] == with_kernels.split()
    assert [choose(operator, convolution, 0) for operator in operators] == without.split()


FOLLOWED = {
    "1x1": (spec(56, 64, 256, window=1), "cpp"),
    "1x1, stride 2": (spec(28, 512, 1024, window=1, stride=2), "cpp"),
    "1x1, many channels": (spec(14, 1024, 256, window=1), "dot"),
    "1x1, many channels of few pixels": (spec(7, 2048, 512, window=1, batch=1), "cpp"),
    "1x1, channels that fill no vector": (spec(56, 64, 20, window=1), "dot"),
    "1x1 with padding": (replace(spec(56, 64, 256, window=1), padding=((1, 1), (1, 1))), "dot"),
    "3x3": (spec(56, 64, 64), "cpp"),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_choice_of_what_a_norm_follows(name):
    convolution, expected = FOLLOWED[name]
    assert choose("forward", convolution, 16, is_followed=True) == expected
    assert choose("forward", convolution, 0, is_followed=True) in ("dot", "native")


def test_readme_has_a_row_for_every_lowering():
    section = README.read_text().partition("## Which lowering serves\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    chosen = {name for _, *choices in CASES.values() for names in choices for name in names.split()}
    assert set(rows) == chosen
