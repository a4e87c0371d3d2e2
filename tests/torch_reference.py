"""torch models to compare ours with: torchvision's, and what the other variants are made of.

Weights are seeded and random, and so are the batch norms' affine terms and statistics: those of a fresh model
(ones and zeros) would hide mistakes.
"""

import re
from collections.abc import Callable
from functools import partial
from types import ModuleType

import jax
import numpy as np
import torch
from port_torchvision import randomise_norms
from torch import nn

from resnext_jax.models import ResNet, abstract_model
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


def reference(
    torchvision: ModuleType, name: str, *, num_classes: int = 10, in_channels: int = 3, seed: int = 0
) -> nn.Module:
    """The torch model of a variant, with random weights and random batch norms, in evaluation form."""
    torch.manual_seed(seed)
    model = build(torchvision, name, num_classes)
    if in_channels != 3:
        conv = model.conv1
        model.conv1 = nn.Conv2d(in_channels, 64, conv.kernel_size, conv.stride, conv.padding, bias=False)
    randomise_norms(model, in_channels)
    return model.eval()


def build(torchvision: ModuleType, name: str, num_classes: int) -> nn.Module:
    """The torch model of a variant, freshly initialised."""
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
    raise ValueError(name)


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
    outputs = {"stem": model.maxpool(model.relu(model.bn1(model.conv1(x))))}
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


def ported(theirs: nn.Module, name: str, **options: int) -> ResNet:
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
