"""What a benchmark runs: whole steps and single convolutions, in JAX and in torch."""

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from resnext_jax import models
from resnext_jax.errors import BadInput, MissingPackage


@dataclass(frozen=True)
class StepCase:
    """A whole step of a model."""

    config: models.ResNetConfig
    train: bool
    batch_size: int
    image_size: int


@dataclass(frozen=True)
class LayerCase:
    """One convolution: its forward pass or, in training, forward pass and both gradients."""

    input_shape: tuple[int, ...]
    kernel_shape: tuple[int, ...]
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    groups: int
    train: bool

    @property
    def name(self) -> str:
        """Such as "3x3 128->128 /32 at 56x56", stride 2 as "s2"."""
        kh, kw, _, outputs = self.kernel_shape
        _, height, width, inputs = self.input_shape
        groups = f" /{self.groups}" if self.groups > 1 else ""
        stride = f" s{self.strides[0]}" if self.strides != (1, 1) else ""
        return f"{kh}x{kw} {inputs}->{outputs}{groups} at {height}x{width}{stride}"


def count_convolutions(step: StepCase) -> dict[LayerCase, int]:
    """The distinct convolutions of a model's forward pass, and how often each occurs."""
    import jax
    from flax import nnx

    counts: dict[LayerCase, int] = {}

    def record(lhs: jax.Array, rhs: jax.Array, window_strides: Sequence[int], padding: Any, **rest: Any):
        groups = rest["feature_group_count"]
        padding = tuple((int(low), int(high)) for low, high in padding)
        case = LayerCase(lhs.shape, rhs.shape, tuple(window_strides), padding, groups, step.train)
        counts[case] = counts.get(case, 0) + 1
        return jax.lax.conv_general_dilated(lhs, rhs, window_strides, padding, **rest)

    images = jax.ShapeDtypeStruct((step.batch_size, step.image_size, step.image_size, 3), "float32")

    def forward(images: jax.Array) -> jax.Array:
        return models.ResNet(step.config, conv_general_dilated=record, rngs=nnx.Rngs(0))(images)

    jax.eval_shape(forward, images)
    return counts


def prepare_jax(case: StepCase | LayerCase, *, ours: bool) -> tuple[Callable[[], None], float]:
    """What runs a case once, compiled; and the seconds that compiling took.

    Args:
        case: what to run.
        ours: with the operators of `resnext_jax.ops`, or with XLA's own convolution.
    """
    import jax

    from resnext_jax import ops

    convolution = ops.conv_general_dilated if ours else jax.lax.conv_general_dilated
    prepare = _jax_step if isinstance(case, StepCase) else _jax_layer
    function, state, constants = prepare(case, convolution)
    begin = time.perf_counter()
    compiled = jax.jit(function, donate_argnums=0).lower(state, *constants).compile()
    compile_seconds = time.perf_counter() - begin

    def run() -> None:
        nonlocal state
        state, result = compiled(state, *constants)
        jax.block_until_ready((state, result))

    return run, compile_seconds


def _jax_step(case: StepCase, convolution: Callable[..., Any]) -> tuple[Callable[..., Any], Any, tuple]:
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    model = models.ResNet(case.config, conv_general_dilated=convolution, rngs=nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(0), (case.batch_size, case.image_size, case.image_size, 3))
    labels = jnp.arange(case.batch_size)
    if not case.train:
        model.eval()
        graphdef, state = nnx.split(model)
        return lambda state, images: (state, nnx.merge(graphdef, state)(images)), state, (images,)
    model.train()
    graphdef, parameters, rest = nnx.split(model, nnx.Param, ...)
    optimizer = optax.sgd(0.01, momentum=0.9)

    def loss(parameters, rest, images, labels):
        model = nnx.merge(graphdef, parameters, rest, copy=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(model(images), labels)
        return jnp.mean(losses), nnx.state(model, nnx.Not(nnx.Param))

    def step(state, images, labels):
        parameters, rest, moments = state
        (value, rest), grads = jax.value_and_grad(loss, has_aux=True)(parameters, rest, images, labels)
        updates, moments = optimizer.update(grads, moments, parameters)
        return (optax.apply_updates(parameters, updates), rest, moments), value

    return step, (parameters, rest, optimizer.init(parameters)), (images, labels)


def _jax_layer(case: LayerCase, convolution: Callable[..., Any]) -> tuple[Callable[..., Any], Any, tuple]:
    import jax

    x = jax.random.normal(jax.random.key(0), case.input_shape)
    w = jax.random.normal(jax.random.key(1), case.kernel_shape)
    convolve = partial(
        convolution,
        window_strides=case.strides,
        padding=case.padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=case.groups,
    )
    if not case.train:
        return lambda _, x, w: (0.0, convolve(x, w)), 0.0, (x, w)
    g = jax.random.normal(jax.random.key(2), jax.eval_shape(convolve, x, w).shape)

    def both(_, x, w, g):
        y, vjp = jax.vjp(convolve, x, w)
        return 0.0, (y, *vjp(g))

    return both, 0.0, (x, w, g)


def check_torch(config: models.ResNetConfig) -> None:
    """Make sure that torch is there and can run the variant.

    Raises:
        MissingPackage: torch is not installed.
        BadInput: the variant is not one of torchvision's bottleneck networks.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingPackage("against torch: PyTorch is not installed: pip install 'resnext-jax[torch]'")

    if config.block != "bottleneck" or config.stride_1x1 or config.conv_bias:
        raise BadInput(
            f"against torch: only torchvision's bottleneck variants have a counterpart, not {config}"
        )


def prepare_torch(case: StepCase | LayerCase) -> tuple[Callable[[], None], float]:
    """What runs a case once in torch, channels last; it is not compiled."""
    import torch

    def channels_last(*shape: int) -> torch.Tensor:
        return torch.randn(*shape).to(memory_format=torch.channels_last)

    if isinstance(case, LayerCase):
        (n, height, width, inputs), (kh, kw, _, outputs) = case.input_shape, case.kernel_shape
        pads = [low for low, _ in case.padding]
        conv = torch.nn.Conv2d(inputs, outputs, (kh, kw), case.strides, pads, groups=case.groups, bias=False)
        conv = conv.to(memory_format=torch.channels_last)
        x = channels_last(n, inputs, height, width).requires_grad_(case.train)
        g = torch.randn_like(conv(x))

        def run() -> None:
            with torch.set_grad_enabled(case.train):
                y = conv(x)
                if case.train:
                    torch.autograd.grad(y, (x, conv.weight), g)

        return run, 0.0

    model = _torch_resnet(case.config).to(memory_format=torch.channels_last).train(case.train)
    images = channels_last(case.batch_size, 3, case.image_size, case.image_size)
    labels = torch.arange(case.batch_size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def run() -> None:
        if not case.train:
            with torch.inference_mode():
                model(images)
            return
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return run, 0.0


def _torch_resnet(config: models.ResNetConfig) -> Any:
    """The same bottleneck network in torch; torchvision's layers, without needing torchvision."""
    from torch import nn

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
