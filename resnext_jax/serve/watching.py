"""A run under way, as its directory tells."""

import json
import time
from pathlib import Path
from typing import Any

from resnext_jax import runs
from resnext_jax.errors import BadInput

_OF_PICTURE = ("name", "true", "predicted", "probability", "picture")


def read_progress(directory: Path) -> dict[str, Any]:
    """What a page needs to show how a run goes; only the run directory is read.

    Args:
        directory: the run directory.

    Returns:
        Plain values: `run` (its name), `model`, `classes`, `monitor` (what makes an epoch the best),
        `epochs` (that are planned; None if unknown), `history` (a row an epoch), `best` (that epoch; None
        before the first), `finished`, `seconds_since_epoch` (since the last one; None before the first),
        `pictures` (when those of the last validation were written, in seconds; None while there are none).

    Raises:
        FileNotFoundError: there is no run.
        BadInput: it is described in another way.
    """
    config = runs.read_config(directory)
    spec = runs.ModelSpec.from_dict(config)
    settings = config.get("config", {})
    history = runs.read_history(directory)
    monitor = settings.get("monitor", "top1")
    validated = [row for row in history if "val_loss" in row]
    best = int(runs.best_row(validated, monitor)["epoch"]) if validated else None
    written = _changed(directory / "history.jsonl")
    ended = _changed(directory / "summary.json")
    return {
        "run": directory.resolve().name,
        "model": spec.name,
        "classes": list(spec.classes),
        "monitor": monitor,
        "epochs": settings.get("epochs"),
        "history": history,
        "best": best,
        # A run that goes on after its end leaves the old summary behind its newer history.
        "finished": ended is not None and written is not None and ended >= written,
        "seconds_since_epoch": None if written is None or not history else max(0.0, time.time() - written),
        "pictures": _changed(directory / runs.PICTURES),
    }


def read_pictures(directory: Path) -> dict[str, Any]:
    """Some images of the last validation, and what they were taken for, as training writes them.

    Args:
        directory: the run directory.

    Returns:
        `epoch`, and `images`, each with `name`, `true`, `predicted`, `probability`, and `picture`, a data URI
        of a JPEG.

    Raises:
        FileNotFoundError: there are none.
        BadInput: the file holds something else.
    """
    file = directory / runs.PICTURES
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        shown = [{name: image[name] for name in _OF_PICTURE} for image in values["images"]]
        is_right = all(str(image["picture"]).startswith("data:image/jpeg;base64,") for image in shown)
        pictures = {"epoch": int(values["epoch"]), "images": shown}
    except (ValueError, TypeError, LookupError) as error:
        raise BadInput(f"{file}: damaged ({error})") from None
    if not is_right:
        raise BadInput(f"{file}: damaged, it holds something else than pictures")
    return pictures


def _changed(file: Path) -> float | None:
    """When a file was changed, in seconds; None if there is none."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return None
