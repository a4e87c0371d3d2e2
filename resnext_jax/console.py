"""What a command shows while it works.

Lines that stay go to standard output; progress goes to standard error, so that a pipe gets only the results.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Update = Callable[[int, str], None]

PLAIN_SECONDS = 30.0  # between lines of one task where there is no terminal


class Console:
    """Lines on standard output, progress on standard error: bars in a terminal, plain lines elsewhere.

    Args:
        quiet: show nothing.

    Example:
        >>> console = Console()
        >>> console.line("epoch 1")
        epoch 1
        >>> with console.task("reading images", total=2) as update:
        ...     for done in (1, 2):
        ...         update(done, "of class cat")
    """

    def __init__(self, quiet: bool = False):
        self._lines = rich.console.Console(quiet=quiet, highlight=False, soft_wrap=True)
        self._progress = rich.console.Console(quiet=quiet, highlight=False, soft_wrap=True, stderr=True)

    def line(self, text: str) -> None:
        """Print one line; not while a task is shown. What a terminal would obey is shown as an escape."""
        self._lines.print(printable(text), markup=False)

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Update]:
        """Show the progress of one task while the context lasts.

        Args:
            name: what is done.
            total: steps in all.

        Returns:
            A function that takes the steps done and a note to show beside them.
        """
        if not self._progress.is_terminal:
            yield self._plain(name, total)
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, TimeRemainingColumn(), console=self._progress, transient=True) as progress:
            task = progress.add_task(name, total=total, note="")
            yield lambda done, note="": progress.update(task, completed=done, note=note)

    def _plain(self, name: str, total: int) -> Update:
        """A line on standard error now and then."""
        shown = time.monotonic()

        def update(done: int, note: str = "") -> None:
            nonlocal shown
            if time.monotonic() - shown > PLAIN_SECONDS:
                shown = time.monotonic()
                self._progress.print(f"{name} {done}/{total} {note}".rstrip(), markup=False)

        return update


def printable(text: str) -> str:
    """Text that is safe to print: control characters and bytes that are not UTF-8 are shown as escapes.

    File names may hold them, and a terminal would obey them.

    Example:
        >>> print(printable("caf\\udce9 \\x1b[2J ünï"))
        caf\\xe9 \\x1b[2J ünï
    """
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def as_utf8(text: str) -> str:
    """Text that can be written: bytes of a file name that are not UTF-8 become escapes.

    Example:
        >>> print(as_utf8("caf\\udce9"))
        caf\\xe9
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # how Python carries a byte that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def format_metrics(metrics: dict[str, float], prefix: str = "") -> str:
    """Metrics as people write them: `loss 0.512  top-1 81.20 %`."""
    names = {"loss": "loss", "top1": "top-1", "top5": "top-5"}
    parts = []
    for key, label in names.items():
        if prefix + key in metrics:
            value = metrics[prefix + key]
            parts.append(f"{label} {value:.4f}" if key == "loss" else f"{label} {100 * value:.2f} %")
    return "  ".join(parts)
