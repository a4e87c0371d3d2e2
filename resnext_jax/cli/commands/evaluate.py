"""`resnext-jax evaluate`."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnext_jax import runs
from resnext_jax.cli.commands.runs import OfSplit

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Evaluate(OfSplit):
    """Evaluate a trained run on a split of its data, or on other data."""

    positive: str | None = None
    """If there are two classes, the one to detect (default: the second). Sensitivity is its recall,
    specificity the recall of the other."""
    csv: Path | None = None
    """Write the true class, the prediction and all probabilities to this CSV file, a row an image."""
    confusion: Path | None = None
    """Draw the confusion matrix to this picture file."""
    mistakes: Path | None = None
    """Draw the wrong predictions with the highest probabilities to this picture file."""
    json: bool = False
    """Print the metrics as JSON."""

    def __call__(self) -> None:
        from resnext_jax.reports import confusion, grid, rows, tables

        for picture in (self.confusion, self.mistakes):
            if picture:
                grid.check_format(picture)
        predictor, split = self.load(), self.chosen_split
        predictions = predictor.predict_split(split, quiet=self.json, **self.computing, **self.other_data)
        if self.csv:
            with rows.PredictionFiles(predictor.classes, self.csv, truths=True) as files:
                truths = [predictor.classes[label] for label in predictions.labels]
                files.add(predictions.keys, np.exp(predictions.log_probabilities), truths)
        metrics = predictions.metrics(self.positive)
        if self.confusion:
            confusion.draw_confusion(metrics["confusion"], predictor.classes, self.confusion)
        if self.mistakes and not grid.draw_mistakes(predictions, self.mistakes):
            logger.info("mistakes=%s: not drawn, as there are none", self.mistakes)
        if self.json:
            print(runs.to_json({"run": str(self.run), "step": predictor.step, "split": split} | metrics))
        else:
            print(f"{self.run} after {predictor.step} steps, {metrics['images']} images of split {split}")
            tables.print_metrics(metrics)
