"""What a benchmark runs: whole steps of a model, and its single convolutions."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from flax import nnx

from resnext_jax import models, ops


@dataclass(frozen=True)
class StepCase:
    """A whole step of a model."""

    config: models.ResNetConfig
    train: bool
    batch_size: int
    image_size: int
    dtype: str = "float32"
    name: str = ""


@dataclass(frozen=True)
class LayerCase:
    """One convolution: its forward pass or, in training, forward pass and both gradients."""

    input_shape: tuple[int, ...]
    kernel_shape: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    groups: int
    train: bool
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """Such as "3x3 128->128 /32 at 56x56", stride 2 as "s2"."""
        kh, kw, _, outputs = self.kernel_shape
        _, height, width, inputs = self.input_shape
        groups = f" /{self.groups}" if self.groups > 1 else ""
        stride = f" s{self.strides[0]}" if self.strides != (1, 1) else ""
        return f"{kh}x{kw} {inputs}->{outputs}{groups} at {height}x{width}{stride}"

    @property
    def arguments(self) -> dict[str, Any]:
        """What `jax.lax.conv_general_dilated` is called with, beside the arrays."""
        return {
            "window_strides": self.strides,
            "padding": self.padding,
            "dimension_numbers": ops.DIMENSION_NUMBERS,
            "feature_group_count": self.groups,
        }

    @property
    def output_shape(self) -> tuple[int, ...]:
        """[N, H', W', O]."""
        operands = (
            jax.ShapeDtypeStruct(shape, self.dtype) for shape in (self.input_shape, self.kernel_shape)
        )
        return jax.eval_shape(partial(jax.lax.conv_general_dilated, **self.arguments), *operands).shape


def count_convolutions(step: StepCase) -> dict[LayerCase, int]:
    """The distinct convolutions of a model's forward pass, and how often each occurs."""
    counts: dict[LayerCase, int] = {}

    def record(lhs: jax.Array, rhs: jax.Array, window_strides: Sequence[int], padding: Any, **rest: Any):
        groups = rest["feature_group_count"]
        strides, padding = tuple(window_strides), tuple((int(low), int(high)) for low, high in padding)
        case = LayerCase(lhs.shape, rhs.shape, strides, padding, groups, step.train, step.dtype)
        counts[case] = counts.get(case, 0) + 1
        return jax.lax.conv_general_dilated(lhs, rhs, window_strides, padding, **rest)

    images = jax.ShapeDtypeStruct((step.batch_size, step.image_size, step.image_size, 3), "float32")

    def forward(images: jax.Array) -> jax.Array:
        return models.ResNet(step.config, conv_general_dilated=record, rngs=nnx.Rngs(0))(images)

    jax.eval_shape(forward, images)
    return counts
