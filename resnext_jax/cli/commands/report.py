"""`resnext-jax report`."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from resnext_jax import inference
from resnext_jax.cli.commands.choices import Checkpoint, Split, at_least_one


@dataclass(frozen=True)
class Report:
    """Write one page about a run: figures with their intervals, curves, examples with heat maps, mistakes."""

    run: Positional[Path]
    """Run directory."""
    out: Path | None = None
    """HTML file to write, which needs no other file and no network (default: report.html in the run
    directory)."""
    data: str | None = None
    """Other data than the run's, of the same classes."""
    data_dir: Path | None = None
    """Where prepared TFDS data sets lie, if not where they lay in training."""
    split: Split | None = None
    """Images to report on (default: val; all of them where other data are given)."""
    checkpoint: Checkpoint = "best"
    """The best by validation accuracy, or the latest."""
    positive: str | None = None
    """Of two classes, the one to be detected (default: the second)."""
    examples: int = 12
    """Right and wrong images to show, of each so many at most."""

    def __call__(self) -> None:
        from resnext_jax.reports import html

        at_least_one(examples=self.examples)
        html.check_installed()
        predictor = inference.load_run(self.run, self.checkpoint)
        split = self.split or ("all" if self.data else "val")
        other = {name: getattr(self, name) for name in ("data", "data_dir")}
        changes = {name: value for name, value in other.items() if value is not None}
        predictions = predictor.predict_split(split, quiet=False, **changes)
        file = self.out or self.run / "report.html"
        html.write_report(
            predictor,
            predictions,
            self.run,
            file,
            split=split,
            data=self.data or predictor.settings.get("data", ""),
            positive=self.positive,
            examples=self.examples,
            command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        )
        size = file.stat().st_size / 2**20
        print(f"{file}: {size:.1f} MiB, on {len(predictions.keys)} images of split {split}")
