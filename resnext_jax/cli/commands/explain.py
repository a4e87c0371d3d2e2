"""`resnext-jax explain`."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from resnext_jax import inference
from resnext_jax.cli.commands.choices import Checkpoint, at_least_one
from resnext_jax.console import Console
from resnext_jax.data import list_files
from resnext_jax.inference import Method


@dataclass(frozen=True)
class Explain:
    """Draw where in images the evidence for a class lies."""

    run: Positional[Path]
    """Run directory."""
    images: Positional[tuple[Path, ...]]
    """Image files, and folders whose images are taken at any depth."""
    out: Path
    """Picture to write: each image beside its heat maps, a row an image."""
    method: Method = "grad-cam"
    """grad-cam: by the gradient at a stage's output; grad-cam++: the same, for small or several objects;
    occlusion: by covering parts of the image, slower and in units of probability."""
    stage: str | None = None
    """Stage whose output's gradient is taken: stem, layer1, ... (default: the last)."""
    classes: tuple[str, ...] = ()
    """Names of classes to explain (default: the most probable)."""
    top_k: int = 1
    """How many of the most probable classes to explain, side by side."""
    patch: int | None = None
    """Side of the square that covers, in pixels of what the network sees, for occlusion (default: an eighth
    of the image's side)."""
    batch_size: int = 32
    """Images at a time."""
    checkpoint: Checkpoint = "best"
    """The best by validation accuracy, or the latest."""

    def __call__(self) -> None:
        from resnext_jax.reports import grid, heatmaps

        at_least_one(top_k=self.top_k, batch_size=self.batch_size, images=len(self.images))
        grid.check_format(self.out)
        predictor = inference.load_run(self.run, self.checkpoint)
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
