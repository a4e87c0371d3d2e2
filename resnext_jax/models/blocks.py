"""Residual blocks of ResNet and ResNeXt, and what tells one variant from another."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from resnext_jax.errors import BadInput
from resnext_jax.models.keys import Keys
from resnext_jax.models.norm import BatchNorm

# torch.nn.init.kaiming_normal_(mode="fan_out", nonlinearity="relu"), as torchvision initialises convolutions.
CONV_INIT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


@dataclass(frozen=True)
class ResNetConfig:
    """What tells one variant from another.

    Args:
        block: "basic" (two 3x3 convolutions), "bottleneck" (1x1, 3x3, 1x1) or "preactivation" (a bottleneck
            with its norms before its convolutions, He et al. 2016).
        layers: blocks in each stage.
        groups: cardinality: groups of each block's 3x3 convolution.
        width_per_group: channels of each group in the first stage.
        stem: "imagenet" (7x7 stride 2, then 3x3 max pool stride 2) or "cifar" (3x3 stride 1).
        stride_1x1: bottlenecks stride in their first 1x1 convolution (the first paper) and not in the 3x3.
        conv_bias: every convolution has a bias, also those that a norm follows.
        epsilon: of every norm.
    """

    block: Literal["basic", "bottleneck", "preactivation"]
    layers: tuple[int, ...]
    groups: int = 1
    width_per_group: int = 64
    stem: Literal["imagenet", "cifar"] = "imagenet"
    stride_1x1: bool = False
    conv_bias: bool = False
    epsilon: float = 1e-5

    def __post_init__(self):
        if self.block not in BLOCKS:
            raise BadInput(f"block={self.block!r}: expected one of {', '.join(BLOCKS)}")
        if self.block == "basic" and (self.groups, self.width_per_group, self.stride_1x1) != (1, 64, False):
            raise BadInput(
                f"groups={self.groups}, width_per_group={self.width_per_group}, "
                f"stride_1x1={self.stride_1x1}: basic blocks have no cardinality and no 1x1; "
                "use block='bottleneck'"
            )
        if not self.layers or min(self.layers) < 1 or self.groups < 1 or self.width_per_group < 1:
            raise BadInput(f"{self}: layers, groups and width_per_group must be positive")

    def strides(self, stage: int) -> tuple[int, ...]:
        """Stride of each block of a stage, counted from 0.

        The first block of a stage strides, but for the first stage. With "preactivation" it is the last
        block, but for the last stage (Keras' ResNet50V2).
        """
        rest = (1,) * (self.layers[stage] - 1)
        if self.block == "preactivation":
            return (*rest, 2 if stage < len(self.layers) - 1 else 1)
        return (2 if stage > 0 else 1, *rest)


@dataclass(frozen=True)
class Build:
    """How every layer of one model is made."""

    config: ResNetConfig
    conv_general_dilated: Callable[..., jax.Array]
    dtype: jnp.dtype
    bn_axis_name: str | None
    zero_init_residual: bool
    rngs: nnx.Rngs | Keys

    def conv(
        self, inputs: int, outputs: int, size: int, stride: int = 1, *, groups: int = 1, bias: bool = False
    ) -> nnx.Conv:
        # Padding is explicit: "SAME" would shift windows of stride 2 against torch's.
        return nnx.Conv(
            inputs,
            outputs,
            kernel_size=(size, size),
            strides=(stride, stride),
            padding=[(size // 2, size // 2)] * 2,
            feature_group_count=groups,
            use_bias=bias or self.config.conv_bias,
            dtype=self.dtype,
            kernel_init=CONV_INIT,
            conv_general_dilated=self.conv_general_dilated,
            rngs=self.rngs,
        )

    def norm(self, features: int, *, ends_branch: bool = False) -> BatchNorm:
        zero = ends_branch and self.zero_init_residual
        return BatchNorm(
            features,
            epsilon=self.config.epsilon,
            dtype=self.dtype,
            axis_name=self.bn_axis_name,
            scale_init=jax.nn.initializers.zeros if zero else jax.nn.initializers.ones,
            rngs=self.rngs,
        )

    def downsample(self, inputs: int, outputs: int, stride: int) -> nnx.List | None:
        if stride == 1 and inputs == outputs:
            return None
        return nnx.List([self.conv(inputs, outputs, 1, stride), self.norm(outputs)])

    def width(self, planes: int) -> int:
        """Channels of a bottleneck's 3x3 convolution."""
        return planes * self.config.width_per_group // 64 * self.config.groups


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut; [N, H, W, inputs] -> [N, H/stride, W/stride, planes]."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, build: Build):
        self.conv1 = build.conv(inputs, planes, 3, stride)
        self.bn1 = build.norm(planes)
        self.conv2 = build.conv(planes, planes, 3)
        self.bn2 = build.norm(planes, ends_branch=True)
        self.downsample = build.downsample(inputs, planes, stride)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.bn1(self.conv1(x), relu=True)
        y = self.bn2(self.conv2(y))
        return nnx.relu(y + _shortcut(self.downsample, x))


class Bottleneck(nnx.Module):
    """1x1, grouped 3x3, 1x1 and a shortcut; [N, H, W, inputs] -> [N, H/stride, W/stride, 4 planes].

    The stride is on the 3x3 convolution, as torchvision has it ("ResNet v1.5"), unless the configuration
    says `stride_1x1`.
    """

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, build: Build):
        width = build.width(planes)
        outputs = planes * self.expansion
        first, second = (stride, 1) if build.config.stride_1x1 else (1, stride)
        self.conv1 = build.conv(inputs, width, 1, first)
        self.bn1 = build.norm(width)
        self.conv2 = build.conv(width, width, 3, second, groups=build.config.groups)
        self.bn2 = build.norm(width)
        self.conv3 = build.conv(width, outputs, 1)
        self.bn3 = build.norm(outputs, ends_branch=True)
        self.downsample = build.downsample(inputs, outputs, stride)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.bn1(self.conv1(x), relu=True)
        y = self.bn2(self.conv2(y), relu=True)
        y = self.bn3(self.conv3(y))
        return nnx.relu(y + _shortcut(self.downsample, x))


class PreactivationBottleneck(nnx.Module):
    """Bottleneck with norm and ReLU before each convolution; shapes as in `Bottleneck`.

    Identity Mappings in Deep Residual Networks (He et al. 2016, arXiv 1603.05027), laid out as Keras'
    ResNet50V2: where the channels change the shortcut is a 1x1 convolution of the activated input, where
    only the size changes it takes every second pixel, and convolutions that no norm follows have a bias.
    """

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, build: Build):
        width = build.width(planes)
        outputs = planes * self.expansion
        self.stride = stride
        self.bn1 = build.norm(inputs)
        self.conv1 = build.conv(inputs, width, 1)
        self.bn2 = build.norm(width)
        self.conv2 = build.conv(width, width, 3, stride, groups=build.config.groups)
        self.bn3 = build.norm(width)
        self.conv3 = build.conv(width, outputs, 1, bias=True)
        changes = inputs != outputs
        self.downsample = nnx.List([build.conv(inputs, outputs, 1, stride, bias=True)]) if changes else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.bn1(x, relu=True)
        shortcut = _every(self.stride, x) if self.downsample is None else self.downsample[0](y)
        y = self.bn2(self.conv1(y), relu=True)
        y = self.bn3(self.conv2(y), relu=True)
        return self.conv3(y) + shortcut


BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck, "preactivation": PreactivationBottleneck}


def _every(stride: int, x: jax.Array) -> jax.Array:
    """The pixels that a 1x1 window of this stride visits."""
    # Not by index: where the number of images is symbolic, as in exported programs, that is a gather.
    return jax.lax.slice(x, (0,) * 4, x.shape, (1, stride, stride, 1))


def _shortcut(downsample: nnx.List | None, x: jax.Array) -> jax.Array:
    if downsample is None:
        return x
    conv, norm = downsample
    return norm(conv(x))
