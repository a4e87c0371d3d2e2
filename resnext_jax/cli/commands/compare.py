"""`resnext-jax compare`."""

import logging
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from resnext_jax import inference, models, runs
from resnext_jax.cli.commands.choices import Checkpoint, Split
from resnext_jax.errors import BadInput

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compare:
    """Compare runs on the same images: metrics, and their differences from the first run's."""

    runs: Positional[tuple[Path, ...]]
    """Run directories, two or more."""
    data: str | None = None
    """Data to compare on (default: each run's own, which must hold the same images)."""
    data_dir: Path | None = None
    """Where prepared TFDS data sets lie, if not where they lay in training."""
    split: Split | None = None
    """Images to compare on (default: val; all of them where other data are given)."""
    checkpoint: Checkpoint = "best"
    """The best by validation accuracy, or the latest."""
    positive: str | None = None
    """Of two classes, the one to be detected (default: the second)."""
    curves: Path | None = None
    """Draw the validation curves of all runs to this picture."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> None:
        from resnext_jax.reports import compare, curves, grid

        if len(self.runs) < 2:
            raise BadInput(f"{len(self.runs)} run: expected two or more to compare")
        if self.curves:
            grid.check_format(self.curves)
        split = self.split or ("all" if self.data else "val")
        other = {name: getattr(self, name) for name in ("data", "data_dir")}
        changes = {name: value for name, value in other.items() if value is not None}
        entries: list[compare.Compared] = []
        for directory in self.runs:
            predictor = inference.load_run(directory, self.checkpoint)
            if split in ("train", "all") and self.data in (None, predictor.settings.get("data")):
                logger.info("%s was trained on some of these images", directory)
            predictions = predictor.predict_split(split, quiet=self.json, **changes)
            parameters = models.parameter_count(predictor.model)
            entry = compare.Compared(directory, predictor.spec.name, parameters, predictor.step, predictions)
            compare.check_comparable((entries or [entry])[0], entry)
            entries.append(entry)
        rows = compare.compare(entries, self.positive)
        if self.json:
            print(runs.to_json({"split": split, "runs": rows}))
        else:
            print(f"{len(entries[0].predictions.keys)} images of split {split}")
            compare.print_comparison(rows)
        if self.curves:
            curves.draw_validation(compare.histories(self.runs), self.curves)
