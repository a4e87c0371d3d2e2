"""`resnext-jax models` and `resnext-jax summary`: what there is, and what it costs."""

from dataclasses import dataclass

from tyro.conf import Positional

from resnext_jax import models
from resnext_jax.cli.commands.choices import at_least_one


@dataclass(frozen=True)
class Models:
    """List the models."""

    def __call__(self) -> None:
        from resnext_jax.reports import tables

        tables.print_models()


@dataclass(frozen=True)
class Summary:
    """Output shape, parameters and multiply-adds of every stage of a model."""

    model: Positional[str]
    """A name of `resnext-jax models`."""
    image_size: int = 224
    """Side of the image in pixels."""
    num_classes: int = 1000
    """Outputs of the head."""
    freeze: tuple[str, ...] = ()
    """Parts counted as not trainable: beginnings of parameter names, or `backbone`."""

    def __call__(self) -> None:
        from resnext_jax.reports import tables

        at_least_one(image_size=self.image_size, num_classes=self.num_classes)
        model = models.abstract_model(self.model, num_classes=self.num_classes)
        tables.print_summary(models.stage_costs(model, self.image_size, self.freeze))
