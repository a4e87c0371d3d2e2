"""`resnext-jax evaluate`."""

import logging
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from resnext_jax import inference, runs
from resnext_jax.cli.commands.choices import Checkpoint, Split

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluate:
    """Metrics of a trained run on a split of its data, or on other data."""

    run: Positional[Path]
    """Run directory."""
    data: str | None = None
    """Other data than the run's, of the same classes."""
    data_dir: Path | None = None
    """Where prepared TFDS data sets lie, if not where they lay in training."""
    split: Split | None = None
    """Images to evaluate on (default: val; all of them where other data are given)."""
    checkpoint: Checkpoint = "best"
    """The best by validation accuracy, or the latest."""
    positive: str | None = None
    """Of two classes, the one to be detected: sensitivity is its recall, specificity the other's (default:
    the second)."""
    confusion: Path | None = None
    """Draw the confusion matrix to this picture."""
    mistakes: Path | None = None
    """Draw the images on which the model is surest and wrong to this picture."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> None:
        from resnext_jax.reports import confusion, grid, tables

        for picture in (self.confusion, self.mistakes):
            if picture:
                grid.check_format(picture)
        predictor = inference.load_run(self.run, self.checkpoint)
        split = self.split or ("all" if self.data else "val")
        other = {name: getattr(self, name) for name in ("data", "data_dir")}
        changes = {name: value for name, value in other.items() if value is not None}
        predictions = predictor.predict_split(split, quiet=self.json, **changes)
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
