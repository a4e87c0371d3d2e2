"""Learning curves of a run as a picture."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resnext_jax.errors import BadInput
from resnext_jax.reports.fonts import fonts_for
from resnext_jax.runs import Monitor, Row, best_row
from resnext_jax.storage import write_whole
from resnext_jax.training import Progress

PANELS = (("loss", "Loss", 1), ("top1", "Top-1 accuracy, %", 100))


def write_curves(progress: Progress) -> None:
    """Draw `curves.png` in the run directory; a writer for `fit`."""
    draw_curves(progress.history, progress.directory / "curves.png", progress.config.monitor)


def draw_curves(history: list[Row], file: Path, monitor: Monitor = "top1") -> None:
    """Draw loss and top-1 over the epochs.

    Args:
        history: a row an epoch, with train_loss, val_loss, train_top1, val_top1.
        file: PNG to write.
        monitor: what makes an epoch the best; it is marked.
    """
    best = best_row(history, monitor)
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    for axes, (metric, title, scale) in zip(figure.subplots(1, 2), PANELS, strict=True):
        for split, label, style in (("train", "training", "--"), ("val", "validation", "-")):
            values = [scale * row[f"{split}_{metric}"] for row in history]
            # A marker, as a line of one epoch is invisible.
            axes.plot(epochs, values, style, marker="o", markersize=3, label=label)
        value = scale * best[f"val_{metric}"]
        if math.isfinite(value):
            axes.plot(best["epoch"], value, "o", markersize=9, fillstyle="none", color="black")
            axes.set_title(f"{title} (best epoch, {best['epoch']}: {value:.4g})")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110)
    write_whole(file, picture.getvalue())  # who watches the file never sees half of it


def draw_validation(runs: Sequence[tuple[str, list[Row], Monitor]], file: Path) -> None:
    """Draw validation loss and top-1 of several runs over the epochs.

    Args:
        runs: name, history and what makes an epoch the best, of each; the best epochs are circled.
        file: picture to write; the format is by its ending.

    Raises:
        BadInput: none of the runs has a history.
    """
    if not runs:
        raise BadInput("curves: none of the runs was trained here, so that there is no history to draw")
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    with fonts_for(name for name, *_ in runs):
        for axes, (metric, title, scale) in zip(figure.subplots(1, 2), PANELS, strict=True):
            for name, history, monitor in runs:
                epochs = [row["epoch"] for row in history]
                values = [scale * row[f"val_{metric}"] for row in history]
                [line] = axes.plot(epochs, values, marker="o", markersize=3, label=name)
                best = best_row(history, monitor)
                value = scale * best[f"val_{metric}"]
                axes.plot(best["epoch"], value, "o", markersize=9, fillstyle="none", color=line.get_color())
            axes.set_title(f"{title}, validation")
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(alpha=0.3)
            for text in axes.legend().get_texts():
                text.set_parse_math(False)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=110)
