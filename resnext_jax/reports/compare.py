"""Runs side by side on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnext_jax import runs
from resnext_jax.errors import BadInput
from resnext_jax.inference import LabelledPredictions, differences
from resnext_jax.reports.tables import METRICS, interval_note, nested, number, print_table, span

COMPARED = ("top1", "balanced_accuracy", "macro.f1", "loss")


@dataclass(frozen=True)
class Compared:
    """A run and its predictions.

    Args:
        directory: the run directory.
        model: name of the variant.
        parameters: how many it has.
        step: training steps behind the checkpoint.
        predictions: of the images that all runs are compared on.
    """

    directory: Path
    model: str
    parameters: int
    step: int
    predictions: LabelledPredictions


def check_comparable(first: Compared, other: Compared) -> None:
    """Check that two runs were given the same images and tell the same classes apart.

    Raises:
        BadInput: they were not, or do not.
    """
    ours, theirs = first.predictions, other.predictions
    if ours.classes != theirs.classes:
        raise BadInput(
            f"{other.directory}: tells apart {', '.join(theirs.classes)}; {first.directory} tells apart "
            f"{', '.join(ours.classes)}"
        )
    if ours.keys != theirs.keys or not np.array_equal(ours.labels, theirs.labels):
        shared = len(set(ours.keys) & set(theirs.keys))
        raise BadInput(
            f"{other.directory}: {shared} of its {len(theirs.keys)} images are among those of "
            f"{first.directory}; set data=... to compare them on the same images"
        )


def compare(entries: Sequence[Compared], positive: str | None = None) -> list[dict[str, Any]]:
    """Metrics of each run, and how they differ from those of the first.

    Args:
        entries: comparable runs, two or more.
        positive: of two classes, the one to be detected; None: the second.

    Returns:
        A row a run, of plain JSON values: `run`, `model`, `parameters`, `step`, `metrics` (see
        `LabelledPredictions.metrics`); of all but the first also `difference`, of each metric in `COMPARED`
        its value and 95 % interval by a paired bootstrap, and `only_first_right`, `only_this_right`, numbers
        of images.
    """
    first = entries[0].predictions
    baseline = first.results(positive)
    rows = []
    for i, entry in enumerate(entries):
        row: dict[str, Any] = {
            "run": str(entry.directory),
            "model": entry.model,
            "parameters": entry.parameters,
            "step": entry.step,
            "metrics": entry.predictions.metrics(positive),
        }
        if i:
            results = entry.predictions.results(positive)
            found = differences(baseline, results, first.groups)
            row["difference"] = {
                key: {"value": found[metric][0], "interval": found[metric][1]}
                for key in COMPARED
                if (metric := tuple(key.split("."))) in found
            }
            ours, theirs = (r.predicted == r.labels for r in (baseline, results))
            row["only_first_right"] = int((ours & ~theirs).sum())
            row["only_this_right"] = int((theirs & ~ours).sum())
        rows.append(row)
    return rows


def print_comparison(rows: Sequence[dict[str, Any]]) -> None:
    """The metrics, a column a run; then how the others differ from the first."""
    names = short_names([row["run"] for row in rows])
    lines = [
        ["model", *(row["model"] for row in rows)],
        ["parameters", *(f"{row['parameters']:,}" for row in rows)],
        ["steps", *(f"{row['step']:,}" for row in rows)],
    ]
    for key, (title, is_share) in METRICS.items():
        if nested(rows[0]["metrics"], key) is not None:
            lines.append([title, *(number(nested(row["metrics"], key), is_share) for row in rows)])
            spans = [span(nested(row["metrics"]["intervals"], key), is_share) for row in rows]
            lines += [["", *spans]] if any(spans) else []
    print_table(["", *names], lines)

    others = rows[1:]
    lines = []
    for key in COMPARED:
        title, is_share = METRICS[key]
        scale, form = (100, "+.1f") if is_share else (1, "+.3f")
        found = [row["difference"][key] for row in others]
        lines.append([title, *(f"{scale * each['value']:{form}}" for each in found)])
        spans = [[f"{scale * end:{form}}" for end in each["interval"] or ()] for each in found]
        lines.append(["", *map(" to ".join, spans)])
    lines.append(["only it is right", *(f"{row['only_this_right']:,}" for row in others)])
    lines.append([f"only {names[0]} is right", *(f"{row['only_first_right']:,}" for row in others)])
    print_table([f"difference from {names[0]}", *names[1:]], lines)
    print(f"{interval_note(rows[0]['metrics'])}, the same ones for all runs")


def short_names(directories: Sequence[str]) -> list[str]:
    """The last parts of paths, as many as tell them apart."""
    paths = [Path(directory).resolve().parts for directory in directories]
    for count in range(1, max(map(len, paths))):
        names = [str(Path(*parts[-count:])) for parts in paths]
        if len(set(names)) == len(names):
            return names
    return list(directories)


def histories(directories: Sequence[Path]) -> list[tuple[str, list[runs.Row], runs.Monitor]]:
    """Name, validated epochs and what makes one the best, of each run that was trained here."""
    found = []
    names = short_names([str(directory) for directory in directories])
    for name, directory in zip(names, directories, strict=True):
        history = [row for row in runs.read_history(directory) if "val_loss" in row]
        if history:
            settings = runs.read_config(directory).get("config") or {}
            found.append((name, history, settings.get("monitor", "top1")))
    return found
