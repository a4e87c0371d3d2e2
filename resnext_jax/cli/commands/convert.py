"""`resnext-jax convert`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from resnext_jax import inference, weights
from resnext_jax.errors import BadInput
from resnext_jax.fields import Config, Range, shown


@dataclass(frozen=True, kw_only=True)
class Convert(Config):
    """Convert weights between torch files, safetensors files and run directories, in any direction."""

    source: Positional[Annotated[str, arg(metavar="SOURCE")]]
    """A .safetensors or .pth file, a run directory, or torchvision's name of weights (with --model)."""
    destination: Positional[Annotated[Path, arg(metavar="DESTINATION")]]
    """A .safetensors or .pth file, or a new run directory, which is a path without a suffix."""
    model: str | None = None
    """A name of `resnext-jax models`. Needed if names and shapes of the weights fit several models."""
    classes: Path | None = None
    """For a new run directory: a file with one class name per line, in the order of the outputs."""
    image_size: Annotated[int | None, Range(least=1)] = None
    """For a new run directory: side of the square image in pixels (default: that of the weights, or 224)."""

    def __call__(self) -> None:
        if self.destination.suffix:
            for name in ("classes", "image_size"):
                if getattr(self, name) is not None:
                    raise BadInput(
                        f"{shown(self, name)} with {self.destination}: it goes with a run directory"
                    )
            model = weights.convert(self.source, self.destination, model=self.model)
            print(f"{self.destination}: weights of {model}")
        else:
            options = {"model": self.model, "classes": self.classes, "image_size": self.image_size}
            spec = inference.convert_to_run(self.source, self.destination, **options)
            print(
                f"{self.destination}: {spec.name} for {len(spec.classes)} classes of images of "
                f"{spec.preprocessing.image_size} px"
            )
