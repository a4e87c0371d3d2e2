"""`resnext-jax predict`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from resnext_jax.cli.commands.runs import OfImages
from resnext_jax.console import Console
from resnext_jax.data import list_files
from resnext_jax.fields import Range


@dataclass(frozen=True, kw_only=True)
class Predict(OfImages):
    """Classify images with a trained run. Only the run directory is needed."""

    csv: Path | None = None
    """Write the probabilities of all classes to this CSV file."""
    grid: Path | None = None
    """Draw the images with their predicted classes to this picture file."""
    top_k: Annotated[int, Range(least=1)] = 1
    """How many of the most probable classes to show for each image."""
    batch_size: Annotated[int, Range(least=1)] = 32
    """Images to classify at a time."""
    skip_bad_images: bool = False
    """Leave out images that cannot be read, and name them; otherwise they are an error."""

    def __call__(self) -> None:
        from resnext_jax.reports import grid, tables

        if self.grid:
            grid.check_format(self.grid)
        files = list_files(self.images)
        predictor = self.load()
        with Console().task("reading images", len(files)) as update:
            predictions = predictor.predict(
                files, batch_size=self.batch_size, skip_bad_images=self.skip_bad_images, update=update
            )
        tables.print_predictions(predictions, self.top_k)
        if self.csv:
            tables.write_predictions(predictions, self.csv)
        if self.grid:
            grid.draw_predictions(predictions, self.grid)
