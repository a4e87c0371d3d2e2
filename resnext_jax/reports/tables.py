"""Tables in the terminal."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import rich.box
from rich.console import Console
from rich.table import Table

from resnext_jax.console import printable
from resnext_jax.data import DataReport, NameGroups
from resnext_jax.inference import RESAMPLES
from resnext_jax.models import ResNetConfig, StageCost, count_parameters, get_config, list_models
from resnext_jax.weights import NAMED_WEIGHTS, timm_weights

MOST_COLUMNS = 12  # classes up to which a confusion matrix is printed


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int = 1) -> None:
    """Print a table; all but the first `text_columns` columns are set to the right."""
    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < text_columns else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    # Where there is no terminal there is no width to keep to.
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 200).print(table)


# Metrics of a whole evaluation as people know them, and whether they are shares.
METRICS = {
    "top1": ("top-1", True),
    "top5": ("top-5", True),
    "balanced_accuracy": ("balanced accuracy", True),
    "macro.f1": ("macro F1", False),
    "sensitivity": ("sensitivity", True),
    "specificity": ("specificity", True),
    "roc_auc": ("ROC-AUC", False),
    "pr_auc": ("PR-AUC", False),
    "loss": ("loss", False),
    "ece": ("calibration error", True),
}
SCORES = ("precision", "recall", "f1")


def print_metrics(metrics: dict[str, Any]) -> None:
    """What `Predictor.evaluate` found: totals, a row a class, and for few classes the confusion matrix."""
    if "positive" in metrics:
        print(f"to be detected: {metrics['positive']}")
    print_table(["metric", "value", "95 % interval"], total_rows(metrics))
    intervals = metrics["intervals"]["per_class"]
    rows = []
    for name, values in metrics["per_class"].items():
        cells = [
            cell for score in SCORES for cell in (f"{values[score]:.4f}", span(intervals[name][score], False))
        ]
        rows.append([name, *cells, f"{values['support']:,}"])
    print_table(["class", *(cell for score in SCORES for cell in (score, "95 %")), "support"], rows)
    classes = list(metrics["per_class"])
    if len(classes) <= MOST_COLUMNS:
        rows = [[name, *map(str, counts)] for name, counts in zip(classes, metrics["confusion"], strict=True)]
        print_table(["true \\ predicted", *classes], rows)
    print(interval_note(metrics))


def total_rows(metrics: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and interval of each metric of a whole evaluation."""
    rows = []
    for key, (name, is_share) in METRICS.items():
        value, bounds = nested(metrics, key), nested(metrics["intervals"], key)
        if value is not None:
            rows.append((name, number(value, is_share), span(bounds, is_share)))
    return rows


def interval_note(metrics: dict[str, Any]) -> str:
    """How the intervals were found."""
    drawn = f"{metrics['images']:,} images" if not metrics["groups"] else f"{metrics['groups']:,} groups"
    return f"intervals: by {RESAMPLES} resamples of the {drawn}"


def nested(values: dict[str, Any], key: str) -> Any:
    """An entry by its dotted name; None if there is none."""
    found: Any = values
    for name in key.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def number(value: float, is_share: bool) -> str:
    """A metric as people write it."""
    return f"{100 * value:.2f} %" if is_share else f"{value:.4f}"


def span(bounds: list[float] | None, is_share: bool) -> str:
    """A confidence interval as people write it; empty if there is none."""
    if bounds is None:
        return ""
    low, high = bounds
    return f"{100 * low:.1f} to {100 * high:.1f} %" if is_share else f"{low:.3f} to {high:.3f}"


def print_models() -> None:
    """Every variant: blocks, cardinality, width, parameters at 1000 classes."""
    rows = []
    for name in list_models():
        config, parameters = get_config(name), f"{count_parameters(name):,}"
        if not isinstance(config, ResNetConfig):
            rows.append([name, "", "", "", "", parameters])
            continue
        shape = [
            config.block if isinstance(config.block, str) else "mixed",
            "-".join(map(str, config.layers)),
        ]
        rows.append([name, *shape, f"{config.groups:,}", f"{config.width_per_group:,}", parameters])
    print_table(["model", "block", "blocks", "cardinality", "width", "parameters"], rows, text_columns=3)


def print_weights() -> None:
    """Every published weight of every model, with the top-1 that is published for it."""
    rows = []
    for name in list_models():
        size = f"{4e-6 * count_parameters(name):.0f} MB"
        for tag, named in NAMED_WEIGHTS.get(name, {}).items():
            pixels = named.preprocessing.image_size
            rows.append([name, tag, "bsd-3-clause", f"{named.top1:.2f} %", f"{pixels} px", size])
        for tag, timms in timm_weights().get(name, {}).items():
            top1 = "" if timms.top1 is None else f"{timms.top1:.2f} %"
            rows.append([name, tag, timms.license or "", top1, f"{timms.image_size} px", size])
    print_table(["model", "name or tag", "licence", "top-1", "images", "size"], rows, text_columns=3)
    print(
        "top-1 on ImageNet-1k's validation images as torchvision and timm publish it; timm's of August 2024"
    )
    print("licences as timm states them; cc-by-nc-4.0: not for commercial use")


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


def print_data_report(report: DataReport, in_users_words: Callable[[str], str] = str) -> None:
    """Print what `check_data` found: classes, then a row for each kind of finding, with the first images.

    Args:
        report: what was found.
        in_users_words: turns the names of fields into what the user calls them.
    """
    print_table(["class", "images"], [[name, f"{count:,}"] for name, count in report.classes.items()])
    rows = [[name, number, in_users_words(first)] for name, number, first in data_rows(report)]
    print_table(["found", "number", "the first"], rows)
    print(in_users_words(copied_note(report)))


def data_rows(report: DataReport) -> list[tuple[str, str, str]]:
    """Of each kind of finding its name, how many there are, and the first images."""
    rows = [
        ["image sizes", len(report.sizes), [f"{size} ({count:,})" for size, count in report.sizes.items()]],
        ["unreadable images", len(report.unreadable), list(report.unreadable.values())],
        ["odd images", len(report.odd), [f"{key}: {what}" for key, what in report.odd.items()]],
        [
            "groups of exact copies",
            len(report.exact_copies),
            [" = ".join(g[:2]) for g in report.exact_copies],
        ],
        ["groups of near copies", len(report.near_copies), [" ~ ".join(g[:2]) for g in report.near_copies]],
        ["copies under two labels", len(report.conflicts), [" ~ ".join(pair) for pair in report.conflicts]],
    ]
    rows += [["groups by their names", each.groups, [group_note(each)]] for each in report.groups]
    return [(name, f"{n:,}", _first(texts)) for name, n, texts in rows]


def group_note(groups: NameGroups) -> str:
    """How large groups are that names suggest, and what keeps each together."""
    return f"at most {groups.largest} images in one; group_by='{groups.group_by}' keeps them together"


def copied_note(report: DataReport) -> str:
    """How much of the validation is known from training."""
    if report.copied is None or report.split is None:
        return f"not divided for training and validation: {report.undivided}"
    return (
        f"{100 * report.copied:.1f} % of the {report.split['val']:,} validation images have a copy among "
        f"the {report.split['train']:,} training images"
    )


def _first(texts: Sequence[str], most: int = 2) -> str:
    return "; ".join(texts[:most]) + (" ..." if len(texts) > most else "")
