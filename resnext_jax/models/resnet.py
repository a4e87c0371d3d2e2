"""ResNet and ResNeXt in Flax NNX, channels last, with torchvision's names and numerics.

Deep Residual Learning (He et al. 2015, arXiv 1512.03385), Aggregated Residual Transformations (Xie et al.
2016, arXiv 1611.05431), Wide Residual Networks (Zagoruyko and Komodakis 2016, arXiv 1605.07146). Attribute
names, strides and initialisation are those of torchvision's `models/resnet.py`, so that a torch parameter
name is the dotted path of ours. A ResNeXt is a ResNet with two other integers: `groups` (the cardinality)
and `width_per_group`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from resnext_jax import ops
from resnext_jax.errors import BadInput
from resnext_jax.models.blocks import BLOCKS, Build, ResNetConfig
from resnext_jax.models.keys import Keys

# torch.nn.Linear's own: uniform within 1 / sqrt(fan_in).
LINEAR_INIT = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


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
        conv_general_dilated: Callable[..., jax.Array] = ops.conv_general_dilated,
        rngs: nnx.Rngs | Keys,
    ):
        for name, value in (("num_classes", num_classes), ("in_channels", in_channels)):
            if value < 1:
                raise BadInput(f"{name}={value}: expected a positive number")
        build = Build(config, conv_general_dilated, dtype, bn_axis_name, zero_init_residual, rngs)
        self.config = config
        self.dtype = dtype
        self.in_channels = in_channels
        self.preprocessing: Any = None  # how images are prepared for the weights, where these say it

        preactivation = config.block == "preactivation"
        size, stride = (7, 2) if config.stem == "imagenet" else (3, 1)
        self.conv1 = build.conv(in_channels, 64, size, stride, bias=preactivation)
        self.bn1 = None if preactivation else build.norm(64)
        block = BLOCKS[config.block]
        features = 64
        for stage, name in enumerate(self.stages):
            planes = 64 * 2**stage
            blocks = []
            for stride in config.strides(stage):
                blocks.append(block(features, planes, stride, build))
                features = planes * block.expansion
            setattr(self, name, nnx.List(blocks))
        self.norm = build.norm(features) if preactivation else None
        self.fc = linear_head(features, num_classes, dtype=dtype, rngs=rngs)

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
        features["pool"] = self.pool(x)
        return features

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages, "layer1" on."""
        return tuple(f"layer{i + 1}" for i in range(len(self.config.layers)))

    def stem(self, images: jax.Array) -> jax.Array:
        """First convolution and, for ImageNet stems, max pooling."""
        if images.ndim != 4 or images.shape[-1] != self.in_channels:
            raise BadInput(f"images of shape {images.shape}: expected [N, H, W, {self.in_channels}]")
        x = self.conv1(images.astype(self.dtype))
        if self.bn1 is not None:
            x = self.bn1(x, relu=True)
        if self.config.stem == "imagenet":
            x = ops.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        return x

    def stage(self, name: str, x: jax.Array) -> jax.Array:
        """Blocks of one stage in turn."""
        for block in getattr(self, name):
            x = block(x)
        return x

    def pool(self, x: jax.Array) -> jax.Array:
        """Mean over the pixels of the last stage's output, [N, H, W, C] -> float32 [N, C]."""
        if self.norm is not None:
            x = self.norm(x, relu=True)
        return jnp.mean(x, (1, 2), dtype=jnp.float32)

    def head(self, pooled: jax.Array) -> jax.Array:
        """Logits, float32 [N, num_classes], of pooled features [N, C]."""
        return self.fc(pooled).astype(jnp.float32)


def linear_head(features: int, num_classes: int, *, dtype: jnp.dtype, rngs: nnx.Rngs | Keys) -> nnx.Linear:
    """A new classification layer, initialised as torch.nn.Linear; [N, features] -> [N, num_classes]."""
    return nnx.Linear(
        features,
        num_classes,
        dtype=dtype,
        kernel_init=LINEAR_INIT,
        bias_init=partial(_uniform_bias, fan_in=features),
        rngs=rngs,
    )


def _uniform_bias(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype, *, fan_in: int) -> jax.Array:
    """torch.nn.Linear's bias: uniform within 1 / sqrt(fan_in)."""
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)
