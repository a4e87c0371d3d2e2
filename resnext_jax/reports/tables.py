"""Tables in the terminal and as CSV."""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich.box
from rich.console import Console
from rich.table import Table

from resnext_jax.console import format_metrics
from resnext_jax.inference import Predictions
from resnext_jax.models import StageCost, abstract_model, list_models, parameter_count

MOST_COLUMNS = 12  # classes up to which a confusion matrix is printed


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int = 1) -> None:
    """Print a table; all but the first `text_columns` columns are set to the right."""
    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < text_columns else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    # Where there is no terminal there is no width to keep to.
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 200).print(table)


def print_predictions(predictions: Predictions, top_k: int) -> None:
    """A row an image: its most probable classes."""
    columns = ["image"]
    for place in range(1, min(top_k, len(predictions.classes)) + 1):
        columns += [f"class {place}" if top_k > 1 else "class", "probability"]
    rows = [
        [key, *(cell for name, probability in top for cell in (name, f"{100 * probability:.2f} %"))]
        for key, top in zip(predictions.keys, predictions.top(top_k), strict=True)
    ]
    print_table(columns, rows, text_columns=2)


def write_predictions(predictions: Predictions, file: Path) -> None:
    """Write `image,class,probability` and a column of probabilities for each class as CSV."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "class", "probability", *predictions.classes])
        for key, [(name, probability)], row in zip(
            predictions.keys, predictions.top(), predictions.probabilities, strict=True
        ):
            table.writerow([key, name, f"{probability:.6f}", *(f"{value:.6f}" for value in row)])


def print_metrics(metrics: dict[str, Any]) -> None:
    """What `Predictor.evaluate` found: totals, a row a class, and for few classes the confusion matrix."""
    print(f"{format_metrics(metrics)}  calibration error {100 * metrics['ece']:.2f} %")
    if "roc_auc" in metrics:
        print(
            f"{metrics['positive']}: sensitivity {100 * metrics['sensitivity']:.2f} %  specificity "
            f"{100 * metrics['specificity']:.2f} %  ROC-AUC {metrics['roc_auc']:.4f}"
        )
    scores = ("precision", "recall", "f1")
    rows = [
        [name, *(f"{values[score]:.4f}" for score in scores), f"{values['support']:,}"]
        for name, values in metrics["per_class"].items()
    ]
    rows.append(["mean", *(f"{metrics['macro'][score]:.4f}" for score in scores), f"{metrics['images']:,}"])
    print_table(["class", *scores, "support"], rows)
    classes = list(metrics["per_class"])
    if len(classes) <= MOST_COLUMNS:
        rows = [[name, *map(str, counts)] for name, counts in zip(classes, metrics["confusion"], strict=True)]
        print_table(["true \\ predicted", *classes], rows)


def print_models() -> None:
    """Every variant: blocks, cardinality, width, parameters at 1000 classes."""
    rows = []
    for name in list_models():
        model = abstract_model(name)
        config = model.config
        numbers = (config.groups, config.width_per_group, parameter_count(model))
        rows.append([name, config.block, "-".join(map(str, config.layers)), *(f"{n:,}" for n in numbers)])
    print_table(["model", "block", "blocks", "cardinality", "width", "parameters"], rows, text_columns=3)


def print_summary(stages: Sequence[StageCost]) -> None:
    """Every stage's output shape, parameters and multiply-adds, and the totals."""
    rows = [
        [s.name, " x ".join(map(str, s.shape)), f"{s.trainable:,}", f"{s.frozen:,}", f"{s.multiply_adds:,}"]
        for s in stages
    ]
    totals = [sum(getattr(s, name) for s in stages) for name in ("trainable", "frozen", "multiply_adds")]
    rows.append(["total", "", *(f"{total:,}" for total in totals)])
    print_table(["stage", "output", "trainable", "not trainable", "multiply-adds"], rows, text_columns=2)
    print("not trainable: the batch norms' running statistics, and frozen parameters")
