"""A run as one page: what was trained on what, how well it does, and where it errs. Needs no network."""

import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnext_jax import runs
from resnext_jax.errors import MissingPackage
from resnext_jax.inference import (
    LabelledPredictions,
    Predictor,
    evidence,
    finest_stage,
    turns,
    weighted_areas,
)
from resnext_jax.models import parameter_count
from resnext_jax.reports.charts import MOST_LINES, calibration_svg, curves_svg, ranking_svg
from resnext_jax.reports.heatmaps import blend, fit
from resnext_jax.reports.pictures import data_uri
from resnext_jax.reports.tables import interval_note, number, span, total_rows
from resnext_jax.reports.trained_on import trained_on
from resnext_jax.storage import write_whole

PICTURE = 176  # pixels of an example's longer side
MOST_IN_MATRIX = 20
MOST_CONFUSIONS = 12


@dataclass(frozen=True)
class Example:
    """An image of the page, with the heat map of the class that was predicted.

    Args:
        key: the image's name.
        image: a data URI.
        heat_map: a data URI.
        predicted: class.
        true: class.
        confidence: probability of the predicted class.
        true_probability: of the true one.
    """

    key: str
    image: str
    heat_map: str
    predicted: str
    true: str
    confidence: float
    true_probability: float


def write_report(
    predictor: Predictor,
    predictions: LabelledPredictions,
    directory: Path,
    file: Path,
    *,
    split: str,
    data: str,
    positive: str | None = None,
    examples: int = 12,
    command: str = "",
    found: dict[str, Any] | None = None,
) -> None:
    """Write the page.

    Args:
        predictor: of the run.
        predictions: its predictions of a split.
        directory: the run directory.
        file: HTML file to write.
        split: what the images are.
        data: where they are from.
        positive: of two classes, the one to be detected; None: the second.
        examples: right and wrong images to show, of each so many at most.
        command: what makes this page again.
        found: about the data, by `trained_on`; None: it is asked now.

    Raises:
        MissingPackage: jinja2 is not installed.
    """
    check_installed()
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("resnext_jax.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": lambda x: f"{100 * x:.1f}\N{NO-BREAK SPACE}%",
        "count": lambda x: f"{x:,}",
    }
    metrics = predictions.metrics(positive)
    config = runs.read_config(directory)
    page = environment.get_template("report.html").render(
        **_about(predictor, config, directory, split, data, command),
        **_figures(predictions, metrics),
        **(found or trained_on(predictor)),
        **_history(directory, config),
        **_examples(predictor, predictions, examples),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, page)


def check_installed() -> None:
    """Check, before any work, that a page can be made.

    Raises:
        MissingPackage: jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise MissingPackage(
            f"the report needs jinja2 ({error}): pip install 'resnext-jax[report]'"
        ) from error


def _about(
    predictor: Predictor, config: dict[str, Any], directory: Path, split: str, data: str, command: str
) -> dict[str, Any]:
    """What the run is."""
    settings = predictor.settings
    return {
        "name": directory.resolve().name,
        "model": predictor.spec.name,
        "parameters": parameter_count(predictor.model),
        "step": predictor.step,
        "classes": predictor.classes,
        "split": split,
        "data": data,
        "preprocessing": predictor.preprocessing,
        # The epoch that is taken was chosen by these very images.
        "chosen_on_these": split == "val" and data == settings.get("data") and bool(settings.get("epochs")),
        "settings": {k: _plain(v) for k, v in settings.items() if v not in (None, [], "")},
        "versions": config.get("versions") or {},
        "devices": _counted(config.get("devices") or []),
        "machine": config.get("machine"),
        "commands": [
            c for c in (config.get("command"), (config.get("resumed") or {}).get("command"), command) if c
        ],
        "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, resnext-jax {version('resnext-jax')}, "
        f"Python {platform.python_version()}",
    }


def _counted(devices: Sequence[str]) -> str:
    """Kinds of devices with their numbers: `8 x NVIDIA H100`."""
    return ", ".join(f"{count} x {kind}" for kind, count in Counter(devices).items())


def _figures(predictions: LabelledPredictions, metrics: dict[str, Any]) -> dict[str, Any]:
    """How well the model does."""
    classes = predictions.classes
    intervals = metrics["intervals"]["per_class"]
    per_class = [
        {
            "name": name,
            "support": values["support"],
            "scores": [
                (number(values[s], False), span(intervals[name][s], False))
                for s in ("precision", "recall", "f1")
            ],
        }
        for name, values in metrics["per_class"].items()
    ]
    low, high = metrics["intervals"]["top1"] or (metrics["top1"],) * 2
    return {
        "metrics": metrics,
        "top1": (metrics["top1"], low, high),
        "totals": total_rows(metrics),
        "interval_note": interval_note(metrics),
        "per_class": per_class,
        "matrix": _matrix(metrics["confusion"]) if len(classes) <= MOST_IN_MATRIX else None,
        "confusions": _confusions(np.array(metrics["confusion"]), classes),
        "ranking": ranking_svg(predictions, _hardest(predictions)),
        "ranked_all": len(classes) <= MOST_LINES,
        "calibration": calibration_svg(predictions),
    }


def _history(directory: Path, config: dict[str, Any]) -> dict[str, Any]:
    """How training went, if the run was trained here."""
    history = [row for row in runs.read_history(directory) if "val_loss" in row]
    if not history:
        return {"history": []}
    monitor = (config.get("config") or {}).get("monitor", "top1")
    return {
        "history": history,
        "best": runs.best_row(history, monitor),
        "curves": curves_svg(history, monitor),
        "seconds": sum(row["seconds"] for row in history),
    }


def _matrix(confusion: Sequence[Sequence[int]]) -> list[list[tuple[int, float]]]:
    """Counts, with their shares of the true class."""
    return [[(count, count / max(sum(row), 1)) for count in row] for row in confusion]


def _confusions(confusion: np.ndarray, classes: Sequence[str]) -> list[tuple[str, str, int, float]]:
    """True class, predicted class, count and share of the most frequent confusions."""
    wrong = confusion * (1 - np.eye(len(classes), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSIONS]
    pairs = [divmod(int(i), len(classes)) for i in order]
    return [
        (classes[true], classes[guess], int(wrong[true, guess]), wrong[true, guess] / confusion[true].sum())
        for true, guess in pairs
        if wrong[true, guess]
    ]


def _hardest(predictions: LabelledPredictions) -> list[int]:
    """The classes to draw curves of: of two the positive one would do, of many those with the least area."""
    labels = predictions.labels
    ones = np.ones((1, len(labels)))
    areas = [
        weighted_areas(labels == k, predictions.log_probabilities[:, k], ones)[0][0]
        for k in range(len(predictions.classes))
    ]
    order = np.argsort(areas, kind="stable")
    present = [int(k) for k in order if np.isfinite(areas[k])]
    return sorted(present[:MOST_LINES])


def _examples(predictor: Predictor, predictions: LabelledPredictions, most: int) -> dict[str, Any]:
    """Images that the model names right and wrong."""
    right = np.flatnonzero(predictions.log_probabilities.argmax(axis=1) == predictions.labels)
    # The same ones each time, of every class (and of its groups) in turn.
    order = np.random.default_rng(0).permutation(right)
    if predictions.groups is not None:
        order = order[np.argsort(turns([predictions.groups[i] for i in order]), kind="stable")]
    some = order[np.argsort(turns(predictions.labels[order].tolist()), kind="stable")][:most]
    mistakes = predictions.mistakes(most)
    stage = finest_stage(predictor.model, predictor.preprocessing.image_size)
    return {
        "stage": stage,
        "right": _show(predictor, predictions, some, stage),
        "wrong": _show(predictor, predictions, mistakes, stage),
        "wrong_in_all": len(predictions.labels) - len(right),
    }


def _show(
    predictor: Predictor, predictions: LabelledPredictions, chosen: np.ndarray, stage: str
) -> list[Example]:
    if not len(chosen):
        return []
    pixels = predictions.images.gather(chosen)
    rows = predictions.log_probabilities[chosen]
    targets = rows.argmax(axis=1)
    maps = evidence(predictor.model, predictor.preprocessing, pixels, targets[:, None], stage=stage)
    shown = []
    for i, image, row, guess, [values] in zip(chosen, pixels, rows, targets, maps, strict=True):
        picture = fit(image, PICTURE, PICTURE)
        size = picture.shape[1::-1]
        values = np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR))
        true = predictions.labels[i]
        shown.append(
            Example(
                key=predictions.keys[i],
                image=data_uri(picture),
                heat_map=data_uri(blend(picture, values, float(values.max()) or 1.0)),
                predicted=predictions.classes[guess],
                true=predictions.classes[true],
                confidence=float(np.exp(row[guess])),
                true_probability=float(np.exp(row[true])),
            )
        )
    return shown


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
