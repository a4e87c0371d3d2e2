"""The history of a run: a row an epoch, how rows are ranked, and the files that hold them."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any, Literal

from resnext_jax.errors import BadInput
from resnext_jax.storage import write_whole

Row = dict[str, float]
"""`epoch`, `step`, `lr`, `train_*`, `val_*`, `seconds`, `images_per_second`, and the seconds of its steps:
`data_seconds` (waiting for batches), `dispatch_seconds` (handing steps to the devices), `device_seconds`."""

Monitor = Literal["top1", "loss", "balanced_accuracy", "macro_f1", "roc_auc"]
"""What makes an epoch the best."""


def monitored(row: Row, monitor: Monitor) -> dict[str, float]:
    """The metrics by which epochs are ranked: the monitored one, loss, step."""
    names = ("val_loss", "step") if monitor == "loss" else (f"val_{monitor}", "val_loss", "step")
    return {name: row[name] for name in names if name in row}


def rank(metrics: dict[str, float]) -> tuple[float, float, float]:
    """Order of epochs and checkpoints: the monitored metric; ties by loss, then the earlier one.

    An epoch whose metrics are not finite ranks below all others.

    Args:
        metrics: `val_loss`, and the monitored one unless the loss alone decides; `step` unless an old
            version saved them.
    """
    loss, step = metrics["val_loss"], metrics.get("step", 0)
    score = next((value for name, value in metrics.items() if name not in ("val_loss", "step")), 0.0)
    finite = math.isfinite(score) and math.isfinite(loss)
    return (score, -loss, -step) if finite else (-1.0, -math.inf, -step)


def best_row(history: list[Row], monitor: Monitor = "top1") -> Row:
    """The epoch whose checkpoint is the best."""
    return max(history, key=lambda row: rank(monitored(row, monitor)))


def write_history(directory: Path, history: list[Row]) -> None:
    """Write `history.csv` and `history.jsonl`, one row an epoch."""
    write_whole(directory / "history.jsonl", "".join(to_json(row) + "\n" for row in history))
    if not history:
        return
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(history[-1]), lineterminator="\n")
    table.writeheader()
    table.writerows(history)
    write_whole(directory / "history.csv", text.getvalue())


def read_history(directory: Path) -> list[Row]:
    """The rows of `history.jsonl`, [] if there is no such file; values that were not finite are NaN.

    Raises:
        BadInput: a line is no row.
    """
    file = directory / "history.jsonl"
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    # Not splitlines: JSON may hold other line separators, such as U+2028.
    lines = [line for line in text.split("\n") if line]
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line).items()
        except (ValueError, AttributeError, RecursionError) as error:
            raise BadInput(f"{file}, line {number}: expected a JSON object: {error}") from error
        rows.append({name: math.nan if value is None else value for name, value in values})
    return rows


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write_whole(path, to_json(values, indent=2) + "\n")


def to_json(values: dict[str, Any], indent: int | None = None) -> str:
    """JSON text; NaN and infinity, which JSON does not have, become null."""
    return json.dumps(_finite(values), indent=indent, ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
