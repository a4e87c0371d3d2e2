"""ResNet and ResNeXt in Flax NNX, channels last, with torchvision's names and numerics.

Deep Residual Learning (He et al. 2015, arXiv 1512.03385), Aggregated Residual Transformations (Xie et al.
2016, arXiv 1611.05431), Wide Residual Networks (Zagoruyko and Komodakis 2016, arXiv 1605.07146). Attribute
names, strides and initialisation are those of torchvision's `models/resnet.py`, so that a torch parameter
name is the dotted path of ours. A ResNeXt is a ResNet with two other integers: `groups` (the cardinality)
and `width_per_group`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from resnext_jax import ops
from resnext_jax.models.norm import BatchNorm

# torch.nn.init.kaiming_normal_(mode="fan_out", nonlinearity="relu"), as torchvision initialises convolutions.
CONV_INIT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
# torch.nn.Linear's own: uniform within 1 / sqrt(fan_in).
LINEAR_INIT = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


@dataclass(frozen=True)
class ResNetConfig:
    """What tells one variant from another.

    Args:
        block: "basic" (two 3x3 convolutions) or "bottleneck" (1x1, 3x3, 1x1).
        layers: blocks in each stage.
        groups: cardinality: groups of each block's 3x3 convolution.
        width_per_group: channels of each group in the first stage.
        stem: "imagenet" (7x7 stride 2, then 3x3 max pool stride 2) or "cifar" (3x3 stride 1).
    """

    block: Literal["basic", "bottleneck"]
    layers: tuple[int, ...]
    groups: int = 1
    width_per_group: int = 64
    stem: Literal["imagenet", "cifar"] = "imagenet"

    def __post_init__(self):
        if self.block not in BLOCKS:
            raise ValueError(f"block={self.block!r}: expected one of {', '.join(BLOCKS)}")
        if self.block == "basic" and (self.groups, self.width_per_group) != (1, 64):
            raise ValueError(
                f"groups={self.groups}, width_per_group={self.width_per_group}: "
                "basic blocks have no cardinality; use block='bottleneck'"
            )
        if not self.layers or min(self.layers) < 1 or self.groups < 1 or self.width_per_group < 1:
            raise ValueError(f"{self}: layers, groups and width_per_group must be positive")


@dataclass(frozen=True)
class _Build:
    """How every layer of one model is made."""

    conv_general_dilated: Callable[..., jax.Array]
    dtype: jnp.dtype
    bn_axis_name: str | None
    zero_init_residual: bool
    rngs: nnx.Rngs

    def conv(self, inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nnx.Conv:
        # Padding is explicit: "SAME" would shift windows of stride 2 against torch's.
        return nnx.Conv(
            inputs,
            outputs,
            kernel_size=(size, size),
            strides=(stride, stride),
            padding=[(size // 2, size // 2)] * 2,
            feature_group_count=groups,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=CONV_INIT,
            conv_general_dilated=self.conv_general_dilated,
            rngs=self.rngs,
        )

    def norm(self, features: int, *, ends_branch: bool = False) -> BatchNorm:
        zero = ends_branch and self.zero_init_residual
        init = jax.nn.initializers.zeros if zero else jax.nn.initializers.ones
        return BatchNorm(
            features, dtype=self.dtype, axis_name=self.bn_axis_name, scale_init=init, rngs=self.rngs
        )

    def downsample(self, inputs: int, outputs: int, stride: int) -> nnx.List | None:
        if stride == 1 and inputs == outputs:
            return None
        return nnx.List([self.conv(inputs, outputs, 1, stride), self.norm(outputs)])


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut; [N, H, W, inputs] -> [N, H/stride, W/stride, planes]."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, config: ResNetConfig, build: _Build):
        self.conv1 = build.conv(inputs, planes, 3, stride)
        self.bn1 = build.norm(planes)
        self.conv2 = build.conv(planes, planes, 3)
        self.bn2 = build.norm(planes, ends_branch=True)
        self.downsample = build.downsample(inputs, planes, stride)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return nnx.relu(y + _shortcut(self.downsample, x))


class Bottleneck(nnx.Module):
    """1x1, grouped 3x3, 1x1 and a shortcut; [N, H, W, inputs] -> [N, H/stride, W/stride, 4 planes].

    The stride is on the 3x3 convolution, as torchvision has it ("ResNet v1.5"), not on the first 1x1.
    """

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, config: ResNetConfig, build: _Build):
        width = planes * config.width_per_group // 64 * config.groups
        outputs = planes * self.expansion
        self.conv1 = build.conv(inputs, width, 1)
        self.bn1 = build.norm(width)
        self.conv2 = build.conv(width, width, 3, stride, groups=config.groups)
        self.bn2 = build.norm(width)
        self.conv3 = build.conv(width, outputs, 1)
        self.bn3 = build.norm(outputs, ends_branch=True)
        self.downsample = build.downsample(inputs, outputs, stride)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = nnx.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return nnx.relu(y + _shortcut(self.downsample, x))


BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


def _shortcut(downsample: nnx.List | None, x: jax.Array) -> jax.Array:
    if downsample is None:
        return x
    conv, norm = downsample
    return norm(conv(x))


class ResNet(nnx.Module):
    """A ResNet or ResNeXt classifier.

    Args:
        config: the variant.
        num_classes: outputs of the head.
        in_channels: channels of the input image.
        dtype: compute type (float32 or bfloat16); parameters and statistics stay float32.
        zero_init_residual: start every block as the identity (scale 0 in its last norm; Goyal et al. 2017).
        bn_axis_name: mapped axis over which batch statistics are synchronised, or None.
        conv_general_dilated: convolution with the signature of `jax.lax.conv_general_dilated`.
        rngs: random streams for the initialisation.
    """

    def __init__(
        self,
        config: ResNetConfig,
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        dtype: jnp.dtype = jnp.float32,
        zero_init_residual: bool = False,
        bn_axis_name: str | None = None,
        conv_general_dilated: Callable[..., jax.Array] = ops.conv_general_dilated,
        rngs: nnx.Rngs,
    ):
        for name, value in (("num_classes", num_classes), ("in_channels", in_channels)):
            if value < 1:
                raise ValueError(f"{name}={value}: expected a positive number")
        build = _Build(conv_general_dilated, dtype, bn_axis_name, zero_init_residual, rngs)
        self.config = config
        self.dtype = dtype
        self.in_channels = in_channels

        imagenet = config.stem == "imagenet"
        self.conv1 = build.conv(in_channels, 64, 7 if imagenet else 3, 2 if imagenet else 1)
        self.bn1 = build.norm(64)
        block = BLOCKS[config.block]
        features = 64
        for stage, blocks in enumerate(config.layers):
            planes = 64 * 2**stage
            stage_blocks = []
            for i in range(blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                stage_blocks.append(block(features, planes, stride, config, build))
                features = planes * block.expansion
            setattr(self, f"layer{stage + 1}", nnx.List(stage_blocks))
        self.fc = nnx.Linear(
            features,
            num_classes,
            dtype=dtype,
            kernel_init=LINEAR_INIT,
            bias_init=partial(_uniform_bias, fan_in=features),
            rngs=rngs,
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        """Classify normalised images.

        Args:
            images: float [N, H, W, in_channels], normalised as in training.

        Returns:
            Logits, float32 [N, num_classes].

        Raises:
            ValueError: the images are not [N, H, W, in_channels].
        """
        return self.head(self.features(images)["pool"])

    def features(self, images: jax.Array) -> dict[str, jax.Array]:
        """Output of every stage: {"stem", "layer1", ..., "pool"}, [N, H, W, C] each, "pool" [N, C]."""
        features = {"stem": self.stem(images)}
        x = features["stem"]
        for name in self.stages:
            x = features[name] = self.stage(name, x)
        features["pool"] = jnp.mean(x, (1, 2), dtype=jnp.float32)
        return features

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages, "layer1" on."""
        return tuple(f"layer{i + 1}" for i in range(len(self.config.layers)))

    def stem(self, images: jax.Array) -> jax.Array:
        """First convolution and, for ImageNet stems, max pooling."""
        if images.ndim != 4 or images.shape[-1] != self.in_channels:
            raise ValueError(f"images of shape {images.shape}: expected [N, H, W, {self.in_channels}]")
        x = nnx.relu(self.bn1(self.conv1(images.astype(self.dtype))))
        if self.config.stem == "imagenet":
            x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        return x

    def stage(self, name: str, x: jax.Array) -> jax.Array:
        """Blocks of one stage in turn."""
        for block in getattr(self, name):
            x = block(x)
        return x

    def head(self, pooled: jax.Array) -> jax.Array:
        """Logits, float32 [N, num_classes], of pooled features [N, C]."""
        return self.fc(pooled).astype(jnp.float32)


def _uniform_bias(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype, *, fan_in: int) -> jax.Array:
    """torch.nn.Linear's bias: uniform within 1 / sqrt(fan_in)."""
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)
