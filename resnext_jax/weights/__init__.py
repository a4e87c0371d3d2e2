"""Weights: files of every kind, published weights, the hub, torch's names and layout, and back to torch."""

from resnext_jax.weights.convert import LICENSE, Identified, convert, identify
from resnext_jax.weights.create import create_model, preprocessing
from resnext_jax.weights.files import FloatType, read_weights, write_weights
from resnext_jax.weights.hub_folder import write_hub_folder
from resnext_jax.weights.named import NAMED_WEIGHTS, NamedWeights, TimmWeights, named_weights, timm_weights
from resnext_jax.weights.source import Source, open_weights
from resnext_jax.weights.state_dict import load_torch_state_dict, looks_like, to_torch_state_dict

__all__ = [
    "LICENSE",
    "NAMED_WEIGHTS",
    "FloatType",
    "Identified",
    "NamedWeights",
    "Source",
    "TimmWeights",
    "convert",
    "create_model",
    "identify",
    "load_torch_state_dict",
    "looks_like",
    "named_weights",
    "open_weights",
    "preprocessing",
    "read_weights",
    "timm_weights",
    "to_torch_state_dict",
    "write_hub_folder",
    "write_weights",
]
