"""A folder of images: class folders, or folders of splits that hold class folders."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from resnext_jax.data.dataset import Dataset
from resnext_jax.data.layout import Layout, find_layout
from resnext_jax.data.sources import Record
from resnext_jax.data.split import Split
from resnext_jax.data.walk import TABLE_SUFFIXES, Folder
from resnext_jax.errors import BadInput, listed

logger = logging.getLogger(__name__)


class FolderSource:
    """Images that are files below one folder.

    Args:
        root: the folder that keys are relative to.
        classes: class names.
        labels: int32 [N], the class of each image.
        keys: path of each image relative to the root.
        sizes: int64 [N], bytes of each file.
        names: what groups are captured from, [N]; None: the keys.
        groups: the group of each image, if that is known.
    """

    def __init__(
        self,
        root: Path,
        classes: Sequence[str],
        labels: np.ndarray,
        keys: Sequence[str],
        sizes: np.ndarray,
        names: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
    ):
        self.root, self.classes = root, tuple(classes)
        self.labels, self.keys, self.sizes = labels, keys, sizes
        self.names = keys if names is None else names
        self.groups = groups

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Record:
        key = self.keys[index]
        return {"image": read_file(self.root / key), "label": int(self.labels[index]), "key": key}


def read_file(path: Path) -> bytes:
    """Bytes of a file.

    Raises:
        OSError: it cannot be read, or is no regular file: reading a pipe might wait for ever.
    """
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: not a regular file")
    return path.read_bytes()


def open_folder(root: Path, rule: Split) -> Dataset:
    """Open a folder of class folders, or of splits that hold class folders.

    Splits are known by their usual names (`split_of_name`). They may lie one level down, and folders that
    hold nothing but one folder are passed through. Images lie at any depth below their class folder.

    Args:
        root: the folder.
        rule: how it is divided, if it comes undivided; groups are captured from the image's path inside its
            class folder.

    Raises:
        FileNotFoundError: there is no such folder.
        BadInput: a folder that is no data set.
    """
    if not root.is_dir():
        kind = "is neither a folder nor a table" if root.exists() else "does not exist"
        raise FileNotFoundError(
            f"{root} {kind}: expected a folder that holds class folders, or a table "
            f"({', '.join(f'FILE{suffix}' for suffix in TABLE_SUFFIXES)})"
        )
    if (root / "dataset_info.json").is_file():
        raise BadInput(
            f"{root} is a prepared TFDS data set: name it tfds:NAME[/CONFIG], with the folder around NAME as "
            "data_dir"
        )
    layout = find_layout(Folder(root))
    classes = _common_classes(root, layout)
    sources = {split: _make_source(root, classes, folders) for split, folders in layout.items()}
    _tell_left_out(root, [folder for folders in layout.values() for folder in folders.values()])
    return Dataset(str(root), classes, sources, rule)


def _common_classes(root: Path, layout: Layout) -> tuple[str, ...]:
    """The classes of all splits, in the order of their names: those that there are to train on, if any are.

    Raises:
        BadInput: another split has a class that there is none to train on of.
    """
    names = layout.get("train") or {name for folders in layout.values() for name in folders}
    for split, folders in layout.items():
        if folders.keys() - names:
            raise BadInput(
                f"{root}: the classes of its train and {split} images differ: only one of them has "
                f"{listed(sorted(folders.keys() ^ names))}"
            )
        if missing := sorted(names - folders.keys()):
            logger.warning("%s: there are no %s images of %s", root, split, listed(missing))
    for name in names:
        try:
            name.encode()
        except UnicodeError:
            raise BadInput(f"{root}: the name of class folder {name!r} is not UTF-8; rename it") from None
    return tuple(sorted(names))


def _make_source(root: Path, classes: tuple[str, ...], folders: Mapping[str, Folder]) -> FolderSource:
    labels, keys, sizes, names = [], [], [], []
    for label, name in enumerate(classes):
        if name not in folders:
            continue
        files = folders[name].images
        within = folders[name].path.relative_to(root).as_posix()
        labels += [label] * len(files)
        keys += [f"{within}/{file}" for file, _ in files]
        names += [file for file, _ in files]
        sizes += [size for _, size in files]
    return FolderSource(root, classes, np.array(labels, np.int32), keys, np.array(sizes, np.int64), names)


def _tell_left_out(root: Path, folders: Iterable[Folder]) -> None:
    """Count in one line, by suffix, the files that are no images."""
    counts = sum((each.others for folder in folders for each in folder.walk()), Counter())
    if counts:
        found = listed([f"{count} {suffix or 'without a suffix'}" for suffix, count in counts.most_common()])
        hint = " (pip install pillow-heif reads .heic)" if {".heic", ".heif"} & counts.keys() else ""
        logger.info("%s: left out as no images: %s%s", root, found, hint)
