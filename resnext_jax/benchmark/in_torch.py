"""The cases in PyTorch, channels last: as they are, and compiled; bfloat16 by autocast."""

import importlib.util
import time
from collections.abc import Callable
from typing import Any

from resnext_jax.benchmark.cases import LayerCase, StepCase
from resnext_jax.errors import BadInput, MissingPackage
from resnext_jax.models import ResNetConfig

# torch is imported where it is used: our own process must not load it.


def check_torch(config: ResNetConfig) -> None:
    """Make sure that torch is there and can run the variant.

    Raises:
        MissingPackage: torch is not installed.
        BadInput: the variant is not one of torchvision's bottleneck networks.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingPackage("against torch: PyTorch is not installed: pip install 'resnext-jax[torch]'")

    kept = ("layers", "groups", "width_per_group", "stem", "epsilon")
    plain = ResNetConfig("bottleneck", **{name: getattr(config, name) for name in kept})
    if config != plain or config.stem not in ("imagenet", "cifar"):
        raise BadInput(
            "against torch: only torchvision's bottleneck variants have a counterpart, not timm's or others"
        )


def prepare_torch(case: StepCase | LayerCase, *, compiled: bool = False) -> tuple[Callable[[], None], float]:
    """What runs a case once in torch, channels last; and the seconds that compiling took.

    Args:
        case: what to run.
        compiled: by `torch.compile`.
    """
    import torch

    def channels_last(*shape: int) -> torch.Tensor:
        return torch.randn(*shape).to(memory_format=torch.channels_last)

    if isinstance(case, LayerCase):
        (n, height, width, inputs), (kh, kw, _, outputs) = case.input_shape, case.kernel_shape
        (down, across), ((top, _), (left, _)) = case.strides, case.padding
        conv: Any = torch.nn.Conv2d(
            inputs, outputs, (kh, kw), (down, across), (top, left), groups=case.groups, bias=False
        )
        dtype = getattr(torch, case.dtype)
        conv = conv.to(memory_format=torch.channels_last, dtype=dtype)
        x = channels_last(n, inputs, height, width).to(dtype).requires_grad_(case.train)
        g = torch.randn_like(conv(x))
        weight, conv = conv.weight, torch.compile(conv) if compiled else conv

        def run() -> None:
            with torch.set_grad_enabled(case.train):
                y = conv(x)
                if case.train:
                    torch.autograd.grad(y, (x, weight), g)

        return _compiled(run, compiled)

    model: Any = torch_resnet(case.config).train(case.train)
    model = model.to(memory_format=torch.channels_last)
    forward = torch.compile(model) if compiled else model
    cast = torch.autocast("cpu", torch.bfloat16, enabled=case.dtype == "bfloat16")
    images = channels_last(case.batch_size, 3, case.image_size, case.image_size)
    labels = torch.arange(case.batch_size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def run() -> None:
        if not case.train:
            with torch.inference_mode(), cast:
                forward(images)
            return
        optimizer.zero_grad()
        with cast:
            loss = torch.nn.functional.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()

    return _compiled(run, compiled)


def _compiled(run: Callable[[], None], compiled: bool) -> tuple[Callable[[], None], float]:
    """torch compiles at the first call."""
    begin = time.perf_counter()
    if compiled:
        run()
    return run, time.perf_counter() - begin if compiled else 0.0


def torch_resnet(config: ResNetConfig) -> Any:
    """The same bottleneck network in torch: torchvision's, if it is installed and has this stem."""
    from torch import nn

    if config.stem == "imagenet":
        try:
            from torchvision.models import resnet
        except (ImportError, RuntimeError):  # not installed, or not for this torch
            pass
        else:
            groups, width = config.groups, config.width_per_group
            return resnet.ResNet(resnet.Bottleneck, list(config.layers), groups=groups, width_per_group=width)

    def conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
        return [layer, nn.BatchNorm2d(outputs)]

    class Block(nn.Module):
        def __init__(self, inputs: int, width: int, outputs: int, stride: int):
            super().__init__()
            relu = nn.ReLU(inplace=True)
            middle = conv(width, width, 3, stride, config.groups)
            self.branch = nn.Sequential(
                *conv(inputs, width, 1), relu, *middle, relu, *conv(width, outputs, 1)
            )
            same = stride == 1 and inputs == outputs
            self.shortcut = nn.Identity() if same else nn.Sequential(*conv(inputs, outputs, 1, stride))
            self.relu = relu

        def forward(self, x):
            return self.relu(self.branch(x) + self.shortcut(x))

    imagenet = config.stem == "imagenet"
    layers = [*conv(3, 64, 7 if imagenet else 3, 2 if imagenet else 1), nn.ReLU(inplace=True)]
    layers += [nn.MaxPool2d(3, 2, 1)] if imagenet else []
    features = 64
    for stage in range(len(config.layers)):
        planes = 64 * 2**stage
        width = planes * config.width_per_group // 64 * config.groups
        for stride in config.strides(stage):
            layers.append(Block(features, width, 4 * planes, stride))
            features = 4 * planes
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, 1000))
