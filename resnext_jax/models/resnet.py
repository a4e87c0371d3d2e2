"""ResNet and ResNeXt in Flax NNX, channels last, with torchvision's and timm's names and numerics.

Deep Residual Learning (He et al. 2015, arXiv 1512.03385), Aggregated Residual Transformations (Xie et al.
2016, arXiv 1611.05431), Wide Residual Networks (Zagoruyko and Komodakis 2016, arXiv 1605.07146). Attribute
names, strides and initialisation are those of torchvision's `models/resnet.py`, and of timm's where that goes
further, so that a torch parameter name is the dotted path of ours. A ResNeXt is a ResNet with two other
integers: `groups` (the cardinality) and `width_per_group`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from resnext_jax import ops
from resnext_jax.errors import BadInput
from resnext_jax.models.keys import Keys
from resnext_jax.models.layers import (
    DropPath,
    Init,
    Layers,
    blur,
    conv_norm,
    conv_norm_pool,
    identity,
    linear_head,
    mean_2x2,
    pools_in_one,
)
from resnext_jax.models.network import Network
from resnext_jax.models.norm import ACTIVATIONS, BatchNorm
from resnext_jax.models.variants import Channels, ResNetConfig


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut; [N, H, W, inputs] -> [N, H/stride, W/stride, outputs].

    Args:
        inputs: channels of the input.
        channels: of the convolutions and the output.
        stride: of the first convolution.
        layers: of the network.
        drop_path: stochastic depth, or None.
    """

    def __init__(
        self, inputs: int, channels: Channels, stride: int, layers: Layers, drop_path: DropPath | None = None
    ):
        self.act, self.drop_path = layers.config.activation, drop_path
        stride_here, self.aa = layers.stride_after(stride)
        self.conv1 = layers.conv(inputs, channels.first, 3, stride_here)
        self.bn1 = layers.norm(channels.first)
        self.conv2 = layers.conv(channels.first, channels.outputs, 3)
        self.bn2 = layers.norm(channels.outputs, ends_branch=True)
        self.se = layers.attention(channels)
        self.downsample = layers.downsample(inputs, channels.outputs, stride)

    def __call__(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        y = self.aa(conv_norm(self.conv1, self.bn1, x, act=self.act))
        return _joined(self, x, y, self.conv2, self.bn2, keys)


class Bottleneck(nnx.Module):
    """1x1, grouped 3x3, 1x1 and a shortcut; arguments and shapes as in `BasicBlock`.

    The stride is on the 3x3 convolution, as torchvision has it ("ResNet v1.5"), unless the configuration
    says `stride_1x1`.
    """

    def __init__(
        self, inputs: int, channels: Channels, stride: int, layers: Layers, drop_path: DropPath | None = None
    ):
        first, second, outputs, _ = channels
        config = layers.config
        self.act, self.drop_path = config.activation, drop_path
        stride_1x1, stride_3x3 = (stride, 1) if config.stride_1x1 else (1, stride)
        stride_3x3, self.aa = layers.stride_after(stride_3x3)
        self.conv1 = layers.conv(inputs, first, 1, stride_1x1)
        self.bn1 = layers.norm(first)
        self.conv2 = layers.conv(first, second, 3, stride_3x3, groups=config.groups)
        self.bn2 = layers.norm(second)
        self.conv3 = layers.conv(second, outputs, 1)
        self.bn3 = layers.norm(outputs, ends_branch=True)
        self.se = layers.attention(channels)
        self.downsample = layers.downsample(inputs, outputs, stride)

    def __call__(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        y = conv_norm(self.conv1, self.bn1, x, act=self.act)
        y = self.aa(conv_norm(self.conv2, self.bn2, y, act=self.act))
        return _joined(self, x, y, self.conv3, self.bn3, keys)


class PreactivationBottleneck(nnx.Module):
    """Bottleneck with norm and activation before each convolution; arguments and shapes as in `BasicBlock`.

    Identity Mappings in Deep Residual Networks (He et al. 2016, arXiv 1603.05027), laid out as Keras'
    ResNet50V2: if the channels change, the shortcut is a 1x1 convolution of the activated input; if only the
    size changes, it takes every second pixel; and convolutions that no norm follows have a bias.
    """

    def __init__(
        self, inputs: int, channels: Channels, stride: int, layers: Layers, drop_path: DropPath | None = None
    ):
        first, second, outputs, _ = channels
        self.act, self.drop_path, self.stride = layers.config.activation, drop_path, stride
        self.bn1 = layers.norm(inputs)
        self.conv1 = layers.conv(inputs, first, 1)
        self.bn2 = layers.norm(first)
        self.conv2 = layers.conv(first, second, 3, stride, groups=layers.config.groups)
        self.bn3 = layers.norm(second)
        self.conv3 = layers.conv(second, outputs, 1, bias=True)
        changes = inputs != outputs
        self.downsample = nnx.List([layers.conv(inputs, outputs, 1, stride, bias=True)]) if changes else None

    def __call__(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        y = self.bn1(x, act=self.act)
        shortcut = _every(self.stride, x) if self.downsample is None else self.downsample[0](y)
        y = conv_norm(self.conv1, self.bn2, y, act=self.act)
        y = conv_norm(self.conv2, self.bn3, y, act=self.act)
        y = self.conv3(y)
        return (y if self.drop_path is None else self.drop_path(y, keys)) + shortcut


BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck, "preactivation": PreactivationBottleneck}


def _joined(
    block: BasicBlock | Bottleneck,
    x: jax.Array,
    y: jax.Array,
    conv: nnx.Conv,
    norm: Callable[..., jax.Array],
    keys: jax.Array | None,
) -> jax.Array:
    """The end of a block: its last convolution and norm; plus the shortcut, and activated.

    The branch may be weighted before, and sometimes dropped in training.
    """
    shortcut = x
    if block.downsample is not None:
        *pool, shortcut_conv, shortcut_norm = block.downsample
        for layer in pool:
            shortcut = layer(shortcut)
        shortcut = conv_norm(shortcut_conv, shortcut_norm, shortcut)
    if shortcut.shape[:3] != y.shape[:3]:
        # Anti-aliasing drops what shortcuts round up, in timm too.
        raise BadInput(
            f"a block's branch has {y.shape[1]} x {y.shape[2]} pixels and its shortcut {shortcut.shape[1]} x "
            f"{shortcut.shape[2]}: anti_alias='avg_pool' halves even sizes only; use images whose sides are "
            "multiples of 32"
        )
    if block.se is None and block.drop_path is None:
        return conv_norm(conv, norm, y, act=block.act, shortcut=shortcut)
    y = conv_norm(conv, norm, y)
    if block.se is not None:
        y = block.se(y)
    if block.drop_path is not None:
        y = block.drop_path(y, keys)
    return ACTIVATIONS[block.act](y + shortcut)


def _every(stride: int, x: jax.Array) -> jax.Array:
    """The pixels that a 1x1 window of this stride visits."""
    # Not by index: where the number of images is symbolic, as in exported programs, that is a gather.
    return jax.lax.slice(x, (0,) * 4, x.shape, (1, stride, stride, 1))


class ResNet(Network):
    """A ResNet or ResNeXt classifier.

    Args:
        config: the variant.
        num_classes: outputs of the head; 0: no head, the network gives pooled features.
        in_channels: channels of the input image.
        dtype: compute type (float32 or bfloat16); parameters and statistics stay float32.
        zero_init_residual: start every block as the identity (scale 0 in its last norm; Goyal et al. 2017).
        bn_axis_name: mapped axis over which batch statistics are synchronised, or None.
        drop_path: stochastic depth in training (Huang et al. 2016, arXiv 1603.09382): how often the last
            block's branch is left out; from 0 at the first it rises evenly. Calls then need `keys`.
        init: "torchvision" initialises convolutions as torchvision and timm do, "torch" as torch.nn.Conv2d.
        conv_general_dilated: convolution with the signature of `jax.lax.conv_general_dilated`.
        rngs: random streams for the initialisation.

    Raises:
        BadInput: an argument out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from resnext_jax.models import get_config
        >>> model = ResNet(get_config("resnext29_8x16d"), num_classes=10, rngs=nnx.Rngs(0))
        >>> model.eval()
        >>> model(jnp.zeros((1, 32, 32, 3))).shape
        (1, 10)
        >>> model.features(jnp.zeros((1, 32, 32, 3)))["layer2"].shape
        (1, 16, 16, 512)
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
        drop_path: float = 0.0,
        init: Init = "torchvision",
        conv_general_dilated: Callable[..., jax.Array] = ops.conv_general_dilated,
        rngs: nnx.Rngs | Keys,
    ):
        _check(config, num_classes, in_channels, drop_path)
        layers = Layers(
            config=config,
            rngs=rngs,
            dtype=dtype,
            bn_axis_name=bn_axis_name,
            zero_init_residual=zero_init_residual,
            init=init,
            conv_general_dilated=conv_general_dilated,
        )
        self.config = config
        self.dtype = dtype
        self.in_channels = in_channels
        self.preprocessing = None

        preactivation = "preactivation" in config.blocks
        self.conv1, features = _stem_conv(layers, in_channels, bias=preactivation)
        self.bn1 = None if preactivation else layers.norm(features)
        self.maxpool = _stem_pool(layers, features)
        drop_paths = iter(_drop_paths(drop_path, sum(config.layers)))
        for stage, name in enumerate(self.stages):
            block, blocks = BLOCKS[config.blocks[stage]], []
            for i, stride in enumerate(config.strides(stage)):
                channels = config.channels(stage, i)
                blocks.append(block(features, channels, stride, layers, next(drop_paths)))
                features = channels.outputs
            setattr(self, name, nnx.List(blocks))
        self.norm = layers.norm(features) if preactivation else None
        self.num_features = features * (2 if config.global_pool == "catavgmax" else 1)
        self.fc = linear_head(self.num_features, num_classes, dtype=dtype, rngs=rngs) if num_classes else None

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages, "layer1" on."""
        return tuple(f"layer{i + 1}" for i in range(len(self.config.layers)))

    def stem(self, images: jax.Array) -> jax.Array:
        """First convolutions and, but for CIFAR stems, pooling."""
        config, conv, norm = self.config, self.conv1, self.bn1
        is_own = (type(self).stem_conv, type(self).stem_pool) == (ResNet.stem_conv, ResNet.stem_pool)
        pools_largest = config.stem == "imagenet" and self.maxpool is None and config.anti_alias is None
        if (
            is_own
            and pools_largest
            and isinstance(conv, nnx.Conv)
            and isinstance(norm, BatchNorm)
            and pools_in_one(conv, norm, config.activation)
        ):
            return conv_norm_pool(conv, norm, self._checked(images))
        return self.stem_pool(self.stem_conv(images))

    def _checked(self, images: jax.Array) -> jax.Array:
        if images.ndim != 4 or images.shape[-1] != self.in_channels:
            raise BadInput(f"images of shape {images.shape}: expected [N, H, W, {self.in_channels}]")
        return images.astype(self.dtype)

    def stem_conv(self, images: jax.Array) -> jax.Array:
        """The part of the stem before its pooling: convolutions, norm and activation."""
        x, act = self._checked(images), self.config.activation
        if isinstance(self.conv1, nnx.List):
            conv1, bn1, _, conv2, bn2, _, conv3 = self.conv1
            x = conv_norm(conv1, bn1, x, act=act)
            x = conv_norm(conv2, bn2, x, act=act)
        else:
            conv3 = self.conv1
        return conv3(x) if self.bn1 is None else conv_norm(conv3, self.bn1, x, act=act)

    def stem_pool(self, x: jax.Array) -> jax.Array:
        """The pooling of the stem, of stride 2."""
        config = self.config
        if config.stem == "cifar":
            return x
        if self.maxpool is not None:
            *convs, norm = self.maxpool
            for layer in convs:
                x = layer(x)
            return norm(x, act=config.activation)
        if config.anti_alias == "avg_pool":
            return mean_2x2(x)
        stride = 1 if config.anti_alias else 2
        x = ops.max_pool(x, (3, 3), (stride, stride), ((1, 1), (1, 1)))
        return blur(x) if config.anti_alias else x

    def pool(self, x: jax.Array) -> jax.Array:
        """What `global_pool` takes of the last stage's output, [N, H, W, C] -> float32 [N, num_features]."""
        if self.norm is not None:
            x = self.norm(x, act=self.config.activation)
        kind = self.config.global_pool
        if kind is None:
            return x.astype(jnp.float32)
        if kind == "avg":
            return super().pool(x)
        largest = jnp.max(x, (1, 2)).astype(jnp.float32)
        if kind == "max":
            return largest
        mean = super().pool(x)
        return jnp.concatenate([mean, largest], -1) if kind == "catavgmax" else (mean + largest) / 2


def _check(config: ResNetConfig, num_classes: int, in_channels: int, drop_path: float) -> None:
    for name, value, least in (("num_classes", num_classes, 0), ("in_channels", in_channels, 1)):
        if value < least:
            raise BadInput(f"{name}={value}: expected at least {least}")
    if not 0 <= drop_path < 1:
        raise BadInput(f"drop_path={drop_path}: expected a number of at least 0 and below 1")
    if num_classes and config.global_pool is None:
        raise BadInput(
            f"global_pool=None with num_classes={num_classes}: a head takes pooled features; expected "
            "num_classes=0"
        )


def _drop_paths(highest: float, blocks: int) -> list[DropPath | None]:
    """Stochastic depth of each block, from none at the first evenly up to the last."""
    if not highest:
        return [None] * blocks
    return [DropPath(highest * i / max(blocks - 1, 1), i) for i in range(blocks)]


def _stem_conv(layers: Layers, in_channels: int, *, bias: bool) -> tuple[nnx.Conv | nnx.List, int]:
    """The first convolutions, and the channels that come out of them."""
    config = layers.config
    if config.stem not in ("deep", "tiered"):
        size, stride = (3, 1) if config.stem == "cifar" else (7, 2)
        return layers.conv(in_channels, 64, size, stride, bias=bias), 64
    second = config.stem_width
    first = second if config.stem == "deep" else second // 4 * 3
    convs = [
        layers.conv(in_channels, first, 3, 2),
        layers.norm(first),
        None,  # timm's activations have places of their own
        layers.conv(first, second, 3),
        layers.norm(second),
        None,
        layers.conv(second, 2 * second, 3),
    ]
    return nnx.List(convs), 2 * second


def _stem_pool(layers: Layers, features: int) -> nnx.List | None:
    """The layers of a pooling by convolution."""
    if layers.config.stem_pool == "max":
        return None
    stride, after = layers.stride_after(2)
    aa = [] if after is identity else [after]
    return nnx.List([layers.conv(features, features, 3, stride), *aa, layers.norm(features)])
