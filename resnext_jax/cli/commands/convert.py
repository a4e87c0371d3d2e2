"""`resnext-jax convert`."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from resnext_jax import inference, weights
from resnext_jax.errors import BadInput


@dataclass(frozen=True)
class Convert:
    """Convert weights between torch files, safetensors files and run directories, in any direction."""

    source: Positional[str]
    """A .safetensors or .pth file, a run directory, or torchvision's name of weights (with --model)."""
    destination: Positional[Path]
    """A .safetensors or .pth file, or a new run directory: a path without a suffix."""
    model: str | None = None
    """A name of `resnext-jax models`, where names and shapes do not tell."""
    classes: Path | None = None
    """For a run directory: a file with the name of a class on each line, in the order of the outputs."""
    image_size: int | None = None
    """For a run directory: side of the image in pixels (default: what the weights say, else 224)."""

    def __call__(self) -> None:
        if self.destination.suffix:
            if self.classes or self.image_size:
                raise BadInput(f"{self.destination}: --classes and --image-size go with a run directory")
            model = weights.convert(self.source, self.destination, model=self.model)
            print(f"{self.destination}: weights of {model}")
        else:
            options = {"model": self.model, "classes": self.classes, "image_size": self.image_size}
            spec = inference.convert_to_run(self.source, self.destination, **options)
            print(
                f"{self.destination}: {spec.name} for {len(spec.classes)} classes of images of "
                f"{spec.preprocessing.image_size} px"
            )
