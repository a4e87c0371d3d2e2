"""Predictions as they come: lines in the terminal, rows of CSV and JSON-lines files."""

import csv
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from rich.cells import cell_len

from resnext_jax.console import as_utf8, printable
from resnext_jax.inference import Predictions

UNDECIDED = "undecided"
WIDEST = 60  # columns for names of images; a longer one moves its own line


def print_predictions(predictions: Predictions, top_k: int = 1) -> None:
    """Print a line for each image: its most probable classes."""
    lines = PredictionLines(predictions.keys, predictions.classes, top_k)
    print("\n".join([lines.header(), *lines.lines(predictions)]))


def write_predictions(predictions: Predictions, file: Path) -> None:
    """Write a CSV file with a row for each image; see `PredictionFiles`."""
    with PredictionFiles(predictions.classes, file) as files:
        files.add(predictions.keys, predictions.probabilities)


class PredictionLines:
    """Lines in columns, an image each.

    Args:
        keys: names of all images that will come, for the width of their column.
        classes: class names.
        top_k: classes to show for each image.
        threshold: images whose most probable class is less probable are marked as undecided.
    """

    def __init__(self, keys: Sequence[str], classes: Sequence[str], top_k: int, threshold: float = 0.0):
        self._threshold = threshold
        self._top_k = min(top_k, len(classes))
        self._key = min(max([cell_len(printable(key)) for key in keys], default=0), WIDEST)
        self._class = max(cell_len(printable(name)) for name in ("class 1", *classes))

    def header(self) -> str:
        """Names of the columns."""
        names = [f"class {i + 1}" if self._top_k > 1 else "class" for i in range(self._top_k)]
        return self._line("image", [(name, "probability") for name in names])

    def lines(self, predictions: Predictions) -> list[str]:
        """A line an image."""
        lines = []
        decided = predictions.decided(self._threshold)
        for key, top, choice in zip(predictions.keys, predictions.top(self._top_k), decided, strict=True):
            line = self._line(printable(key), [(printable(name), f"{100 * p:.2f} %") for name, p in top])
            lines.append(line if choice else f"{line}  {UNDECIDED}")
        return lines

    def _line(self, key: str, cells: Sequence[tuple[str, str]]) -> str:
        parts = [_padded(key, self._key)]
        for name, probability in cells:
            parts += [_padded(name, self._class), probability.rjust(11)]
        return "  ".join(parts)


class PredictionFiles:
    """Files that get a row for each image as soon as it is classified; use as a context manager.

    Bytes in names that are not UTF-8 are written as escapes, `caf\\\\xe9.jpg`.

    Args:
        classes: class names.
        csv_file: gets `image,class,probability` and the probability of each class.
        jsonl_file: gets `{"image": ..., "class": ..., "probability": ..., "probabilities": {...}}`.
        truths: whether the true classes are known: a column `true_class` behind `image`.
        threshold: the class of images whose most probable class is less probable is empty (null in JSON).
    """

    def __init__(
        self,
        classes: Sequence[str],
        csv_file: Path | None = None,
        jsonl_file: Path | None = None,
        *,
        truths: bool = False,
        threshold: float = 0.0,
    ):
        self._classes, self._truths, self._threshold = classes, truths, threshold
        self._open = ExitStack()
        self._csv, self._jsonl = self._opened(csv_file), self._opened(jsonl_file)
        self._table = csv.writer(self._csv) if self._csv else None
        if self._table:
            self._table.writerow(["image", *["true_class"] * truths, "class", "probability", *classes])

    def __enter__(self) -> "PredictionFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, keys: Sequence[str], probabilities: np.ndarray, truths: Sequence[str] = ()) -> None:
        """Write the rows of some images.

        Args:
            keys: their names, length N.
            probabilities: float [N, K].
            truths: their true classes, length N, if they are known.
        """
        for i, (key, row) in enumerate(zip(keys, probabilities, strict=True)):
            best = int(row.argmax())
            name = self._classes[best] if row[best] >= self._threshold else None
            truth = {"true_class": truths[i]} if self._truths else {}
            if self._table:
                numbers = [f"{value:.6f}" for value in (row[best], *row)]
                self._table.writerow([as_utf8(key), *truth.values(), name or "", *numbers])
            if self._jsonl:
                values = [round(float(value), 6) for value in row]
                record: dict[str, Any] = {"image": as_utf8(key)} | truth
                record |= {"class": name, "probability": values[best]}
                record["probabilities"] = dict(zip(self._classes, values, strict=True))
                self._jsonl.write(json.dumps(record, ensure_ascii=False) + "\n")
        for stream in (self._csv, self._jsonl):
            if stream:
                stream.flush()

    def _opened(self, file: Path | None) -> IO[str] | None:
        if file is None:
            return None
        file.parent.mkdir(parents=True, exist_ok=True)
        return self._open.enter_context(file.open("w", newline="", encoding="utf-8"))


def _padded(text: str, width: int) -> str:
    return text + " " * max(width - cell_len(text), 0)
