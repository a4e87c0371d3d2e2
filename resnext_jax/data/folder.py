"""A folder of images: class folders, or folders of splits that hold class folders."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnext_jax.data.dataset import SPLITS, Dataset
from resnext_jax.data.sources import Record
from resnext_jax.data.split import Split, split_of_name
from resnext_jax.data.walk import Folder
from resnext_jax.errors import BadInput

logger = logging.getLogger(__name__)

Layout = dict[str, dict[str, Folder]]
"""The class folders of each split, by name."""


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
        kind = "is not a folder" if root.exists() else "does not exist"
        raise FileNotFoundError(f"{root} {kind}: expected a folder that holds class folders")
    layout = _layout(Folder(root))
    classes = _common_classes(root, layout)
    sources = {split: _make_source(root, classes, folders) for split, folders in layout.items()}
    _tell_left_out(root, [folder for folders in layout.values() for folder in folders.values()])
    return Dataset(str(root), classes, sources, rule)


def _layout(root: Folder) -> Layout:
    """The class folders of each split, by name; all of them as `train` if there are no splits."""
    folder = _inside(root)
    if below_classes := _splits_below_classes(folder):
        return below_classes
    found = _splits(folder)
    if not found:
        holding = {sub.name: splits for sub in folder.subfolders if (splits := _splits(sub))}
        if len(holding) != 1:
            return {"train": _classes(folder)}
        [(name, found)] = holding.items()
        _tell_unused(folder, {name})
    layout = {split: _classes(_inside(found[split], split)) for split in SPLITS if split in found}
    for split, folders in list(layout.items()):
        # One folder of another name beside several classes, such as test/images, is no class.
        trained = layout.get("train", {})
        if len(folders) == 1 < len(trained) and not folders.keys() & trained.keys():
            _tell_unlabelled(found[split])
            del layout[split]
    return layout


def _inside(folder: Folder, split: str | None = None) -> Folder:
    """The folder in a folder that holds nothing else, unless it is a class, or names the split."""
    while len(folder.subfolders) == 1 and not folder.files:
        [only] = folder.subfolders
        if not only.subfolders or (split is None and split_of_name(only.name)):
            break
        folder = only
        logger.info(
            "%s: the only folder there is, so the classes or splits are looked for in it", folder.path
        )
    return folder


def _splits_below_classes(folder: Folder) -> Layout:
    """Folders `a/train a/val b/train b/val` as splits; {} if they are not laid out so."""
    found: Layout = {}
    for of_class in folder.subfolders:
        names: dict[Any, Folder] = {split_of_name(sub.name): sub for sub in of_class.subfolders}
        several = 2 <= len(names) == len(of_class.subfolders)
        if None in names or not several or of_class.files or any(sub.subfolders for sub in names.values()):
            return {}
        for split, sub in names.items():
            found.setdefault(split, {})[of_class.name] = sub
    return {split: found[split] for split in SPLITS if split in found}


def _splits(folder: Folder) -> dict[str, Folder]:
    """The folders that are splits by their name and hold folders, in the order of their names."""
    named = [(split_of_name(sub.name), sub) for sub in folder.subfolders]
    if not any(split and sub.subfolders for split, sub in named):
        # Names that hold more than the split's, such as seg_train, count only beside their like.
        named = [(split_of_name(sub.name, whole=False), sub) for sub in folder.subfolders]
        if (
            "train" not in (found := {split for split, sub in named if split and sub.subfolders})
            or len(found) < 2
        ):
            return {}
    found = {}
    for split, sub in named:
        if split is None:
            continue
        if not sub.subfolders:
            _tell_unlabelled(sub)
            continue
        if split in found:
            raise BadInput(
                f"{folder.path} has two folders for one split: {found[split].name} and {sub.name}; rename or "
                "move one of them"
            )
        found[split] = sub
    _tell_unused(folder, {sub.name for split, sub in named if split})
    return found


def _classes(folder: Folder) -> dict[str, Folder]:
    """The class folders of a folder, by name.

    Raises:
        BadInput: there are none, one of them holds no image, or they look like splits.
    """
    found = {sub.name: sub for sub in folder.subfolders}
    if not found:
        what = "holds images but no class folders" if folder.files else "holds no class folders"
        raise BadInput(f"{folder.path} {what}: expected one folder of images for each class")
    contents = {tuple(below.name for below in sub.subfolders) for sub in found.values()}
    if len(found) > 1 and len(contents) == 1 and len(same := contents.pop()) > 1:
        raise BadInput(
            f"{folder.path}: its folders {listed(found)} all hold the same folders, {listed(same)}, so "
            "they look like splits rather than classes; call them train, val and test, or list the images "
            "and their labels in a table"
        )
    if empty := [name for name, sub in found.items() if not sub.images]:
        raise BadInput(
            f"no image in {folder.path} for {listed(empty)}: expected JPEG, PNG, TIFF or other files that "
            "Pillow reads"
        )
    if folder.files:
        logger.warning(
            "%s: %d images that lie beside the class folders are left out", folder.path, len(folder.files)
        )
    return found


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


def _tell_unlabelled(folder: Folder) -> None:
    if folder.images:
        logger.warning(
            "%s: its %d images lie in no class folders, so they have no labels and are left out; they can be "
            "predicted",
            folder.path,
            len(folder.images),
        )


def _tell_unused(folder: Folder, used: set[str]) -> None:
    unused = [sub.name for sub in folder.subfolders if sub.name not in used and sub.images]
    if unused:
        logger.warning("%s: %s: neither train, val nor test by name, left out", folder.path, listed(unused))


def _tell_left_out(root: Path, folders: Iterable[Folder]) -> None:
    """Count in one line, by suffix, the files that are no images."""
    counts = sum((each.others for folder in folders for each in folder.walk()), Counter())
    if counts:
        found = listed([f"{count} {suffix or 'without a suffix'}" for suffix, count in counts.most_common()])
        hint = " (pip install pillow-heif reads .heic)" if {".heic", ".heif"} & counts.keys() else ""
        logger.info("%s: left out as no images: %s%s", root, found, hint)


def listed(names: Iterable[str], most: int = 8) -> str:
    """Names for a message, only the first of many."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
