"""What a run shows while it works: progress bars in a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Update = Callable[[int, str], None]

PLAIN_SECONDS = 30.0  # between lines of one task where there is no terminal


class Console:
    """Lines and progress on standard output.

    Args:
        quiet: show nothing.
    """

    def __init__(self, quiet: bool = False):
        self._rich = rich.console.Console(quiet=quiet, highlight=False, soft_wrap=True)

    def line(self, text: str) -> None:
        """One line."""
        self._rich.print(text, markup=False)

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Update]:
        """Progress of one task: the yielded function takes how much is done and a text to show beside it."""
        if not self._rich.is_terminal:
            yield self._plain(name, total)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, TimeRemainingColumn(), console=self._rich, transient=True) as progress:
            task = progress.add_task(name, total=total, note="")
            yield lambda done, note="": progress.update(task, completed=done, note=note)

    def _plain(self, name: str, total: int) -> Update:
        shown = time.monotonic()

        def update(done: int, note: str = "") -> None:
            nonlocal shown
            if time.monotonic() - shown > PLAIN_SECONDS:
                shown = time.monotonic()
                self.line(f"{name} {done}/{total} {note}".rstrip())

        return update


def format_metrics(metrics: dict[str, float], prefix: str = "") -> str:
    """Metrics as people write them: `loss 0.512  top-1 81.20 %`."""
    names = {"loss": "loss", "top1": "top-1", "top5": "top-5"}
    parts = []
    for key, label in names.items():
        if prefix + key in metrics:
            value = metrics[prefix + key]
            parts.append(f"{label} {value:.4f}" if key == "loss" else f"{label} {100 * value:.2f} %")
    return "  ".join(parts)
