"""What a model is and how it is fed: all that a run needs to say for predicting, evaluating and exporting."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from resnext_jax.data import Preprocessing
from resnext_jax.errors import BadInput
from resnext_jax.models import (
    Architecture,
    Network,
    ResNetConfig,
    abstract_model,
    factory_name,
    get_config,
    list_models,
)


@dataclass(frozen=True)
class ModelSpec:
    """A model to be rebuilt: kept in `config.json` and in every checkpoint.

    A configuration is stored whole, so that a table of variants that changes does not change old runs. Of a
    registered factory only the name is stored.

    Args:
        name: what the variant is called in the table of models.
        architecture: the variant, or the factory registered under the name.
        classes: class names, in the order of the outputs.
        preprocessing: geometry and normalisation of the images.
        dtype: compute type, "float32" or "bfloat16".
        in_channels: channels of the images.
    """

    name: str
    architecture: Architecture
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    dtype: str = "float32"
    in_channels: int = 3

    def __post_init__(self) -> None:
        if not all(isinstance(name, str) for name in (self.name, *self.classes)):
            raise BadInput("the model of the run: expected texts as its name and as its classes")
        if self.dtype not in ("float32", "bfloat16"):
            raise BadInput(f"dtype={self.dtype!r}: expected float32 or bfloat16")
        if type(self.in_channels) is not int or not 0 < self.in_channels < 1 << 16:
            raise BadInput(f"in_channels={self.in_channels!r}: expected a positive number of channels")

    def abstract_model(self) -> Network:
        """The model in training form, with `jax.ShapeDtypeStruct` for every array."""
        return abstract_model(
            self.architecture,
            num_classes=len(self.classes),
            in_channels=self.in_channels,
            dtype=jnp.dtype(self.dtype),
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        if isinstance(self.architecture, ResNetConfig):
            architecture = self.architecture.to_dict()
        else:
            architecture = {"factory": factory_name(self.architecture)}
        return {
            "model": {
                "name": self.name,
                "architecture": architecture,
                "dtype": self.dtype,
                "in_channels": self.in_channels,
            },
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelSpec":
        """Back from `to_dict`, or from what version 0.1 wrote: the model's name and type in `config`.

        Raises:
            BadInput: values are missing, or of the wrong kind.
        """
        try:
            if not isinstance(values["classes"], list):
                raise TypeError("the classes are no list")
            classes, preprocessing = (
                tuple(values["classes"]),
                Preprocessing.from_dict(values["preprocessing"]),
            )
            if "model" not in values:
                name, dtype = values["config"]["model"], values["config"]["dtype"]
                return cls(name, get_config(name), classes, preprocessing, dtype)
            model = values["model"]
            architecture = _architecture(model["name"], model["architecture"])
            return cls(
                model["name"], architecture, classes, preprocessing, model["dtype"], model["in_channels"]
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"the model of the run is not described as expected: {error!r}") from None


def _architecture(name: str, stored: dict[str, Any]) -> Architecture:
    if "factory" not in stored:
        return ResNetConfig(**stored)
    if name not in list_models():
        module, _, function = stored["factory"].partition(":")
        raise BadInput(
            f"the run's model {name!r} was registered by the program that trained it (it is {function} of "
            f"{module}), and is not registered here: import what calls register_model({name!r}, ...), or "
            "name that module in the environment variable RESNEXT_JAX_MODELS"
        )
    return get_config(name)
