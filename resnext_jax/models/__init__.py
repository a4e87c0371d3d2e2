"""Models: blocks, ResNet, and the table of variants."""

from resnext_jax.models.norm import BatchNorm
from resnext_jax.models.resnet import BasicBlock, Bottleneck, ResNet, ResNetConfig
from resnext_jax.models.variants import VARIANTS, abstract_model, build_model, get_config, list_models

__all__ = [
    "VARIANTS",
    "BasicBlock",
    "BatchNorm",
    "Bottleneck",
    "ResNet",
    "ResNetConfig",
    "abstract_model",
    "build_model",
    "get_config",
    "list_models",
]
