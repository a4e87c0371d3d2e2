"""What a model costs: parameters and multiply-adds."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from resnext_jax.models.resnet import ResNet


def parameter_count(model: ResNet) -> int:
    """Trainable numbers of a model, which may be abstract; running statistics are not among them."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def multiply_adds(model: ResNet, image_size: int) -> int:
    """Multiplications, each with its addition, of the convolutions and the head for one square image.

    Counted from the shapes, without computing: a grouped convolution counts its own arithmetic, whichever
    way it is lowered. torchvision publishes this number, in 1e9, as a weight's GFLOPS.

    Args:
        model: a ResNet, which may be abstract.
        image_size: side of the image in pixels.
    """
    total = model.fc.in_features * model.fc.out_features

    def counted(images: jax.Array, kernel: jax.Array, *args: Any, **options: Any) -> jax.Array:
        nonlocal total
        outputs = jax.lax.conv_general_dilated(images, kernel, *args, **options)
        total += outputs.size * math.prod(kernel.shape[:-1])  # kernel [H, W, C/groups, outputs]
        return outputs

    def forward() -> jax.Array:
        copy = ResNet(
            model.config,
            model.fc.out_features,
            model.in_channels,
            conv_general_dilated=counted,
            rngs=nnx.Rngs(0),
        )
        copy.eval()
        return copy(jnp.zeros((1, image_size, image_size, model.in_channels)))

    jax.eval_shape(forward)
    return total
