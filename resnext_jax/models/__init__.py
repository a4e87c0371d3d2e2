"""Models: blocks, ResNet, the table of variants, what a model costs, and which part of it is trained."""

from resnext_jax.models.blocks import BasicBlock, Bottleneck, PreactivationBottleneck, ResNetConfig
from resnext_jax.models.cost import StageCost, multiply_adds, parameter_count, stage_costs
from resnext_jax.models.norm import BatchNorm
from resnext_jax.models.resnet import ResNet, linear_head
from resnext_jax.models.transfer import freeze_norms, trainable_mask
from resnext_jax.models.trees import Tree, merge_model, split_model
from resnext_jax.models.variants import VARIANTS, abstract_model, build_model, get_config, list_models

__all__ = [
    "VARIANTS",
    "BasicBlock",
    "BatchNorm",
    "Bottleneck",
    "PreactivationBottleneck",
    "ResNet",
    "ResNetConfig",
    "StageCost",
    "Tree",
    "abstract_model",
    "build_model",
    "freeze_norms",
    "get_config",
    "linear_head",
    "list_models",
    "merge_model",
    "multiply_adds",
    "parameter_count",
    "split_model",
    "stage_costs",
    "trainable_mask",
]
