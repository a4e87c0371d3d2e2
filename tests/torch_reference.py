"""torch models to compare ours with: torchvision's, timm's, and what the other variants are made of.

Weights are seeded and random, and so are the batch norms' affine terms and statistics: those of a fresh model
(ones and zeros) would hide mistakes.
"""

import re
from collections.abc import Callable
from functools import partial
from types import ModuleType

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from port_torchvision import import_torchvision, randomise_norms
from torch import nn

from resnext_jax.models import Network, ResNetConfig, abstract_model
from resnext_jax.weights import load_torch_state_dict

# Its waiting threads would take the cores from XLA: tests then run three times as long.
torch.set_num_threads(1)

TORCHVISION = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)


# One network of each kind that timm has and torchvision has not, and small enough for quick tests: stems,
# shortcuts, attention, anti-aliasing, norms, activations and what pruning leaves, each at least once.
SMALL = {"layers": (1, 2, 1, 1), "planes": (16, 16, 32, 32)}
KINDS = {
    "tiered-avg_pool-eca": ResNetConfig(
        "basic", **SMALL, stem="tiered", stem_width=16, shortcut="avg_pool", attention="eca"
    ),
    "deep-grouped-se": ResNetConfig(
        "bottleneck",
        **SMALL,
        groups=4,
        width_per_group=32,
        stem="deep",
        stem_width=16,
        attention="se",
        se_ratio=0.25,
    ),
    "conv_pool-avg_pool": ResNetConfig(
        "bottleneck", **SMALL, stem_pool="conv", anti_alias="avg_pool", shortcut="avg_pool", activation="silu"
    ),
    "blur-conv3x3": ResNetConfig(
        "bottleneck",
        **SMALL,
        groups=4,
        width_per_group=32,
        anti_alias="blur",
        shortcut="conv3x3",
        reduce_first=2,
    ),
    "group-gelu": ResNetConfig(
        "basic", (1, 1, 1, 1), norm="group", activation="gelu", planes=(32, 32, 64, 64)
    ),
    "mixed": ResNetConfig(
        ("basic", "basic", "bottleneck", "basic"),
        (1, 1, 1, 1),
        planes=(8, 16, 16, 32),
        activation="hard_swish",
    ),
    "pruned-eca": ResNetConfig(
        "bottleneck",
        (1, 2, 1, 1),
        planes=(32, 16, 32, 32),
        attention="eca",
        shortcut="avg_pool",
        pruned=(19, 7, 5, 23, 8, 6, 9, 7, 40, 11, 12, 50, 13, 14),
    ),
    "leaky-blur-basic": ResNetConfig("basic", **SMALL, anti_alias="blur", activation="leaky_relu"),
}


def reference(
    torchvision: ModuleType,
    name: str | ResNetConfig,
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    seed: int = 0,
) -> nn.Module:
    """The torch model of a variant, with random weights and random norms, in evaluation form."""
    torch.manual_seed(seed)
    model = build(torchvision, name, num_classes)
    if in_channels != 3:
        conv = model.conv1
        model.conv1 = nn.Conv2d(in_channels, 64, conv.kernel_size, conv.stride, conv.padding, bias=False)
    for norm in model.modules():
        if isinstance(norm, nn.GroupNorm):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0.0, 0.2)
    randomise_norms(model, in_channels)
    return model.eval()


def import_timm() -> ModuleType:
    """timm, which imports torchvision."""
    import_torchvision()
    return pytest.importorskip("timm")


def build(torchvision: ModuleType, name: str | ResNetConfig, num_classes: int) -> nn.Module:
    """The torch model of a variant, freshly initialised."""
    if isinstance(name, ResNetConfig):
        return timm_network(name, num_classes)
    resnet = torchvision.models.resnet
    resnext = partial(resnet.ResNet, resnet.Bottleneck, groups=32, width_per_group=4, num_classes=num_classes)
    if name in TORCHVISION:
        return torchvision.models.get_model(name, num_classes=num_classes)
    if name == "resnext14_32x4d":
        return resnext([1, 1, 1, 1])
    if name == "resnext38_32x4d":
        return resnext([2, 3, 5, 2], norm_layer=partial(nn.BatchNorm2d, eps=1.001e-5))
    if name == "resnext50_32x4d_stride1x1_bias":
        return stride_first_and_bias(resnext([3, 4, 6, 3]))
    if paper := re.fullmatch(r"resnext29_(\d+)x(\d+)d", name):
        shape = {"groups": int(paper[1]), "width_per_group": int(paper[2]), "num_classes": num_classes}
        return cifar(resnet.ResNet(resnet.Bottleneck, [3, 3, 3, 1], **shape))
    if supervised := re.fullmatch(r"resnext101_32x(16|32|48)d", name):
        shape = {"groups": 32, "width_per_group": int(supervised[1]), "num_classes": num_classes}
        return resnet.ResNet(resnet.Bottleneck, [3, 4, 23, 3], **shape)
    if name == "resnet50_v2":
        return PreactivationResNet([3, 4, 6, 3], num_classes)
    return import_timm().create_model(name, num_classes=num_classes)


def timm_network(config: ResNetConfig, num_classes: int) -> nn.Module:
    """timm's network of a configuration."""
    timm = import_timm()
    resnet = timm.models.resnet
    kinds = {"basic": resnet.BasicBlock, "bottleneck": resnet.Bottleneck}
    attention = config.attention
    if attention == "se":
        attention = partial(timm.layers.SqueezeExcite, rd_ratio=config.se_ratio)
    model = resnet.ResNet(
        [kinds[kind] for kind in config.blocks],
        config.layers,
        num_classes=num_classes,
        cardinality=config.groups,
        base_width=config.width_per_group,
        stem_width=config.stem_width,
        stem_type={"imagenet": "", "deep": "deep", "tiered": "deep_tiered"}[config.stem],
        replace_stem_pool=config.stem_pool == "conv",
        block_reduce_first=config.reduce_first,
        down_kernel_size=3 if config.shortcut == "conv3x3" else 1,
        avg_down=config.shortcut == "avg_pool",
        channels=config.planes or (64, 128, 256, 512),
        act_layer=config.activation,
        norm_layer="groupnorm" if config.norm == "group" else nn.BatchNorm2d,
        aa_layer={None: None, "blur": timm.layers.BlurPool2d, "avg_pool": nn.AvgPool2d}[config.anti_alias],
        block_args={"attn_layer": attention},
    )
    return prune(model, config) if config.pruned else model


def prune(model: nn.Module, config: ResNetConfig) -> nn.Module:
    """Give the bottlenecks of a network the channels that pruning has left."""
    inputs, left = model.bn1.num_features, iter(config.pruned)
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        outputs = next(left)
        for block in stage:
            first, second = next(left), next(left)
            block.conv1, block.bn1 = nn.Conv2d(inputs, first, 1, bias=False), nn.BatchNorm2d(first)
            conv = block.conv2
            block.conv2 = nn.Conv2d(first, second, 3, conv.stride, 1, bias=False)
            block.bn2, block.bn3 = nn.BatchNorm2d(second), nn.BatchNorm2d(outputs)
            block.conv3 = nn.Conv2d(second, outputs, 1, bias=False)
            if block.downsample is not None:
                block.downsample[1] = nn.Conv2d(inputs, outputs, 1, bias=False)
                block.downsample[2] = nn.BatchNorm2d(outputs)
            inputs = outputs
    model.fc = nn.Linear(inputs, model.fc.out_features)
    return model


def stride_first_and_bias(model: nn.Module) -> nn.Module:
    """Give every convolution a bias, and move the bottlenecks' strides to their first 1x1."""
    for block in model.modules():
        if hasattr(block, "conv3"):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
        if isinstance(block, nn.Conv2d):
            block.bias = nn.Parameter(torch.empty(block.out_channels).normal_(0, 0.1))
    return model


def cifar(model: nn.Module) -> nn.Module:
    """Three stages behind a 3x3 convolution of stride 1, without pooling."""
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    model.layer4 = nn.Identity()
    model.fc = nn.Linear(1024, model.fc.out_features)
    return model


class PreactivationBlock(nn.Module):
    """Norm, ReLU, convolution, three times; the stages' last blocks stride and skip by subsampling."""

    def __init__(self, inputs: int, planes: int, stride: int):
        super().__init__()
        norm = partial(nn.BatchNorm2d, eps=1.001e-5)
        self.bn1, self.conv1 = norm(inputs), nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn2, self.conv2 = norm(planes), nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn3, self.conv3 = norm(planes), nn.Conv2d(planes, 4 * planes, 1)
        self.skip = nn.MaxPool2d(1, stride)
        if inputs != 4 * planes:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, 4 * planes, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(x))
        shortcut = self.downsample(y) if hasattr(self, "downsample") else self.skip(x)
        y = self.conv2(torch.relu(self.bn2(self.conv1(y))))
        return self.conv3(torch.relu(self.bn3(y))) + shortcut


class PreactivationResNet(nn.Module):
    """Keras' ResNet50V2, with the names of torchvision."""

    def __init__(self, layers: list[int], num_classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3)
        self.bn1, self.relu, self.maxpool = nn.Identity(), nn.Identity(), nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for i, blocks in enumerate(layers):
            planes, last = 64 * 2**i, 2 if i + 1 < len(layers) else 1
            channels = [inputs] + [4 * planes] * (blocks - 1)
            strides = [1] * (blocks - 1) + [last]
            parts = [PreactivationBlock(c, planes, s) for c, s in zip(channels, strides, strict=True)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*parts))
            inputs = 4 * planes
        self.norm = nn.BatchNorm2d(inputs, eps=1.001e-5)
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(stages(self, x)["pool"])


def weaken_branches(model: nn.Module) -> nn.Module:
    """Make what every block adds to its shortcut five times smaller.

    Of dozens of blocks with random norms each magnifies a difference, until after a step or two training is
    chaotic: torch's own results then part as fast from those of weights that are one rounding away.
    """
    for block in model.modules():
        if isinstance(block, PreactivationBlock):
            block.conv3.weight.data *= 0.2
        elif hasattr(block, "bn2"):
            getattr(block, "bn3", block.bn2).weight.data *= 0.2
    return model


def stages(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output of every stage, as `ResNet.features` names them."""
    relu = model.act1 if hasattr(model, "act1") else model.relu  # timm's name, and torchvision's
    outputs = {"stem": model.maxpool(relu(model.bn1(model.conv1(x))))}
    x = outputs["stem"]
    for name in ("layer1", "layer2", "layer3", "layer4"):
        if not isinstance(getattr(model, name), nn.Identity):
            x = outputs[name] = getattr(model, name)(x)
    if hasattr(model, "norm"):
        x = torch.relu(model.norm(x))
    outputs["pool"] = x.mean((2, 3))
    return outputs


def to_torch(images: np.ndarray) -> torch.Tensor:
    """[N, H, W, C] to [N, C, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """[N, C, H, W] to [N, H, W, C]; other ranks as they are."""
    array = tensor.detach().numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def ported(theirs: nn.Module, name: str | ResNetConfig, **options: int) -> Network:
    """Our model with the weights of a torch model, in evaluation form."""
    ours = abstract_model(name, num_classes=theirs.fc.out_features, **options)
    load_torch_state_dict(ours, theirs.state_dict())
    ours.eval()
    return ours


def compiled(function: Callable) -> Callable:
    """The function under jit, compiled quickly rather than well, as tests run it a few times."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 1})


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """max |found - expected| / max |expected|."""
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def assert_same_outputs(
    ours: Network, theirs: torch.nn.Module, images: np.ndarray, tolerance: float = 1e-4
) -> None:
    graphdef, state = nnx.split(ours)

    def forward(state: nnx.State, images: jax.Array) -> dict[str, jax.Array]:
        model = nnx.merge(graphdef, state)
        features = model.features(images)
        return features | {"logits": model.head(features["pool"])}

    found = compiled(forward)(state, images)
    with torch.no_grad():
        expected = stages(theirs, to_torch(images)) | {"logits": theirs(to_torch(images))}
    assert found.keys() == expected.keys()
    for output, value in expected.items():
        assert found[output].shape == to_numpy(value).shape
        assert relative_error(found[output], to_numpy(value)) < tolerance, output
