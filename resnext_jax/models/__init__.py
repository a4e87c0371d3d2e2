"""Models: blocks, ResNet, the table of variants, networks of one's own, costs, and what is trained."""

from resnext_jax.models.cost import StageCost, count_parameters, multiply_adds, parameter_count, stage_costs
from resnext_jax.models.features import FeatureExtractor, FeatureInfo
from resnext_jax.models.layers import Layers, linear_head
from resnext_jax.models.network import Network
from resnext_jax.models.norm import ACTIVATIONS, BatchNorm, GroupNorm
from resnext_jax.models.registry import (
    Architecture,
    Factory,
    abstract_model,
    build_model,
    factory_name,
    get_config,
    list_models,
    register_model,
)
from resnext_jax.models.resnet import BasicBlock, Bottleneck, PreactivationBottleneck, ResNet
from resnext_jax.models.transfer import freeze_norms, trainable_mask
from resnext_jax.models.trees import Tree, merge_model, split_model
from resnext_jax.models.variants import VARIANTS, Channels, ResNetConfig

__all__ = [
    "ACTIVATIONS",
    "VARIANTS",
    "Architecture",
    "BasicBlock",
    "BatchNorm",
    "Bottleneck",
    "Channels",
    "Factory",
    "FeatureExtractor",
    "FeatureInfo",
    "GroupNorm",
    "Layers",
    "Network",
    "PreactivationBottleneck",
    "ResNet",
    "ResNetConfig",
    "StageCost",
    "Tree",
    "abstract_model",
    "build_model",
    "count_parameters",
    "factory_name",
    "freeze_norms",
    "get_config",
    "linear_head",
    "list_models",
    "merge_model",
    "multiply_adds",
    "parameter_count",
    "register_model",
    "split_model",
    "stage_costs",
    "trainable_mask",
]
