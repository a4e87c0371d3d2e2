"""The layers that blocks and stems are made of, and what makes them for one network."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from resnext_jax import ops
from resnext_jax.errors import BadInput
from resnext_jax.models.keys import Keys
from resnext_jax.models.norm import ACTIVATIONS, BatchNorm, GroupNorm
from resnext_jax.models.variants import Channels, ResNetConfig

Init = Literal["torchvision", "torch"]

# torch.nn.init.kaiming_normal_(mode="fan_out", nonlinearity="relu"), as torchvision initialises convolutions.
KAIMING_INIT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
# What torch.nn.Conv2d and torch.nn.Linear do by themselves: uniform within 1 / sqrt(fan_in).
TORCH_INIT = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def conv_norm(
    conv: nnx.Conv,
    norm: Callable[..., jax.Array],
    x: jax.Array,
    *,
    act: str | None = None,
    shortcut: jax.Array | None = None,
) -> jax.Array:
    """act(norm(conv(x)) + shortcut), with what is given of it; [N, H, W, C].

    In evaluation a batch norm is a scale and a shift for each channel, and one operator computes it all.
    """
    if isinstance(norm, BatchNorm) and norm.use_running_average and _is_ours(conv):
        relu = act == "relu"
        scale, shift = norm.scale_and_shift()
        shift = shift if conv.bias is None else shift + scale * conv.bias[...]
        x, kernel, window = _without_bias(conv, x)
        y = ops.conv_affine(x, kernel, scale, shift, shortcut, relu=relu, **window)
        return y if act is None or relu else ACTIVATIONS[act](y)
    own_act = act if shortcut is None else None
    if isinstance(norm, BatchNorm) and not norm.use_running_average and conv.bias is not None:
        # The norm takes the mean away, and the bias with it: adding it, and summing its gradient, which is
        # zero, would take as long as the convolution in bfloat16 on CPU.
        x, kernel, window = _without_bias(conv, x)
        y = conv.conv_general_dilated(x, kernel, dimension_numbers=ops.DIMENSION_NUMBERS, **window)
        y = norm(y, act=own_act, left_out=conv.bias[...])
    else:
        y = norm(conv(x), act=own_act)
    if shortcut is None:
        return y
    y = y + shortcut
    return y if act is None else ACTIVATIONS[act](y)


def _without_bias(conv: nnx.Conv, x: jax.Array) -> tuple[jax.Array, jax.Array, dict[str, Any]]:
    """Input and kernel of a convolution as `Layers.conv` makes it, in its type, and its window."""
    window: dict[str, Any] = {  # nnx takes other forms of strides and padding too
        "window_strides": conv.strides,
        "padding": conv.padding,
        "feature_group_count": conv.feature_group_count,
    }
    return x.astype(conv.dtype), conv.kernel[...].astype(conv.dtype), window


def pools_in_one(conv: nnx.Conv, norm: BatchNorm, act: str) -> bool:
    """Whether `conv_norm_pool` computes these layers: in training, as torchvision has them."""
    padded = [(size // 2,) * 2 for size in conv.kernel_size]
    standard = conv.strides == (2, 2) and conv.padding == padded and conv.feature_group_count == 1
    return (
        standard and conv.bias is None and _is_ours(conv) and act == "relu" and not norm.use_running_average
    )


def conv_norm_pool(conv: nnx.Conv, norm: BatchNorm, x: jax.Array) -> jax.Array:
    """Max pooling, 3x3 with stride 2, of relu(norm(conv(x))), in one operator; [N, H, W, C]."""
    assert norm.scale is not None
    assert norm.bias is not None
    vectors = norm.scale[...], norm.bias[...]
    y, mean, var = ops.stem(x.astype(conv.dtype), conv.kernel[...], *vectors, norm.epsilon, norm.axis_name)
    n, *size, _ = x.shape
    norm.follow(mean, var, n * math.prod(-(-length // 2) for length in size))
    return y


def _is_ours(conv: nnx.Conv) -> bool:
    """Whether no other convolution was put in its place, to be compared or counted: that is left there."""
    return conv.conv_general_dilated is ops.conv_general_dilated


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Makes the layers of one network, all alike: what blocks are given in the place of a dozen arguments.

    Args:
        config: the variant.
        rngs: random streams for the initialisation.
        dtype: compute type (float32 or bfloat16); parameters stay float32.
        bn_axis_name: mapped axis over which batch statistics are synchronised, or None.
        zero_init_residual: start every block as the identity (scale 0 in its last norm).
        init: convolutions as torchvision initialises them (He et al. 2015, normal, by the number of outputs),
            or as torch does by itself (uniform, by the number of inputs).
        conv_general_dilated: convolution with the signature of `jax.lax.conv_general_dilated`.
    """

    config: ResNetConfig
    rngs: nnx.Rngs | Keys
    dtype: jnp.dtype = field(default_factory=lambda: jnp.dtype("float32"))
    bn_axis_name: str | None = None
    zero_init_residual: bool = False
    init: Init = "torchvision"
    conv_general_dilated: Callable[..., jax.Array] = ops.conv_general_dilated

    def __post_init__(self) -> None:
        if self.init not in ("torchvision", "torch"):
            raise BadInput(f"init={self.init!r}: expected 'torchvision' or 'torch'")

    def conv(
        self, inputs: int, outputs: int, size: int, stride: int = 1, *, groups: int = 1, bias: bool = False
    ) -> nnx.Conv:
        """A square convolution, padded so that stride 1 keeps height and width."""
        torch = self.init == "torch"
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
            kernel_init=TORCH_INIT if torch else KAIMING_INIT,
            bias_init=torch_bias(size * size * inputs // groups) if torch else nnx.initializers.zeros_init(),
            conv_general_dilated=self.conv_general_dilated,
            rngs=self.rngs,
        )

    def norm(self, features: int, *, ends_branch: bool = False) -> BatchNorm | GroupNorm:
        """The norm after (or before) a convolution of so many channels."""
        zero = ends_branch and self.zero_init_residual
        options = {
            "epsilon": self.config.epsilon,
            "dtype": self.dtype,
            "scale_init": jax.nn.initializers.zeros if zero else jax.nn.initializers.ones,
            "rngs": self.rngs,
        }
        if self.config.norm == "group":
            return GroupNorm(features, **options)
        return BatchNorm(features, axis_name=self.bn_axis_name, **options)

    def downsample(self, inputs: int, outputs: int, stride: int) -> nnx.List | None:
        """The layers of a shortcut, to be called in turn; None is the identity."""
        if stride == 1 and inputs == outputs:
            return None
        kind = self.config.shortcut
        if kind == "avg_pool":
            # Where nothing strides, something without parameters still has its place among timm's names.
            pool = mean_2x2_ceil if stride == 2 else identity
            return nnx.List([pool, self.conv(inputs, outputs, 1), self.norm(outputs)])
        size = 3 if kind == "conv3x3" and stride > 1 else 1
        return nnx.List([self.conv(inputs, outputs, size, stride), self.norm(outputs)])

    def attention(self, channels: Channels) -> "SqueezeExcite | ChannelAttention | None":
        """Weights for the channels of a block's output."""
        if self.config.attention == "se":
            return SqueezeExcite(channels.outputs, self)
        return ChannelAttention(channels.unpruned, self) if self.config.attention == "eca" else None

    def stride_after(self, stride: int) -> tuple[int, Callable[[jax.Array], jax.Array]]:
        """Stride of a convolution, and what follows its activation: anti-aliasing strides in its place."""
        if self.config.anti_alias is None or stride == 1:
            return stride, identity
        return 1, blur if self.config.anti_alias == "blur" else mean_2x2


class SqueezeExcite(nnx.Module):
    """Weight each channel by what all are in the mean (Hu et al. 2018, arXiv 1709.01507); [N, H, W, C].

    Args:
        channels: C.
        layers: of the network; `se_ratio` C channels, in whole eights, are in the middle.
    """

    def __init__(self, channels: int, layers: Layers):
        reduced = max(8, int(channels * layers.config.se_ratio + 4) // 8 * 8)
        self.fc1 = layers.conv(channels, reduced, 1, bias=True)
        self.fc2 = layers.conv(reduced, channels, 1, bias=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.fc1(jnp.mean(x, (1, 2), keepdims=True)))
        return x * nnx.sigmoid(self.fc2(y))


class ChannelAttention(nnx.Module):
    """Weight each channel by its own mean and its neighbours'; [N, H, W, C].

    ECA-Net: Efficient Channel Attention (Wang et al. 2020, arXiv 1910.03151).

    Args:
        channels: C, of which the number of neighbours follows.
        layers: of the network.
    """

    def __init__(self, channels: int, layers: Layers):
        size = int((math.log2(channels) + 1) / 2)
        self.conv = ChannelConv(max(3, size + 1 - size % 2), layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        weights = nnx.sigmoid(self.conv(jnp.mean(x, (1, 2))))
        return x * weights[:, None, None, :]


class ChannelConv(nnx.Module):
    """A convolution along the channels, [N, C] -> [N, C], padded by zeros.

    As sums of shifted copies: convolutions of one dimension have no fast operator, and this is a few numbers.
    """

    def __init__(self, size: int, layers: Layers):
        self.kernel = nnx.Param(TORCH_INIT(layers.rngs.params(), (size, 1, 1), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...].astype(x.dtype)
        size, channels = kernel.shape[0], x.shape[1]
        padded = jnp.pad(x, ((0, 0), (size // 2, size // 2)))
        shifted = [jax.lax.slice_in_dim(padded, i, i + channels, axis=1) for i in range(size)]
        return jnp.sum(jnp.stack(shifted, -1) * kernel.reshape(size), -1)


class DropPath(nnx.Module):
    """Stochastic depth (Huang et al. 2016, arXiv 1603.09382); [N, H, W, C].

    In training it sets what a block adds to its shortcut to zero for some images, and divides that of the
    others by their share, so that the mean stays. Evaluation changes nothing.

    Args:
        rate: share of the images.
        index: of the block in its network, so that each draws for itself.
    """

    def __init__(self, rate: float, index: int):
        self.rate, self.index = rate, index
        self.deterministic = False  # set by `train()` and `eval()` of the network

    def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        if self.deterministic or self.rate == 0:
            return x
        if keys is None:
            raise BadInput(
                "drop_path: training draws random numbers; call model(images, keys) with a key for each "
                "image, such as jax.random.split(key, len(images))"
            )
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, self.index)
        kept = jax.vmap(partial(jax.random.bernoulli, p=1 - self.rate))(own)
        return jnp.where(kept[:, None, None, None], x / (1 - self.rate), 0).astype(x.dtype)


def linear_head(features: int, num_classes: int, *, dtype: jnp.dtype, rngs: nnx.Rngs | Keys) -> nnx.Linear:
    """A new classification layer, initialised as torch.nn.Linear; [N, features] -> [N, num_classes].

    Example:
        >>> head = linear_head(512, 3, dtype=jnp.float32, rngs=nnx.Rngs(0))
        >>> head(jnp.zeros((2, 512))).shape
        (2, 3)
    """
    return nnx.Linear(
        features, num_classes, dtype=dtype, kernel_init=TORCH_INIT, bias_init=torch_bias(features), rngs=rngs
    )


@lru_cache  # layers keep their initialisers, and are equal only if these are the same
def torch_bias(fan_in: int) -> Callable[..., jax.Array]:
    """The biases of torch.nn.Linear and torch.nn.Conv2d: uniform within 1 / sqrt(fan_in)."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype, *_: jax.random.uniform(key, shape, dtype, -bound, bound)


def identity(x: jax.Array) -> jax.Array:
    """The same again."""
    return x


def mean_2x2(x: jax.Array) -> jax.Array:
    """Mean of each 2x2 pixels, without the last of an odd number; [N, H, W, C] -> [N, H // 2, W // 2, C]."""
    for axis in (1, 2):
        pairs = x.shape[axis] // 2 * 2
        x = (_every_second(x, 0, pairs, axis) + _every_second(x, 1, pairs, axis)) / 2
    return x


def mean_2x2_ceil(x: jax.Array) -> jax.Array:
    """The same, the last of an odd number being a mean of its own (torch's `ceil_mode`)."""
    _, height, width, _ = x.shape
    return mean_2x2(jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge"))


def blur(x: jax.Array) -> jax.Array:
    """Every second pixel of an image that is blurred by (1, 2, 1) / 4 both ways, reflected at its edges.

    Zhang 2019, arXiv 1904.11486; [N, H, W, C] -> [N, ceil(H/2), ceil(W/2), C]. Along each axis it is the
    pixels of even place and their neighbours, of odd place: 30 times faster on CPU than as a convolution with
    a group for each channel, which pads besides.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        if size == 1:
            continue
        even, odd = (_every_second(x, start, size, axis) for start in (0, 1))
        first, last = (jax.lax.slice_in_dim(odd, i, i + 1, axis=axis) for i in (0, odd.shape[axis] - 1))
        before = jnp.concatenate([first, odd], axis)
        after = jnp.concatenate([odd, last], axis)
        before, after = (jax.lax.slice_in_dim(y, 0, even.shape[axis], axis=axis) for y in (before, after))
        x = (before + 2 * even + after) / 4
    return x


def _every_second(x: jax.Array, start: int, stop: int, axis: int) -> jax.Array:
    # Not by index: where the number of images is symbolic, as in exported programs, that is a gather.
    return jax.lax.slice_in_dim(x, start, stop, 2, axis)
