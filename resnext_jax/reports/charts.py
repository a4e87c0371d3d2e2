"""Charts as SVG that a page holds in itself and shows in its own colours, light or dark."""

import io
import re
from collections.abc import Iterable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from resnext_jax.inference import LabelledPredictions, wilson
from resnext_jax.reports.fonts import fonts_for
from resnext_jax.runs import Monitor, Row, best_row

# Stands for the page's own text colour while matplotlib draws.
INK = "#010203"
# Told apart on white as on black, and by readers who see few colours (Okabe and Ito).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a7500", "#56b4e9", "#7a5195", "#a05a2c")
MOST_LINES = len(COLORS)
BINS = 10


def curves_svg(history: list[Row], monitor: Monitor) -> list[str]:
    """Loss, and top-1, over the epochs.

    Args:
        history: a row an epoch.
        monitor: what makes an epoch the best.
    """
    charts = []
    best = best_row(history, monitor)
    epochs = [row["epoch"] for row in history]
    for metric, title, scale in (("loss", "Loss", 1), ("top1", "Top-1, %", 100)):
        figure, axes = _figure(title, "epoch (the best one is circled)", "")
        for split, label, style, color in (
            ("train", "training", "s--", COLORS[1]),
            ("val", "validation", "o-", COLORS[0]),
        ):
            values = [scale * row[f"{split}_{metric}"] for row in history]
            axes.plot(epochs, values, style, color=color, markersize=3, label=label)
        value = scale * best[f"val_{metric}"]
        if np.isfinite(value):
            axes.plot(best["epoch"], value, "o", markersize=9, fillstyle="none", color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(axes)
        charts.append(to_svg(figure, f"{title} over the epochs"))
    return charts


def ranking_svg(predictions: LabelledPredictions, shown: Sequence[int]) -> list[str]:
    """ROC and precision-recall curves of some classes, each against the rest.

    Args:
        predictions: of a split.
        shown: indices of up to `MOST_LINES` classes.
    """
    roc_figure, roc = _figure("ROC", "false alarms", "found", unit=True)
    recall_figure, recall = _figure("Precision and recall", "recall", "precision", unit=True)
    for color, k in zip(_colors(len(shown)), shown, strict=True):
        positive = predictions.labels == k
        order = np.argsort(-predictions.log_probabilities[:, k], kind="stable")
        scores = predictions.log_probabilities[order, k]
        ends = np.flatnonzero(np.diff(scores, append=-np.inf))  # of equal scores, the last
        hits = positive[order].cumsum()[ends]
        found = hits / max(positive.sum(), 1)
        alarms = (ends + 1 - hits) / max((~positive).sum(), 1)
        name = predictions.classes[k]
        roc.plot([0, *alarms], [0, *found], color=color, label=name)
        recall.step(found, hits / (ends + 1), where="pre", color=color, label=name)
    roc.plot([0, 1], [0, 1], ":", color=INK, alpha=0.5)
    _legend(roc)
    _legend(recall)
    return [to_svg(roc_figure, "ROC curves"), to_svg(recall_figure, "Precision against recall")]


def calibration_svg(predictions: LabelledPredictions) -> list[str]:
    """Accuracy against confidence, with 95 % intervals, and how often each confidence occurs."""
    figure, reliability = _figure("How often it is right", "confidence", "share that is right", unit=True)
    confidence = np.exp(predictions.log_probabilities.max(axis=1))
    right = predictions.log_probabilities.argmax(axis=1) == predictions.labels
    bin_of = np.clip((confidence * BINS).astype(int), 0, BINS - 1)
    reliability.plot([0, 1], [0, 1], ":", color=INK, alpha=0.5)
    for b in np.unique(bin_of):
        inside = bin_of == b
        mean, share = confidence[inside].mean(), float(right[inside].mean())
        low, high = wilson(share, int(inside.sum())) or (share, share)
        spread = [[max(share - low, 0)], [max(high - share, 0)]]
        reliability.errorbar(mean, share, spread, fmt="o", color=COLORS[0], markersize=5, capsize=2)
    counts_figure, counts = _figure("How confident it is", "confidence", "images")
    stacks = [confidence[right], confidence[~right]]
    edges = np.linspace(0, 1, BINS + 1)
    counts.hist(stacks, edges.tolist(), stacked=True, color=COLORS[:2], label=["right", "wrong"], rwidth=0.9)
    counts.set_xlim(-0.02, 1.02)
    counts.yaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(counts)
    return [
        to_svg(figure, "Accuracy against confidence"),
        to_svg(counts_figure, "How many images have which confidence"),
    ]


def to_svg(figure: Figure, label: str) -> str:
    """A figure as an element of a page: as wide as its place, its text in the page's font and colour.

    Args:
        figure: drawn in `INK` where it is to have the page's colour.
        label: what is read out in the place of the picture.
    """
    text = io.StringIO()
    words = [found.get_text() for found in figure.findobj(Text)]  # measured in fonts that have them
    with fonts_for(words), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).replace(INK, "currentColor")


def _figure(title: str, x: str, y: str, *, unit: bool = False) -> tuple[Figure, Axes]:
    """One chart, drawn in `INK`; with `unit` both axes run from 0 to 1."""
    figure = Figure(figsize=(4.6, 3.7), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    if unit:
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.grid(color=INK, alpha=0.12)
    axes.tick_params(colors=INK)
    for side, spine in axes.spines.items():
        spine.set(color=INK, alpha=0.4, visible=side in ("left", "bottom"))
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
        text.set_color(INK)
    return figure, axes


def _legend(axes: Axes) -> None:
    legend = axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _colors(count: int) -> Iterable[str]:
    return (COLORS[i % len(COLORS)] for i in range(count))
