"""What a model costs: parameters and multiply-adds, as a whole and by stage."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from resnext_jax.models.keys import Keys
from resnext_jax.models.resnet import ResNet
from resnext_jax.models.transfer import trainable_mask


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


def parameter_count(model: ResNet) -> int:
    """Trainable numbers of a model, which may be abstract; running statistics are not among them.

    Example:
        >>> from resnext_jax.models import abstract_model
        >>> parameter_count(abstract_model("resnext50_32x4d"))
        25028904
    """
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def multiply_adds(model: ResNet, image_size: int) -> int:
    """Multiply-adds of the convolutions and the head for one square image.

    torchvision publishes this number, in 1e9, as a weight's GFLOPS.

    Args:
        model: a ResNet, which may be abstract.
        image_size: side of the image in pixels.

    Example:
        >>> from resnext_jax.models import abstract_model
        >>> round(multiply_adds(abstract_model("resnext50_32x4d"), 224) / 1e9, 2)
        4.23
    """
    return sum(stage.multiply_adds for stage in stage_costs(model, image_size))


def stage_costs(model: ResNet, image_size: int, frozen: Sequence[str] = ()) -> list[StageCost]:
    """Cost of every stage, from the stem to the head.

    Counted from the shapes, without computing: a grouped convolution counts its own arithmetic, whichever
    way it is lowered.

    Args:
        model: a ResNet, which may be abstract.
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

    def forward() -> None:
        stage = "stem"

        def counting_conv(images: jax.Array, kernel: jax.Array, *args: Any, **options: Any) -> jax.Array:
            outputs = jax.lax.conv_general_dilated(images, kernel, *args, **options)
            # Kernel [H, W, inputs of a group, outputs].
            counted[stage] = counted.get(stage, 0) + outputs.size * math.prod(kernel.shape[:-1])
            return outputs

        copy = ResNet(
            model.config,
            model.fc.out_features,
            model.in_channels,
            conv_general_dilated=counting_conv,
            rngs=Keys(0),
        )
        copy.eval()
        x = copy.stem(jnp.zeros((1, image_size, image_size, model.in_channels)))
        shapes[stage] = x.shape[1:]
        for stage in copy.stages:
            x = copy.stage(stage, x)
            shapes[stage] = x.shape[1:]
        shapes["pool"] = copy.pool(x).shape[1:]
        shapes["fc"] = (model.fc.out_features,)
        counted["fc"] = model.fc.in_features * model.fc.out_features

    jax.eval_shape(forward)
    trainable, fixed = _sizes_by_stage(model, frozen)
    return [
        StageCost(name, shape, trainable.get(name, 0), fixed.get(name, 0), counted.get(name, 0))
        for name, shape in shapes.items()
    ]


def _sizes_by_stage(model: ResNet, frozen: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Numbers that are trained, and numbers that are not, in each stage."""
    stage_of = {"conv1": "stem", "bn1": "stem", "norm": "pool"}
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
        stage = stage_of.get(attribute, attribute)
        of_kind = sizes[0 if trained else 1]
        of_kind[stage] = of_kind.get(stage, 0) + size
    return sizes
