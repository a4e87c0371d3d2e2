"""A folder of images: class folders, or train/ val/ [test/] holding class folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from resnext_jax.data.sources import SPLITS, Dataset, Record, Subset
from resnext_jax.data.split import groups_by_regex, hold_out

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
_SPLIT_OF_FOLDER = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class FolderSource:
    """The images of some class folders.

    Args:
        root: the folder that keys are relative to.
        within: the folder below `root` that holds the class folders, "" for `root` itself.
        files: for each class, in the order of the labels, its files relative to its folder.
    """

    def __init__(self, root: Path, within: str, files: dict[str, list[str]]):
        self.root = root
        self.classes = tuple(files)
        self.labels = np.repeat(
            np.arange(len(files), dtype=np.int32), [len(names) for names in files.values()]
        )
        self.names = [name for names in files.values() for name in names]
        prefix = f"{within}/" if within else ""
        self.keys: Sequence[str] = [f"{prefix}{of}/{name}" for of, names in files.items() for name in names]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Record:
        key = self.keys[index]
        return {"image": (self.root / key).read_bytes(), "label": int(self.labels[index]), "key": key}


def open_folder(root: Path, *, val_fraction: float, split_seed: int, group_by: str | None) -> Dataset:
    """Open a folder that holds class folders, or `train`, `val` and `test` folders holding class folders.

    Class folders are split by `hold_out`, and so is `train` where it stands alone. Where `train` and `test`
    stand without `val`, `test` serves as both. Images lie at any depth below their class folder.

    Args:
        root: the folder.
        val_fraction: share of each class to hold out, in (0, 1).
        split_seed: another seed gives another split.
        group_by: a regular expression over each image's path inside its class folder; images whose first
            capture is equal stay on one side of the split.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a folder that is no data set, or one that cannot be split as asked.
    """
    if not root.is_dir():
        kind = "is not a folder" if root.exists() else "does not exist"
        raise FileNotFoundError(f"{root} {kind}: expected a folder that holds class folders")
    folders = _split_folders(root)
    if not folders:
        return _held_out(FolderSource(root, "", _class_files(root)), val_fraction, split_seed, group_by)

    files = {split: _class_files(folder) for split, folder in folders.items()}
    first = next(iter(folders))
    for split, folder in folders.items():
        if unmatched := sorted(files[first].keys() ^ files[split].keys()):
            raise ValueError(
                f"the classes of {folders[first]} and {folder} differ: only one of them has "
                f"{', '.join(unmatched)}"
            )
    sources = {split: FolderSource(root, folder.name, files[split]) for split, folder in folders.items()}
    if list(sources) == ["train"]:
        return _held_out(sources["train"], val_fraction, split_seed, group_by)
    if group_by is not None:
        present = " and ".join(folder.name for folder in folders.values())
        raise ValueError(f"group-by divides nothing: {root} is already divided into {present}")
    if "test" in sources:
        sources.setdefault("val", sources["test"])
    return Dataset(str(root), tuple(files[first]), **sources)


def _held_out(source: FolderSource, val_fraction: float, split_seed: int, group_by: str | None) -> Dataset:
    groups = source.keys if group_by is None else groups_by_regex(source.names, group_by)
    train, val = hold_out(groups, source.labels, source.classes, fraction=val_fraction, seed=split_seed)
    return Dataset(str(source.root), source.classes, Subset(source, train), Subset(source, val))


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders that are splits by their name (in any case) and hold folders: {split: folder}, or {}."""
    found: dict[str, Path] = {}
    for folder in _subfolders(root):
        split = _SPLIT_OF_FOLDER.get(folder.name.lower())
        if split is None or not _subfolders(folder):
            continue
        if split in found:
            raise ValueError(f"{root} has two folders for one split: {found[split].name} and {folder.name}")
        found[split] = folder
    return {split: found[split] for split in SPLITS if split in found}


def _class_files(folder: Path) -> dict[str, list[str]]:
    """The images of each class folder, classes and images in the order of their names."""
    class_folders = _subfolders(folder)
    if not class_folders:
        what = "holds images but no class folders" if _images(folder) else "holds no class folders"
        raise ValueError(f"{folder} {what}: expected one folder of images for each class")
    files = {class_folder.name: _images(class_folder) for class_folder in class_folders}
    if empty := [name for name, images in files.items() if not images]:
        raise ValueError(
            f"no image in {folder} for {', '.join(empty)}: expected JPEG, PNG, WebP or BMP files"
        )
    if len(files) == 1:
        raise ValueError(f"{folder} has one class only, {class_folders[0].name}: expected two or more")
    return files


def _subfolders(folder: Path) -> list[Path]:
    hidden = (".", "__MACOSX")
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(hidden))


def _images(folder: Path) -> list[str]:
    """Paths of the images at any depth below a folder, relative to it, sorted by code point."""

    def fail(error: OSError) -> None:
        raise error

    found = []
    for directory, _, names in os.walk(folder, onerror=fail):
        within = Path(directory).relative_to(folder)
        found += [
            (within / name).as_posix()
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    return sorted(found)
