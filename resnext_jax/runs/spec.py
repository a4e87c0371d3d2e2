"""What a model is and how it is fed: all that a run needs to say for predicting, evaluating and exporting."""

from dataclasses import asdict, dataclass
from typing import Any

import jax.numpy as jnp

from resnext_jax.data import Preprocessing
from resnext_jax.errors import BadInput
from resnext_jax.models import ResNet, ResNetConfig, abstract_model, get_config


@dataclass(frozen=True)
class ModelSpec:
    """A model to be rebuilt: kept in `config.json` and in every checkpoint.

    The architecture is stored whole, so that a table of variants that changes does not change old runs.

    Args:
        name: what the variant is called in the table of models.
        architecture: the variant.
        classes: class names, in the order of the outputs.
        preprocessing: geometry and normalisation of the images.
        dtype: compute type, "float32" or "bfloat16".
        in_channels: channels of the images.
    """

    name: str
    architecture: ResNetConfig
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    dtype: str = "float32"
    in_channels: int = 3

    def abstract_model(self) -> ResNet:
        """The model in training form, with `jax.ShapeDtypeStruct` for every array."""
        return abstract_model(
            self.architecture,
            num_classes=len(self.classes),
            in_channels=self.in_channels,
            dtype=jnp.dtype(self.dtype),
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        fields = asdict(self.architecture)
        return {
            "model": {
                "name": self.name,
                "architecture": {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()},
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
            classes, preprocessing = (
                tuple(values["classes"]),
                Preprocessing.from_dict(values["preprocessing"]),
            )
            if "model" not in values:
                name, dtype = values["config"]["model"], values["config"]["dtype"]
                return cls(name, get_config(name), classes, preprocessing, dtype)
            model = values["model"]
            fields: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in model["architecture"].items()
            }
            architecture = ResNetConfig(**fields)
            return cls(
                model["name"], architecture, classes, preprocessing, model["dtype"], model["in_channels"]
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"the model of the run is not described as expected: {error!r}") from None
