"""The confusion matrix as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from resnext_jax.reports.fonts import fonts_for

MOST_NUMBERED = 20  # classes up to which counts are legible
MOST_NAMED = 60


def draw_confusion(confusion: np.ndarray, classes: Sequence[str], file: Path) -> None:
    """Draw a confusion matrix; the format is by the file's ending.

    Colours are shares of each true class, so that small classes are seen as well as large ones.

    Args:
        confusion: int [K, K], a row for each true class.
        classes: the K names.
        file: picture to write.
    """
    with fonts_for(classes):
        file.parent.mkdir(parents=True, exist_ok=True)
        _figure(np.asarray(confusion), classes).savefig(file, dpi=110)


def render_confusion(confusion: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """The picture of `draw_confusion` as an image, uint8 [H, W, 3]."""
    with fonts_for(classes):
        canvas = FigureCanvasAgg(_figure(np.asarray(confusion), classes))
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _figure(confusion: np.ndarray, classes: Sequence[str]) -> Figure:
    count = len(classes)
    side = 3.2 + 0.55 * min(count, MOST_NUMBERED)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    accuracy = np.trace(confusion) / max(confusion.sum(), 1)
    axes.set_title(f"{confusion.sum():,} images, top-1 {100 * accuracy:.2f} %")
    if count <= MOST_NAMED:
        size = 10 if count <= MOST_NUMBERED else 6
        # Class names may hold what matplotlib takes for mathematics.
        style: dict[str, Any] = {"fontsize": size, "parse_math": False}
        axes.set_xticks(range(count), classes, rotation=45, ha="right", rotation_mode="anchor", **style)
        axes.set_yticks(range(count), classes, **style)
    if count <= MOST_NUMBERED:
        _number(axes, confusion, shares)
    return figure


def _number(axes: Axes, confusion: np.ndarray, shares: np.ndarray) -> None:
    for (row, column), share in np.ndenumerate(shares):
        color = "white" if share > 0.5 else "black"
        axes.text(column, row, f"{confusion[row, column]:,}", ha="center", va="center", color=color)
