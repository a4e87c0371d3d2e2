"""What a model costs: parameters and multiply-adds, as a whole and by stage."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from resnext_jax.models.network import Network
from resnext_jax.models.registry import Architecture, abstract_model, get_config
from resnext_jax.models.transfer import trainable_mask
from resnext_jax.models.variants import ResNetConfig


@dataclass(frozen=True)
class StageCost:
    """Cost of one part of a network.

    Args:
        name: "stem", "layer1", ..., "pool" or "fc".
        shape: of its output for one image.
        trainable: parameters that training changes by gradients.
        frozen: running statistics of batch norms, and frozen parameters.
        multiply_adds: multiplications, each with its addition, of convolutions and the head for one image.
    """

    name: str
    shape: tuple[int, ...]
    trainable: int
    frozen: int
    multiply_adds: int


def parameter_count(model: nnx.Module) -> int:
    """Trainable numbers of a model, which may be abstract; running statistics are not among them.

    Example:
        >>> from resnext_jax.models import abstract_model
        >>> parameter_count(abstract_model("resnext50_32x4d"))
        25028904
    """
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def count_parameters(name: str | Architecture, num_classes: int = 1000) -> int:
    """Trainable numbers of a network, counted without building it whole: blocks repeat within a stage.

    Example:
        >>> count_parameters("resnext50_32x4d"), count_parameters("resnext50_32x4d", num_classes=2)
        (25028904, 22984002)
    """
    config = get_config(name)
    if not isinstance(config, ResNetConfig) or config.pruned:
        return parameter_count(abstract_model(config, num_classes=num_classes))
    short = replace(config, layers=tuple(min(2, blocks) for blocks in config.layers))
    total, repeated = _sizes_of_short(short, num_classes)
    pairs = zip(config.layers, repeated, strict=True)
    return total + sum((blocks - 2) * size for blocks, size in pairs if blocks > 2)


@lru_cache
def _sizes_of_short(config: ResNetConfig, num_classes: int) -> tuple[int, list[int]]:
    """Parameters of a network and of each stage's second block."""
    model = abstract_model(config, num_classes=num_classes)
    blocks = [getattr(model, name)[-1] for name in model.stages]
    return parameter_count(model), [parameter_count(block) for block in blocks]


def multiply_adds(model: Network, image_size: int) -> int:
    """Multiply-adds of the convolutions and the head for one square image.

    torchvision publishes this number, in 1e9, as a weight's GFLOPS.

    Args:
        model: a network, which may be abstract.
        image_size: side of the image in pixels.

    Example:
        >>> from resnext_jax.models import abstract_model
        >>> round(multiply_adds(abstract_model("resnext50_32x4d"), 224) / 1e9, 2)
        4.23
    """
    return sum(stage.multiply_adds for stage in stage_costs(model, image_size))


def stage_costs(model: Network, image_size: int, frozen: Sequence[str] = ()) -> list[StageCost]:
    """Cost of every stage, from the stem to the head.

    Counted from the shapes, without computing: a grouped convolution counts its own arithmetic, whichever
    way it is lowered.

    Args:
        model: a network, which may be abstract.
        image_size: side of the square image in pixels.
        frozen: prefixes of parameters that are not trained, as in `trainable_mask`.

    Raises:
        ValueError: a prefix that names nothing.

    Example:
        >>> from resnext_jax.models import abstract_model
        >>> stages = stage_costs(abstract_model("resnet18"), 224, frozen=("backbone",))
        >>> [(stage.name, stage.shape) for stage in stages[:2]]
        [('stem', (56, 56, 64)), ('layer1', (56, 56, 64))]
        >>> sum(stage.trainable for stage in stages)  # the head alone
        513000
    """
    counted: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}

    def forward(network: Network, images: jax.Array) -> None:
        stage = "stem"

        def counting_conv(images: jax.Array, kernel: jax.Array, *args: Any, **options: Any) -> jax.Array:
            outputs = jax.lax.conv_general_dilated(images, kernel, *args, **options)
            # Kernel [H, W, inputs of a group, outputs].
            counted[stage] = counted.get(stage, 0) + outputs.size * math.prod(kernel.shape[:-1])
            return outputs

        for _, module in nnx.iter_modules(network):
            if isinstance(module, nnx.Conv):
                module.conv_general_dilated = counting_conv
        network.eval()
        x = network.stem(images)
        shapes[stage] = x.shape[1:]
        for stage in network.stages:
            x = network.stage(stage, x)
            shapes[stage] = x.shape[1:]
        shapes["pool"] = network.pool(x).shape[1:]
        if network.fc is not None:
            shapes["fc"] = (network.num_classes,)
            counted["fc"] = network.fc.in_features * network.num_classes

    images = jax.ShapeDtypeStruct((1, image_size, image_size, model.in_channels), jnp.float32)
    nnx.eval_shape(forward, nnx.clone(model), images)
    trainable, fixed = _sizes_by_stage(model, frozen)
    return [
        StageCost(name, shape, trainable.get(name, 0), fixed.get(name, 0), counted.get(name, 0))
        for name, shape in shapes.items()
    ]


def _sizes_by_stage(model: Network, frozen: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Numbers that are trained, and numbers that are not, in each stage."""
    stage_of = {name: name for name in (*model.stages, "fc")} | {"norm": "pool"}
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    mask = jax.tree.leaves(trainable_mask(params, frozen))
    leaves: list[tuple[str, int, bool]] = [
        (path[0].key, leaf.size, trained)
        for (path, leaf), trained in zip(jax.tree.leaves_with_path(params), mask, strict=True)
    ]
    statistics = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    leaves += [(path[0].key, leaf.size, False) for path, leaf in jax.tree.leaves_with_path(statistics)]
    sizes: tuple[dict[str, int], dict[str, int]] = ({}, {})
    for attribute, size, trained in leaves:
        stage = stage_of.get(attribute, "stem")
        of_kind = sizes[0 if trained else 1]
        of_kind[stage] = of_kind.get(stage, 0) + size
    return sizes
