"""What a run was trained on, as its page tells it: the division, the classes, copies, unreadable images."""

from pathlib import Path
from typing import Any

import numpy as np

from resnext_jax.console import Console
from resnext_jax.data import DataConfig, Dataset, cheap_look, check_dataset
from resnext_jax.errors import BadInput
from resnext_jax.inference import Predictor
from resnext_jax.reports.tables import copied_note, data_rows, group_note

Row = tuple[str, str, str]


def trained_on(
    predictor: Predictor, *, thorough: bool = False, console: Console | None = None, **changes: object
) -> dict[str, Any]:
    """What is known of the data of a run, which are looked at where they are now.

    Args:
        predictor: of the run.
        thorough: look at every image as `check_data` does, for near copies and odd images too.
        console: where the progress of that is shown.
        changes: fields of `DataConfig` to replace, if the data have moved.

    Returns:
        `division`, a sentence; `trained`, training images of each class, or None; `findings`, rows of name,
        number and remark; `findings_note`, a sentence that sums them up, or "".
    """
    nothing = {"trained": None, "findings": [], "findings_note": ""}
    if not predictor.settings.get("data"):
        return nothing | {"division": "The weights were trained elsewhere."}
    try:
        config = predictor.data_config(**changes)
        dataset = config.open()
        labels = dataset.split("train").labels
        findings, note = _thorough(config, console or Console(quiet=True)) if thorough else _cheap(dataset)
    except (OSError, BadInput) as error:  # moved since, or changed
        gone = f"The data that it was trained on cannot be read any more: {error}"
        return nothing | {"division": gone, "findings": _left_out(predictor.directory)}
    return {
        "division": _division(dataset),
        "trained": np.bincount(labels, minlength=len(predictor.classes)).tolist(),
        "findings": [*_left_out(predictor.directory), *findings],
        "findings_note": note,
    }


def _division(dataset: Dataset) -> str:
    rule = dataset.rule
    if not dataset.undivided:
        return "The data come divided into " + ", ".join(dataset.splits) + "."
    part = f"part {rule.fold[0] + 1} of {rule.fold[1]}" if rule.fold else f"{100 * rule.fraction:g} %"
    apart = ""
    if rule.group_by or dataset.parts["train"].groups is not None:
        apart = f", images with equal {rule.group_by or 'groups'} on one side"
    return f"Held out for validation: {part} of the images, by seed {rule.seed}{apart}."


def _left_out(directory: Path) -> list[Row]:
    """Images that the run went on without."""
    try:
        reasons = (directory / "bad_images.txt").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    more = " …" if len(reasons) > 2 else ""
    return [("unreadable, left out of training", f"{len(reasons):,}", "; ".join(reasons[:2]) + more)]


def _cheap(dataset: Dataset) -> tuple[list[Row], str]:
    look = cheap_look(dataset)
    rows = [
        (
            "exact copies across the split",
            f"{100 * look.copied:.1f} %",
            "of the validation images, at least, are training images too, byte for byte",
        )
    ]
    how = "; this split ignores them" if look.ignored else ""
    rows += [("groups by their names", f"{each.groups:,}", group_note(each) + how) for each in look.groups]
    if not look.groups:
        rows.append(("groups by their names", "0", "the names suggest none"))
    return rows, ""


def _thorough(config: DataConfig, console: Console) -> tuple[list[Row], str]:
    dataset = config.open()
    with console.task("looking at images", len(dataset.split("all"))) as update:
        report = check_dataset(dataset, workers=config.workers, progress=lambda done, _: update(done, ""))
    note = copied_note(report)
    return data_rows(report), f"{note[0].upper()}{note[1:]}."
