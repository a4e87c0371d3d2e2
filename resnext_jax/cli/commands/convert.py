"""`resnext-jax convert`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from resnext_jax import inference, runs, weights
from resnext_jax.data import Interpolation
from resnext_jax.errors import BadInput
from resnext_jax.fields import Config, NotWith, Range, shown


@dataclass(frozen=True, kw_only=True)
class Convert(Config):
    """Convert weights of any kind to a file, to a run directory, or a run to a folder for the hub.

    A destination with a suffix is a file. Without one it is a new folder: a run directory to predict and
    evaluate with; from a run, a folder as the Hugging Face hub has it, which timm reads.
    """

    source: Positional[Annotated[str, arg(metavar="SOURCE")]]
    """Weights: a file, a run directory, torchvision's name or timm's tag (with --model), timm's name with a
    tag (resnext50_32x4d.a1h_in1k), a repository of the hub (owner/name), or a folder as these have."""
    destination: Positional[Annotated[Path, arg(metavar="DESTINATION")]]
    """A .safetensors, .pth, .pt or .bin file; or a new folder: a path without a suffix."""
    model: str | None = None
    """A name of `resnext-jax models`, if neither the weights nor names and shapes tell."""
    ema: bool = True
    """Where averaged weights lie beside the raw ones, take the averaged; --no-ema: the raw."""
    dtype: weights.FloatType = "float32"
    """Type of the numbers in a file, or in a folder for the hub."""
    license: str | None = None
    """For a folder for the hub: licence to be stated, such as apache-2.0."""
    classes: Path | None = None
    """For a run directory: a file with the name of a class on each line, in the order of the outputs."""
    image_size: Annotated[int | None, Range(least=1)] = None
    """For a run directory: side of the image in pixels (the default is what the weights say, here and for the
    next flags)."""
    resize_size: Annotated[int | None, Range(least=1)] = None
    """For a run directory: length of the shorter side before the centre crop."""
    crop_pct: Annotated[float | None, Range(above=0, most=1), NotWith("resize_size")] = None
    """For a run directory: image size / resize size, as timm states it."""
    interpolation: Interpolation | None = None
    """For a run directory: filter of the resize."""
    mean: tuple[float, float, float] | None = None
    """For a run directory: mean of each RGB channel of the pixels scaled to [0, 1]."""
    std: Annotated[tuple[float, float, float] | None, Range(above=0)] = None
    """For a run directory: standard deviation of each RGB channel."""

    def __call__(self) -> None:
        if self.destination.suffix:
            self._check_unused("a run directory", "classes", *self._preprocessing)
            self._check_unused("a folder for the hub", "license")
            model = weights.convert(
                self.source, self.destination, model=self.model, ema=self.ema, dtype=self.dtype
            )
            print(f"{self.destination}: weights of {model}")
        elif runs.is_run(Path(self.source)):
            self._check_unused("a run directory made of other weights", "classes", *self._preprocessing)
            if self.model not in (None, name := runs.read_spec(Path(self.source)).name):
                raise BadInput(f"model={self.model}: {self.source} is a run of {name}")
            options = {"ema": self.ema, "dtype": self.dtype, "license": self.license}
            spec = weights.write_hub_folder(Path(self.source), self.destination, **options)
            print(f"{self.destination}: {spec.name} for {len(spec.classes)} classes, for the hub")
        else:
            self._check_unused("a folder for the hub", "license")
            if self.dtype != "float32":
                raise BadInput(f"dtype={self.dtype!r}: a run directory holds float32; give a file")
            spec = inference.convert_to_run(
                self.source,
                self.destination,
                model=self.model,
                ema=self.ema,
                classes=self.classes,
                preprocessing=self._preprocessing,
            )
            print(
                f"{self.destination}: {spec.name} for {len(spec.classes)} classes of images of "
                f"{spec.preprocessing.image_size} px"
            )

    @property
    def _preprocessing(self) -> dict[str, object]:
        names = ("image_size", "resize_size", "crop_pct", "interpolation", "mean", "std")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def _check_unused(self, where: str, *names: str) -> None:
        for name in names:
            if getattr(self, name) is not None:
                raise BadInput(f"{shown(self, name)} with {self.destination}: it goes with {where}")
