"""`resnext-jax explain`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from resnext_jax.cli.commands.runs import OfImages
from resnext_jax.console import Console
from resnext_jax.data import list_files
from resnext_jax.fields import Range
from resnext_jax.inference import Method


@dataclass(frozen=True, kw_only=True)
class Explain(OfImages):
    """Draw where in an image the evidence for a class lies."""

    out: Path
    """Picture file to write: a row for each image, with its heat maps beside it."""
    method: Method = "grad-cam"
    """grad-cam: by the gradient at a stage's output; grad-cam++: the same, better for small or several
    objects; occlusion: by covering parts of the image, which is slower and shows changes of probability."""
    stage: str | None = None
    """Stage at whose output the gradient is taken: stem, layer1, ... (default: the last)."""
    classes: tuple[str, ...] = ()
    """Classes to explain, by name (default: the most probable)."""
    top_k: Annotated[int, Range(least=1)] = 1
    """How many of the most probable classes to explain, side by side."""
    patch: int | None = None
    """For occlusion: side of the covering square, in pixels of the image that the network sees (default: an
    eighth of its side)."""
    batch_size: Annotated[int, Range(least=1)] = 32
    """Images to compute at a time."""

    def __call__(self) -> None:
        from resnext_jax.reports import grid, heatmaps

        grid.check_format(self.out)
        predictor = self.load()
        files = list_files(self.images)
        heatmaps.check_count(len(files))
        with Console().task("explaining images", len(files)) as update:
            explanations = predictor.explain(
                files,
                method=self.method,
                stage=self.stage,
                classes=self.classes or None,
                top_k=self.top_k,
                patch=self.patch,
                batch_size=self.batch_size,
                update=update,
            )
        heatmaps.draw_explanations(explanations, self.out)
        print(f"{self.out}: {self.method} of {len(files)} images")
