"""`resnext-jax models` and `resnext-jax summary`: what there is, and what it costs."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from resnext_jax import models
from resnext_jax.fields import Config, Range


@dataclass(frozen=True, kw_only=True)
class Models(Config):
    """List the models, or their published weights."""

    weights: bool = False
    """List the weights that torchvision and timm publish: name or tag, licence, top-1, sizes."""

    def __call__(self) -> None:
        from resnext_jax.reports import tables

        if self.weights:
            tables.print_weights()
        else:
            tables.print_models()


@dataclass(frozen=True, kw_only=True)
class Summary(Config):
    """Show the output shape, parameters and multiply-adds of each stage of a model."""

    model: Positional[Annotated[str, arg(metavar="MODEL")]]
    """A name of `resnext-jax models`."""
    image_size: Annotated[int, Range(least=1)] = 224
    """Side of the square image in pixels."""
    num_classes: Annotated[int, Range(least=1)] = 1000
    """Number of classes."""
    freeze: tuple[str, ...] = ()
    """Parts to count as not trainable: beginnings of parameter names, or `backbone`."""

    def __call__(self) -> None:
        from resnext_jax.reports import tables

        model = models.abstract_model(self.model, num_classes=self.num_classes)
        tables.print_summary(models.stage_costs(model, self.image_size, self.freeze))
