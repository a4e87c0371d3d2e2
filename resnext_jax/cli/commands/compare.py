"""`resnext-jax compare`."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from resnext_jax import inference, models, runs
from resnext_jax.cli.commands.runs import Checkpoint, OnSplit
from resnext_jax.errors import BadInput

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Compare(OnSplit):
    """Compare runs on the same images: their metrics, and how the others differ from the first."""

    directories: Positional[Annotated[tuple[Path, ...], arg(metavar="RUNS")]]
    """Run directories, two or more. Without --data their own images must be the same ones."""
    checkpoint: Checkpoint = "best"
    """best: the epoch that was best by the run's --monitor; latest: the last one saved."""
    positive: str | None = None
    """If there are two classes, the one to detect (default: the second)."""
    curves: Path | None = None
    """Draw the validation curves of all runs to this picture file."""
    json: bool = False
    """Print the metrics as JSON."""

    def check(self) -> None:
        super().check()
        if len(self.directories) < 2:
            raise BadInput(f"{len(self.directories)} run: expected two or more to compare")

    def __call__(self) -> None:
        from resnext_jax.reports import compare, curves, grid

        if self.curves:
            grid.check_format(self.curves)
        split = self.chosen_split
        entries: list[compare.Compared] = []
        for directory in self.directories:
            predictor = inference.load_run(directory, self.checkpoint)
            if split in ("train", "all") and self.data in (None, predictor.settings.get("data")):
                logger.info("%s was trained on some of these images", directory)
            predictions = predictor.predict_split(split, quiet=self.json, **self.other_data)
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
            curves.draw_validation(compare.histories(self.directories), self.curves)
