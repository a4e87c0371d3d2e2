"""Weights: torch's names and layout, files, torchvision's published weights, models built with them."""

from resnext_jax.weights.convert import convert, identify
from resnext_jax.weights.create import create_model, download_weights, locate_weights, preprocessing
from resnext_jax.weights.files import read_weights, write_weights
from resnext_jax.weights.named import NAMED_WEIGHTS, NamedWeights, is_name, named_weights
from resnext_jax.weights.state_dict import load_torch_state_dict, looks_like, to_torch_state_dict

__all__ = [
    "NAMED_WEIGHTS",
    "NamedWeights",
    "convert",
    "create_model",
    "download_weights",
    "identify",
    "is_name",
    "load_torch_state_dict",
    "locate_weights",
    "looks_like",
    "named_weights",
    "preprocessing",
    "read_weights",
    "to_torch_state_dict",
    "write_weights",
]
