"""A folder of images: class folders, or train/ val/ [test/] holding class folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from resnext_jax.data.sources import SPLITS, Dataset, Record
from resnext_jax.data.split import SPLIT_OF_NAME, divide
from resnext_jax.errors import BadInput

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


class FolderSource:
    """The images of some class folders.

    Args:
        root: the folder that keys are relative to.
        folder: the one that holds the class folders, `root` itself or below it.
        files: for each class, in the order of the labels, its files relative to its folder.
    """

    def __init__(self, root: Path, folder: Path, files: dict[str, list[str]]):
        self.root = root
        self.classes = tuple(files)
        self.labels = np.repeat(
            np.arange(len(files), dtype=np.int32), [len(names) for names in files.values()]
        )
        self.names = [name for names in files.values() for name in names]
        within = folder.relative_to(root)
        self.keys: Sequence[str] = [
            (within / class_name / name).as_posix() for class_name, names in files.items() for name in names
        ]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Record:
        key = self.keys[index]
        return {"image": (self.root / key).read_bytes(), "label": int(self.labels[index]), "key": key}


def open_folder(
    root: Path,
    *,
    val_fraction: float,
    split_seed: int,
    group_by: str | None,
    fold: tuple[int, int] | None = None,
) -> Dataset:
    """Open a folder that holds class folders, or `train`, `val` and `test` folders holding class folders.

    See `divide` for what is held out. Images lie at any depth below their class folder.

    Args:
        root: the folder.
        val_fraction: share of each class to hold out, in (0, 1).
        split_seed: another seed gives another split.
        group_by: a regular expression over each image's path inside its class folder; images whose first
            capture is equal stay on one side of the split.
        fold: (i, k): hold out part i of k instead.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a folder that is no data set, or one that cannot be split as asked.
    """
    if not root.is_dir():
        kind = "is not a folder" if root.exists() else "does not exist"
        raise FileNotFoundError(f"{root} {kind}: expected a folder that holds class folders")
    folders = _split_folders(root)
    files = {split: _class_files(folder) for split, folder in folders.items()}
    first = next(iter(folders))
    for split, folder in folders.items():
        if unmatched := sorted(files[first].keys() ^ files[split].keys()):
            raise BadInput(
                f"the classes of {folders[first]} and {folder} differ: only one of them has "
                f"{', '.join(unmatched)}"
            )
    sources = {split: FolderSource(root, folder, files[split]) for split, folder in folders.items()}
    return divide(
        str(root), sources, val_fraction=val_fraction, split_seed=split_seed, group_by=group_by, fold=fold
    )


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders that are splits by their name (in any case) and hold folders; else the root as train."""
    found: dict[str, Path] = {}
    for folder in _subfolders(root):
        split = SPLIT_OF_NAME.get(folder.name.lower())
        if split is None or not _subfolders(folder):
            continue
        if split in found:
            raise BadInput(f"{root} has two folders for one split: {found[split].name} and {folder.name}")
        found[split] = folder
    return {split: found[split] for split in SPLITS if split in found} or {"train": root}


def _class_files(folder: Path) -> dict[str, list[str]]:
    """The images of each class folder, classes and images in the order of their names."""
    class_folders = _subfolders(folder)
    if not class_folders:
        what = "holds images but no class folders" if images_below(folder) else "holds no class folders"
        raise BadInput(f"{folder} {what}: expected one folder of images for each class")
    files = {class_folder.name: images_below(class_folder) for class_folder in class_folders}
    if empty := [name for name, images in files.items() if not images]:
        raise BadInput(f"no image in {folder} for {', '.join(empty)}: expected JPEG, PNG, WebP or BMP files")
    if len(files) == 1:
        raise BadInput(f"{folder} has one class only, {class_folders[0].name}: expected two or more")
    return files


def _subfolders(folder: Path) -> list[Path]:
    hidden = (".", "__MACOSX")
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(hidden))


def images_below(folder: Path) -> list[str]:
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
