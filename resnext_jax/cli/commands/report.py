"""`resnext-jax report`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from resnext_jax import runs
from resnext_jax.cli.commands.runs import OfSplit
from resnext_jax.console import Console
from resnext_jax.fields import Range


@dataclass(frozen=True, kw_only=True)
class Report(OfSplit):
    """Write one page about a run: metrics with intervals, curves, examples with heat maps, mistakes."""

    out: Path | None = None
    """HTML file to write, which needs no other file and no network (default: report.html in the run
    directory)."""
    positive: str | None = None
    """If there are two classes, the one to detect (default: the second)."""
    examples: Annotated[int, Range(least=1)] = 12
    """How many images to show of those predicted right, and of those predicted wrong, at most."""
    check_data: bool = False
    """Look at every image that the run was trained and validated on, as `data check` does: for near copies,
    odd images, and images under two labels (default: only what is told without decoding them)."""

    def __call__(self) -> None:
        from resnext_jax.reports import html, trained_on

        html.check_installed()
        predictor, split = self.load(), self.chosen_split
        predictions = predictor.predict_split(split, quiet=False, **self.other_data)
        # With a split of the training's own, --data says where its images are now.
        moved = self.other_data if split in ("train", "val") else {}
        found = trained_on.trained_on(predictor, thorough=self.check_data, console=Console(), **moved)
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
            found=found,
            command=runs.this_command(),
        )
        size = file.stat().st_size / 2**20
        print(f"{file}: {size:.1f} MiB, on {len(predictions.keys)} images of split {split}")
