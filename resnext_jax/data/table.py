"""Images listed in a table with their labels: CSV, TSV or Parquet."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnext_jax.data.cells import Cells, read_cells
from resnext_jax.data.dataset import SPLITS, Dataset
from resnext_jax.data.folder import FolderSource
from resnext_jax.data.image_files import ImageFiles
from resnext_jax.data.split import Split, split_of_name
from resnext_jax.errors import BadInput, listed

logger = logging.getLogger(__name__)

# What columns are called, in lower case and with _ between words.
_USUAL = {
    "image": (
        *("image", "images", "image_path", "image_file", "image_name", "image_id", "img", "img_path", "path"),
        *("file", "file_path", "filepath", "filename", "file_name", "id", "name"),
    ),
    "label": ("label", "labels", "class", "class_name", "category", "target", "diagnosis", "dx", "y"),
    "split": ("split", "set", "subset", "partition", "phase"),
    "group": (
        *("patient", "patient_id", "patientid", "subject", "subject_id", "group", "group_id"),
        *("case", "case_id", "participant", "participant_id", "lesion", "lesion_id"),
    ),
}


@dataclass(frozen=True)
class Columns:
    """Which columns of a table say what; None: guessed by their usual names.

    Args:
        image: path or name of each image, with or without its suffix.
        label: its class.
        split: its split, as `split_of_name` knows them.
        group: images of one group stay on one side of the split; "": there are no groups.
    """

    image: str | None = None
    label: str | None = None
    split: str | None = None
    group: str | None = None


def open_table(file: Path, rule: Split, columns: Columns, image_dir: Path | None = None) -> Dataset:
    """Open a table that lists images and their classes, and perhaps their splits and groups.

    Args:
        file: a .csv, .tsv or .parquet file whose first row names the columns.
        rule: how it is divided, if there is no column of splits.
        columns: which columns say what.
        image_dir: folder that the images' paths are relative to, or that has them somewhere below; None: the
            table's.

    Raises:
        FileNotFoundError: no such table, or images that are not there; the message names them.
        BadInput: what is in it is no such table.
    """
    table = read_cells(file)
    root = image_dir or file.parent
    if not root.is_dir():
        raise FileNotFoundError(f"image_dir={root}: no such folder")
    files = ImageFiles(root)
    roles = {name: _roles(name) for name in table.cells}
    if not columns.label and not any("label" in each for each in roles.values()):
        given = (columns.image, columns.split, columns.group)
        table = table.with_labels_of([name for name in roles if not roles[name] and name not in given])
    columns = _choose(table, columns, files, grouped=rule.group_by is not None)
    assert columns.image is not None
    assert columns.label is not None
    told = [f"{role}s by {name!r}" for role in _USUAL if (name := getattr(columns, role))]
    logger.info("%s: %s", file, ", ".join(told))
    rows = _labelled(table, columns)
    images = _find(table, columns.image, rows, files)
    # By name, as everywhere: the order of the rows means nothing.
    images, rows = zip(*sorted(zip(images, rows, strict=True)), strict=True)
    rows, images = _without_repeats(table, columns, rows, images)

    labels = [table.cells[columns.label][row] for row in rows]
    splits = [_split(table, columns.split, row) for row in rows]
    classes = _classes(table, labels, splits)
    label_of = {name: label for label, name in enumerate(classes)}
    groups = _groups(table, columns.group, rows, images)
    sources = {}
    for split in SPLITS:
        if chosen := [i for i, of_row in enumerate(splits) if of_row == split]:
            sources[split] = FolderSource(
                root,
                classes,
                np.array([label_of[labels[i]] for i in chosen], np.int32),
                [images[i][0] for i in chosen],
                np.array([images[i][1] for i in chosen], np.int64),
                groups=groups and [groups[i] for i in chosen],
            )
    return Dataset(str(file), classes, sources, rule)


def _roles(name: str) -> set[str]:
    """What a column of this name usually says."""
    plain = "_".join(name.lower().replace("-", " ").split())
    return {role for role, usual in _USUAL.items() if plain in usual}


def _choose(table: Cells, columns: Columns, files: ImageFiles, *, grouped: bool) -> Columns:
    """Every role's column: the given one, else the only one that is called as usual."""
    names = list(table.cells)
    chosen: dict[str, str | None] = {}
    for role in _USUAL:
        given = getattr(columns, role)
        if given and given not in names:
            raise BadInput(f"{role}_column={given!r}: no column of {table.file}, which has {listed(names)}")
        chosen[role] = given
    if grouped:
        chosen["group"] = ""
    taken = {name for name in chosen.values() if name}
    for role in _USUAL:
        if chosen[role] is not None:
            continue
        likely = [name for name in names if role in _roles(name) and name not in taken]
        if role == "image" and len(likely) > 1:
            # An id beside a file name, say: the one that names files.
            likely = [
                name
                for name in likely
                if any(files.find(value) or files.find_alike(value) for value in table.cells[name][:20])
            ]
        if len(likely) == 1:
            chosen[role] = likely[0]
            taken.add(likely[0])
        elif role in ("image", "label"):
            if any(files.find(name) for name in names):
                raise BadInput(f"{table.file}: its first row is {listed(names)}; expected names of columns")
            what = f"{listed(likely)} may each be it" if likely else f"it has {listed(names)}"
            raise BadInput(f"{table.file}: which column has the {role}s? {what}; name it by {role}_column")
        elif likely:
            logger.warning(
                "%s: %s may each name the %ss, so none is taken; name one by %s_column",
                table.file,
                listed(likely),
                role,
                role,
            )
    return Columns(**{role: name or None for role, name in chosen.items()})


def _labelled(table: Cells, columns: Columns) -> list[int]:
    """The rows that have a label: all, or all but a test split without any."""
    assert columns.label is not None
    labels = table.cells[columns.label]
    bare = [row for row, label in enumerate(labels) if not label or label.lower() == "nan"]
    if not bare:
        return list(range(len(labels)))
    tested = {
        row for row in range(len(labels)) if columns.split and _split(table, columns.split, row) == "test"
    }
    if tested != set(bare) or len(bare) == len(labels):
        raise BadInput(
            f"{table.file}: {len(bare)} of {len(labels)} rows have no {columns.label}: {table.where(bare)}; "
            "label them or delete them"
        )
    logger.warning(
        "%s: its %d test images have no %s, so they are left out; they can be predicted",
        table.file,
        len(bare),
        columns.label,
    )
    return [row for row in range(len(labels)) if row not in tested]


def _find(table: Cells, column: str, rows: Sequence[int], files: ImageFiles) -> list[tuple[str, int]]:
    """Path and bytes of each row's image."""
    found, missing, alike = [], [], []
    for row in rows:
        candidates = files.find(table.cells[column][row])
        if not candidates and (candidates := files.find_alike(table.cells[column][row])):
            alike.append(row)
        if len(candidates) > 1:
            names = listed([key for key, _ in candidates])
            raise BadInput(
                f"{table.file}, {table.where([row], column)}: {names} may each be it; give paths in the "
                "table, or name the folder by image_dir"
            )
        found += candidates
        missing += [] if candidates else [row]
    if missing:
        raise FileNotFoundError(
            f"{table.file}: {len(missing)} of {len(rows)} images are not in {files.root}: "
            f"{table.where(missing, column)}; correct column {column!r}, or name the folder by image_dir"
        )
    if alike:
        logger.warning(
            "%s: %d images have another suffix, case or number of zeros than in the table: %s",
            table.file,
            len(alike),
            table.where(alike, column),
        )
    return found


def _without_repeats(
    table: Cells, columns: Columns, rows: Sequence[int], images: Sequence[tuple[str, int]]
) -> tuple[list[int], list[tuple[str, int]]]:
    """The first row of each image; all must say the same of it."""
    said = [name for name in (columns.label, columns.split, columns.group) if name]
    first: dict[str, int] = {}
    kept = []
    for i, (row, (key, _)) in enumerate(zip(rows, images, strict=True)):
        other = first.setdefault(key, row)
        if other == row:
            kept.append(i)
            continue
        for name in said:
            if table.cells[name][row] != table.cells[name][other]:
                raise BadInput(
                    f"{table.file}: {key} has two values of {name}, {table.where([other, row], name)}; "
                    "expected one row for each image"
                )
    if len(kept) < len(rows):
        logger.warning("%s: %d rows repeat others, left out", table.file, len(rows) - len(kept))
    return [rows[i] for i in kept], [images[i] for i in kept]


def _split(table: Cells, column: str | None, row: int) -> str:
    if column is None:
        return "train"
    split = split_of_name(table.cells[column][row])
    if split is None:
        raise BadInput(
            f"{table.file}, {table.where([row], column)}: names no split; expected train, val or test in "
            f"column {column!r}"
        )
    return split


def _classes(table: Cells, labels: Sequence[str], splits: Sequence[str]) -> tuple[str, ...]:
    """Class names, numbers in their order; those to train on, if there are any to train on."""
    of_split = {
        split: {x for x, y in zip(labels, splits, strict=True) if y == split} for split in set(splits)
    }
    known = of_split.get("train") or set(labels)
    if strange := sorted(set(labels) - known):
        raise BadInput(f"{table.file}: no train row is of class {listed(strange)}, which other splits have")
    numbers = all(re.fullmatch(r"-?\d+(\.\d+)?", name) for name in known)
    return tuple(sorted(known, key=lambda name: (float(name), name) if numbers else (0, name)))


def _groups(
    table: Cells, column: str | None, rows: Sequence[int], images: Sequence[tuple[str, int]]
) -> list[str] | None:
    """The group of each image; one that has none stands alone."""
    if column is None:
        return None
    groups = [table.cells[column][row] for row in rows]
    if alone := groups.count(""):
        logger.warning("%s: %d images have no %s; each stands alone", table.file, alone, column)
    return [group or key for group, (key, _) in zip(groups, images, strict=True)]
