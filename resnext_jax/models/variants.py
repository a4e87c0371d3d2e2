"""What tells one network of the family from another, and the table of those that have a name."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, NamedTuple

from resnext_jax.errors import BadInput
from resnext_jax.fields import Config, GoesWith, Range
from resnext_jax.models.pruned import ECARESNET50D, ECARESNET101D

Block = Literal["basic", "bottleneck", "preactivation"]
Positive = Annotated[int, Range(least=1)]


class Channels(NamedTuple):
    """Channels within a block.

    Args:
        first: after its first convolution.
        second: after its second.
        outputs: of its output.
        unpruned: of its output, before pruning.
    """

    first: int
    second: int
    outputs: int
    unpruned: int


@dataclass(frozen=True)
class ResNetConfig(Config):
    """A network of the family.

    The first eight fields make torchvision's ResNets and ResNeXts and the ResNeXt paper's CIFAR models; the
    others are those of timm's `models/resnet.py` (its arguments' names in parentheses).

    Args:
        block: "basic" (two 3x3 convolutions), "bottleneck" (1x1, 3x3, 1x1) or "preactivation" (a bottleneck
            with its norms before its convolutions, He et al. 2016); or one for each stage.
        layers: blocks in each stage.
        groups: cardinality: groups of each bottleneck's 3x3 convolution (`cardinality`).
        width_per_group: channels of each group in the first stage (`base_width`).
        stem: "imagenet" (7x7 stride 2), "deep" (three 3x3, the first of stride 2; He et al. 2018, arXiv
            1812.01187) or "tiered" (the same with a narrower first one), each followed by a pooling of stride
            2; or "cifar" (3x3 stride 1, without pooling) (`stem_type`).
        stride_1x1: bottlenecks stride in their first 1x1 convolution (the first paper) and not in the 3x3.
        conv_bias: every convolution has a bias, also those that a norm follows.
        epsilon: of every norm.
        stem_width: channels of a deep or tiered stem's second convolution; its third has twice as many.
        stem_pool: "max" (3x3) or "conv" (a 3x3 convolution and a norm; `replace_stem_pool`).
        shortcut: if a block changes size, its shortcut is a 1x1 convolution ("conv"), a 3x3 convolution
            ("conv3x3", `down_kernel_size`) or the mean of 2x2 pixels and a 1x1 convolution ("avg_pool",
            `avg_down`).
        attention: weights for the channels of each block's output: "se" (squeeze and excitation, Hu et al.
            2018, arXiv 1709.01507) or "eca" (Wang et al. 2020, arXiv 1910.03151) (`attn_layer`).
        se_ratio: share of the channels in the middle of squeeze and excitation (`rd_ratio`).
        anti_alias: what strides in the place of 3x3 convolutions and of the stem's pooling: a "blur" (3x3,
            Zhang 2019, arXiv 1904.11486) or the mean of 2x2 pixels ("avg_pool") (`aa_layer`).
        activation: after every norm but a block's last, and after the sum with the shortcut (`act_layer`).
        norm: "batch" or "group" (32 groups of channels, Wu and He 2018, arXiv 1803.08494) (`norm_layer`).
        planes: width of each stage; empty: 64, doubled from stage to stage (`channels`).
        reduce_first: divides the channels of each block's first convolution (`block_reduce_first`).
        pruned: channels that pruning has left of bottlenecks (Aflalo et al. 2020, arXiv 2002.08258): for each
            stage those of its output, then those of each block's first two convolutions.
        global_pool: what is taken of the last stage's pixels: mean, maximum, half of their sum, both side by
            side, or (None, without a head only) all of them.

    Example:
        >>> from resnext_jax.models import ResNetConfig, get_config
        >>> ResNetConfig("bottleneck", (3, 4, 6, 3), 32, 4) == get_config("resnext50_32x4d")
        True
    """

    block: Block | tuple[Block, ...]
    layers: Annotated[tuple[int, ...], Range(least=1)]
    groups: Positive = 1
    width_per_group: Positive = 64
    stem: Literal["imagenet", "deep", "tiered", "cifar"] = "imagenet"
    stride_1x1: bool = False
    conv_bias: bool = False
    epsilon: Annotated[float, Range(above=0)] = 1e-5
    stem_width: Annotated[int, Range(least=4), GoesWith("stem", "deep", "tiered")] = 64
    stem_pool: Annotated[Literal["max", "conv"], GoesWith("stem", "imagenet", "deep", "tiered")] = "max"
    shortcut: Literal["conv", "conv3x3", "avg_pool"] = "conv"
    attention: Literal["se", "eca"] | None = None
    se_ratio: Annotated[float, Range(above=0, most=1), GoesWith("attention", "se")] = 1 / 16
    anti_alias: Literal["blur", "avg_pool"] | None = None
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "hard_swish", "mish"] = "relu"
    norm: Literal["batch", "group"] = "batch"
    planes: Annotated[tuple[int, ...], Range(least=1)] = ()
    reduce_first: Positive = 1
    pruned: Annotated[tuple[int, ...], Range(least=1)] = ()
    global_pool: Literal["avg", "max", "avgmax", "catavgmax"] | None = "avg"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    def check(self) -> None:
        """Check the fields by themselves and together; it is done at construction.

        Raises:
            BadInput: a value that is not allowed, or fields that contradict each other; the message names
                them.
        """
        super().check()
        stages = len(self.layers)
        if not stages:
            raise BadInput("layers=(): expected the number of blocks of each stage")
        if len(self.blocks) != stages:
            raise BadInput(f"block={self.block!r}: expected one, or one for each of {stages} stages")
        if len(self.planes) not in (0, stages):
            raise BadInput(f"planes={self.planes!r}: expected one for each of {stages} stages")
        if {*self.blocks} == {"basic"}:
            why = "basic blocks have no cardinality and no 1x1; use block='bottleneck'"
            self._only_defaults(why, "groups", "width_per_group", "stride_1x1")
        if "preactivation" in self.blocks:
            if {*self.blocks} != {"preactivation"} or self.stem not in ("imagenet", "cifar"):
                raise BadInput(
                    f"block={self.block!r} with stem={self.stem!r}: preactivation blocks go with their like, "
                    "and with stem='imagenet' or 'cifar'"
                )
            why = "preactivation blocks have none of that"
            names = ("stride_1x1", "stem_pool", "shortcut", "attention", "anti_alias", "reduce_first")
            self._only_defaults(why, *names)
        if self.anti_alias and self.stride_1x1:
            raise BadInput(
                f"anti_alias={self.anti_alias!r} with stride_1x1: choose one, both say what strides"
            )
        expected = stages + 2 * sum(self.layers)
        if self.pruned and len(self.pruned) != expected:
            raise BadInput(
                f"pruned: expected {expected} numbers for layers={self.layers}, found {len(self.pruned)}"
            )
        if self.pruned and ({*self.blocks} != {"bottleneck"} or self.groups > 1):
            raise BadInput("pruned: expected block='bottleneck' and groups=1")

    def _only_defaults(self, why: str, *names: str) -> None:
        defaults = type(self).__dataclass_fields__
        given = [name for name in names if getattr(self, name) != defaults[name].default]
        if given:
            raise BadInput(f"{', '.join(f'{name}={getattr(self, name)!r}' for name in given)}: {why}")

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The kind of block of each stage."""
        return (self.block,) * len(self.layers) if isinstance(self.block, str) else self.block

    def strides(self, stage: int) -> tuple[int, ...]:
        """Stride of each block of a stage, counted from 0.

        The first block of a stage strides, but for the first stage. With "preactivation" it is the last
        block, but for the last stage (Keras' ResNet50V2).
        """
        rest = (1,) * (self.layers[stage] - 1)
        if self.blocks[stage] == "preactivation":
            return (*rest, 2 if stage < len(self.layers) - 1 else 1)
        return (2 if stage > 0 else 1, *rest)

    def channels(self, stage: int, block: int) -> Channels:
        """Channels of a block, stage and block counted from 0."""
        planes = self.planes[stage] if self.planes else 64 * 2**stage
        if self.blocks[stage] == "basic":
            return Channels(planes // self.reduce_first, planes, planes, planes)
        if self.pruned:
            start = stage + 2 * sum(self.layers[:stage])
            first, second = self.pruned[start + 1 + 2 * block : start + 3 + 2 * block]
            return Channels(first, second, self.pruned[start], 4 * planes)
        width = planes * self.width_per_group // 64 * self.groups
        return Channels(width // self.reduce_first, width, 4 * planes, 4 * planes)


# Blocks of the networks that are called by their number of layers.
_18 = _26 = (2, 2, 2, 2)
_34 = _50 = (3, 4, 6, 3)
_101, _152, _200, _269 = (3, 4, 23, 3), (3, 8, 36, 3), (3, 24, 36, 3), (3, 30, 48, 8)

# The letter after the number: what is changed around the blocks.
_c = partial(ResNetConfig, stem="deep", stem_width=32)
_d = partial(ResNetConfig, stem="deep", stem_width=32, shortcut="avg_pool")
_s = partial(ResNetConfig, stem="deep", stem_width=64)
_t = partial(ResNetConfig, stem="tiered", stem_width=32, shortcut="avg_pool")
_rs = partial(_d, stem_pool="conv", attention="se", se_ratio=0.25)

VARIANTS: dict[str, ResNetConfig] = {
    "resnet18": ResNetConfig("basic", (2, 2, 2, 2)),
    "resnet34": ResNetConfig("basic", (3, 4, 6, 3)),
    "resnet50": ResNetConfig("bottleneck", (3, 4, 6, 3)),
    "resnet101": ResNetConfig("bottleneck", (3, 4, 23, 3)),
    "resnet152": ResNetConfig("bottleneck", (3, 8, 36, 3)),
    "resnext14_32x4d": ResNetConfig("bottleneck", (1, 1, 1, 1), 32, 4),  # one block a stage, for demos
    "resnext50_32x4d": ResNetConfig("bottleneck", (3, 4, 6, 3), 32, 4),
    "resnext101_32x8d": ResNetConfig("bottleneck", (3, 4, 23, 3), 32, 8),
    "resnext101_64x4d": ResNetConfig("bottleneck", (3, 4, 23, 3), 64, 4),
    "wide_resnet50_2": ResNetConfig("bottleneck", (3, 4, 6, 3), 1, 128),
    "wide_resnet101_2": ResNetConfig("bottleneck", (3, 4, 23, 3), 1, 128),
    # Weakly supervised on hashtags (Mahajan et al. 2018, arXiv 1805.00932); timm and torch hub have weights.
    "resnext101_32x16d": ResNetConfig("bottleneck", (3, 4, 23, 3), 32, 16),
    "resnext101_32x32d": ResNetConfig("bottleneck", (3, 4, 23, 3), 32, 32),
    "resnext101_32x48d": ResNetConfig("bottleneck", (3, 4, 23, 3), 32, 48),
    # The CIFAR models of the ResNeXt paper, section 5.3: three stages at 32, 16 and 8 px.
    "resnext29_8x16d": ResNetConfig("bottleneck", (3, 3, 3), 8, 16, stem="cifar"),  # a narrow one, for CPUs
    "resnext29_8x64d": ResNetConfig("bottleneck", (3, 3, 3), 8, 64, stem="cifar"),
    "resnext29_16x64d": ResNetConfig("bottleneck", (3, 3, 3), 16, 64, stem="cifar"),
    # The monkeypox experiment's model: strides as in the first ResNet paper, a bias in every convolution.
    "resnext50_32x4d_stride1x1_bias": ResNetConfig(
        "bottleneck", (3, 4, 6, 3), 32, 4, stride_1x1=True, conv_bias=True
    ),
    # The monkeypox SGD experiment's model: a block fewer in each stage, Keras' epsilon.
    "resnext38_32x4d": ResNetConfig("bottleneck", (2, 3, 5, 2), 32, 4, epsilon=1.001e-5),
    # Keras' ResNet50V2: norms before convolutions, the stride in each stage's last block.
    "resnet50_v2": ResNetConfig("preactivation", (3, 4, 6, 3), epsilon=1.001e-5),
    # The others of timm's models/resnet.py. ResNets with other depths, stems and shortcuts:
    "resnet10t": _t("basic", (1, 1, 1, 1)),
    "resnet14t": _t("bottleneck", (1, 1, 1, 1)),
    "resnet18d": _d("basic", _18),
    "resnet26": ResNetConfig("bottleneck", _26),
    "resnet26d": _d("bottleneck", _26),
    "resnet26t": _t("bottleneck", _26),
    "resnet34d": _d("basic", _34),
    "resnet50c": _c("bottleneck", _50),
    "resnet50d": _d("bottleneck", _50),
    "resnet50s": _s("bottleneck", _50),
    "resnet50t": _t("bottleneck", _50),
    "resnet50_gn": ResNetConfig("bottleneck", _50, norm="group"),
    "resnet101c": _c("bottleneck", _101),
    "resnet101d": _d("bottleneck", _101),
    "resnet101s": _s("bottleneck", _101),
    "resnet152c": _c("bottleneck", _152),
    "resnet152d": _d("bottleneck", _152),
    "resnet152s": _s("bottleneck", _152),
    "resnet200": ResNetConfig("bottleneck", _200),
    "resnet200d": _d("bottleneck", _200),
    "resnext50d_32x4d": _d("bottleneck", _50, 32, 4),
    "resnext101_32x4d": ResNetConfig("bottleneck", _101, 32, 4),
    # Squeeze and excitation:
    "seresnet18": ResNetConfig("basic", _18, attention="se"),
    "seresnet34": ResNetConfig("basic", _34, attention="se"),
    "seresnet50": ResNetConfig("bottleneck", _50, attention="se"),
    "seresnet50t": _t("bottleneck", _50, attention="se"),
    "seresnet101": ResNetConfig("bottleneck", _101, attention="se"),
    "seresnet152": ResNetConfig("bottleneck", _152, attention="se"),
    "seresnet152d": _d("bottleneck", _152, attention="se"),
    "seresnet200d": _d("bottleneck", _200, attention="se"),
    "seresnet269d": _d("bottleneck", _269, attention="se"),
    "seresnext26d_32x4d": _d("bottleneck", _26, 32, 4, attention="se"),
    "seresnext26t_32x4d": _t("bottleneck", _26, 32, 4, attention="se"),
    "seresnext50_32x4d": ResNetConfig("bottleneck", _50, 32, 4, attention="se"),
    "seresnext101_32x4d": ResNetConfig("bottleneck", _101, 32, 4, attention="se"),
    "seresnext101_32x8d": ResNetConfig("bottleneck", _101, 32, 8, attention="se"),
    "seresnext101d_32x8d": _d("bottleneck", _101, 32, 8, attention="se"),
    "seresnext101_64x4d": ResNetConfig("bottleneck", _101, 64, 4, attention="se"),
    "senet154": _s("bottleneck", _152, 64, 4, attention="se", shortcut="conv3x3", reduce_first=2),
    # Efficient channel attention:
    "ecaresnet26t": _t("bottleneck", _26, attention="eca"),
    "ecaresnetlight": ResNetConfig("bottleneck", (1, 1, 11, 3), attention="eca", shortcut="avg_pool"),
    "ecaresnet50d": _d("bottleneck", _50, attention="eca"),
    "ecaresnet50d_pruned": _d("bottleneck", _50, attention="eca", pruned=ECARESNET50D),
    "ecaresnet50t": _t("bottleneck", _50, attention="eca"),
    "ecaresnet101d": _d("bottleneck", _101, attention="eca"),
    "ecaresnet101d_pruned": _d("bottleneck", _101, attention="eca", pruned=ECARESNET101D),
    "ecaresnet200d": _d("bottleneck", _200, attention="eca"),
    "ecaresnet269d": _d("bottleneck", _269, attention="eca"),
    "ecaresnext26t_32x4d": _t("bottleneck", _26, 32, 4, attention="eca"),
    "ecaresnext50t_32x4d": _t("bottleneck", _50, 32, 4, attention="eca"),
    # Anti-aliased:
    "resnetblur18": ResNetConfig("basic", _18, anti_alias="blur"),
    "resnetblur50": ResNetConfig("bottleneck", _50, anti_alias="blur"),
    "resnetblur50d": _d("bottleneck", _50, anti_alias="blur"),
    "resnetblur101d": _d("bottleneck", _101, anti_alias="blur"),
    "resnetaa34d": _d("basic", _34, anti_alias="avg_pool"),
    "resnetaa50": ResNetConfig("bottleneck", _50, anti_alias="avg_pool"),
    "resnetaa50d": _d("bottleneck", _50, anti_alias="avg_pool"),
    "resnetaa101d": _d("bottleneck", _101, anti_alias="avg_pool"),
    "seresnetaa50d": _d("bottleneck", _50, attention="se", anti_alias="avg_pool"),
    "seresnextaa101d_32x8d": _d("bottleneck", _101, 32, 8, attention="se", anti_alias="avg_pool"),
    "seresnextaa201d_32x8d": _s(
        "bottleneck", (3, 24, 36, 4), 32, 8, attention="se", anti_alias="avg_pool", shortcut="avg_pool"
    ),
    # ResNet-RS (Bello et al. 2021, arXiv 2103.07579):
    "resnetrs50": _rs("bottleneck", _50),
    "resnetrs101": _rs("bottleneck", _101),
    "resnetrs152": _rs("bottleneck", _152),
    "resnetrs200": _rs("bottleneck", _200),
    "resnetrs270": _rs("bottleneck", (4, 29, 53, 4)),
    "resnetrs350": _rs("bottleneck", (4, 36, 72, 4)),
    "resnetrs420": _rs("bottleneck", (4, 44, 87, 4)),
    # A tiny one that timm trained for tests, of two kinds of blocks.
    "test_resnet": ResNetConfig(
        ("basic", "basic", "bottleneck", "basic"),
        (1, 1, 1, 1),
        stem="deep",
        stem_width=16,
        shortcut="avg_pool",
        planes=(32, 48, 48, 96),
    ),
}
