"""ResNeXt and ResNet image classifiers in JAX and Flax NNX."""

from resnext_jax.data import Preprocessing, check_data
from resnext_jax.errors import BadInput
from resnext_jax.inference import fold_batch_norm, load_run
from resnext_jax.models import list_models, register_model
from resnext_jax.reports import fit
from resnext_jax.training import TrainConfig
from resnext_jax.weights import create_model, load_torch_state_dict, preprocessing, to_torch_state_dict

__all__ = [
    "BadInput",
    "Preprocessing",
    "TrainConfig",
    "check_data",
    "create_model",
    "fit",
    "fold_batch_norm",
    "list_models",
    "load_run",
    "load_torch_state_dict",
    "preprocessing",
    "register_model",
    "to_torch_state_dict",
]
