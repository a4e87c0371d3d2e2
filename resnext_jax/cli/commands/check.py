"""`resnext-jax data check`."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from resnext_jax.console import Console
from resnext_jax.data import DataConfig, check_dataset
from resnext_jax.fields import shown
from resnext_jax.runs import to_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Check(DataConfig):
    """Look at every image of a data set: what cannot be read, what is odd, and copies across the split that
    training with the same flags would make."""

    data: Positional[Annotated[str, arg(metavar="DATA")]]  # pyright: ignore[reportGeneralTypeIssues]  (required here)
    """`demo`, a folder, a table, or `tfds:NAME[/CONFIG]`."""
    json: bool = False
    """Print all that was found as JSON."""
    grid: Path | None = None
    """Draw the closest copies across the split, and images under two labels, to this picture file."""

    def __call__(self) -> None:
        from resnext_jax.cli.messages import with_flags  # which knows all commands
        from resnext_jax.reports import grid, tables

        if self.grid:
            grid.check_format(self.grid)
        dataset = self.open()
        images = dataset.split("all")
        with Console(quiet=self.json).task("looking at images", len(images)) as update:
            report = check_dataset(dataset, workers=self.workers, progress=lambda done, _: update(done, ""))
        if self.json:
            print(to_json(report.to_dict()))
        else:
            tables.print_data_report(report, with_flags)
        if self.grid:
            pairs = [*report.pairs, *report.conflicts]
            if not grid.draw_pairs(images, pairs, self.grid):
                logger.info("%s: not drawn, as there are no copies", shown(self, "grid"))
