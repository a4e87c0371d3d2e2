"""`resnext-jax predict`."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from resnext_jax import inference
from resnext_jax.cli.commands.choices import Checkpoint, at_least_one
from resnext_jax.console import Console
from resnext_jax.data import list_files


@dataclass(frozen=True)
class Predict:
    """Classify images by a trained run; needs nothing but the run directory."""

    run: Positional[Path]
    """Run directory."""
    images: Positional[tuple[Path, ...]]
    """Image files, and folders whose images are taken at any depth."""
    csv: Path | None = None
    """Write the probabilities of all classes to this file."""
    grid: Path | None = None
    """Draw the images with their predicted classes to this picture."""
    top_k: int = 1
    """Classes to show for each image."""
    batch_size: int = 32
    """Images at a time."""
    skip_bad_images: bool = False
    """Go on without unreadable images, naming each."""
    checkpoint: Checkpoint = "best"
    """The best by validation accuracy, or the latest."""

    def __call__(self) -> None:
        from resnext_jax.reports import grid, tables

        at_least_one(top_k=self.top_k, batch_size=self.batch_size, images=len(self.images))
        if self.grid:
            grid.check_format(self.grid)
        files = list_files(self.images)
        predictor = inference.load_run(self.run, self.checkpoint)
        with Console().task("reading images", len(files)) as update:
            predictions = predictor.predict(
                files, batch_size=self.batch_size, skip_bad_images=self.skip_bad_images, update=update
            )
        tables.print_predictions(predictions, self.top_k)
        if self.csv:
            tables.write_predictions(predictions, self.csv)
        if self.grid:
            grid.draw_predictions(predictions, self.grid)
