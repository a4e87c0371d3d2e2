"""`resnext-jax predict`."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from resnext_jax.cli.commands.runs import OfImages
from resnext_jax.console import Console
from resnext_jax.data import GivenImages, Source, open_dataset
from resnext_jax.errors import BadInput
from resnext_jax.fields import Range, shown
from resnext_jax.inference import Predictions


@dataclass(frozen=True, kw_only=True)
class Predict(OfImages):
    """Classify images with a trained run. Only the run directory is needed."""

    data_dir: Path | None = None
    """Folder of prepared TFDS data sets, for tfds:NAME."""
    csv: Path | None = None
    """Write the probabilities of all classes to this CSV file, a row an image."""
    jsonl: Path | None = None
    """Write them to this file, a JSON object a line."""
    grid: Path | None = None
    """Draw some of the images with their predicted classes to this picture file."""
    top_k: Annotated[int, Range(least=1)] = 1
    """How many of the most probable classes to show for each image."""
    threshold: Annotated[float, Range(least=0, most=1)] = 0.0
    """Leave an image undecided if its most probable class is less probable than this."""
    tta: bool = False
    """Average the predictions of ten views of each image: its centre, its corners, and their mirror images.
    Takes ten times as long."""
    batch_size: Annotated[int, Range(least=1)] = 8
    """Images to classify at a time. More take more memory; a GPU or TPU is faster with more."""
    devices: Annotated[int | None, Range(least=1)] = None
    """Use only this many devices (default: all)."""
    skip_bad_images: bool = False
    """Leave out images that cannot be read, and name them; otherwise they are an error, once all others are
    classified."""

    def __call__(self) -> None:
        from resnext_jax.reports import grid, rows

        if self.grid:
            grid.check_format(self.grid)
        source = self.source()
        predictor = self.load()
        stream = predictor.stream(
            source,
            tta=self.tta,
            batch_size=self.batch_size,
            skip_bad_images=self.skip_bad_images,
            devices=self.devices,
        )
        keys = source.keys
        sample = {keys[i] for i in grid.spread(len(keys))} if self.grid else set()
        drawn: list[Predictions] = []
        lines = rows.PredictionLines(keys, predictor.classes, self.top_k, self.threshold)
        files = rows.PredictionFiles(predictor.classes, self.csv, self.jsonl, threshold=self.threshold)
        # Lines in a terminal show by themselves how far it is.
        progress = Console(quiet=sys.stdout.isatty()).task("predicting", len(keys))
        print(lines.header())
        with files, progress as update:
            done = 0
            for predictions in stream:
                for line in lines.lines(predictions):
                    print(line, flush=True)
                files.add(predictions.keys, predictions.probabilities)
                drawn.append(predictions.some([i for i, key in enumerate(predictions.keys) if key in sample]))
                done += len(predictions.keys)
                update(done, "")
        if self.grid:
            grid.draw_predictions(Predictions.joined(drawn), self.grid, threshold=self.threshold)

    def source(self) -> Source:
        """The images that are asked for."""
        names = list(map(str, self.images))
        if any(name.startswith("tfds:") for name in names):
            if len(names) > 1:
                raise BadInput(f"{' '.join(names)}: expected a TFDS data set alone")
            return open_dataset(names[0], data_dir=self.data_dir).split("all")
        if self.data_dir is not None:
            raise BadInput(f"{shown(self, 'data_dir')}: goes with tfds:NAME")
        files: list[str] = []
        for name in names:
            if name == "-":
                listed = (os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer)
                files += filter(None, listed)
            else:
                files.append(name)
        return GivenImages(files)
