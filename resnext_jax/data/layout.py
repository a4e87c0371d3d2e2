"""What the folders in a folder of images are: splits, classes, or something else."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from resnext_jax.data.dataset import SPLITS
from resnext_jax.data.split import split_of_name
from resnext_jax.data.walk import Folder
from resnext_jax.errors import BadInput, listed

logger = logging.getLogger(__name__)

Layout = dict[str, dict[str, Folder]]
"""The class folders of each split, by name."""

# Folders of data sets for detection and segmentation (YOLO, COCO, VOC): no class is called so.
_PARTS = frozenset(
    {
        *("images", "imgs", "jpegimages", "imagesets", "labels", "annotations", "masks"),
        *("segmentationclass", "segmentationobject"),
    }
)


def find_layout(root: Folder) -> Layout:
    """The class folders of each split, by name; all of them as `train` if there are no splits.

    Raises:
        BadInput: these are no splits and classes, or it is not clear which are.
    """
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
    layout: Layout = {}
    for split in SPLITS:
        if split not in found:
            continue
        inside, trained = _inside(found[split], split), layout.get("train", {})
        names = {sub.name for sub in inside.subfolders}
        # A folder of another name beside several classes, such as test/unknown or test/images, is no class.
        if len(trained) > 1 and (_no_classes(names) or (len(names) == 1 and not names & trained.keys())):
            _tell_unlabelled(found[split])
        else:
            layout[split] = _classes(inside)
    return _called_alike(folder.path, layout)


def _called_alike(path: Path, layout: Layout) -> Layout:
    """The layout with the class names of the training images, if others are written in other letters."""
    spelling = {_plain(name): name for name in layout.get("train", {})}
    if len(spelling) < len(layout.get("train", {})):
        return layout
    same: Layout = {}
    for split, folders in layout.items():
        same[split] = {spelling.get(_plain(name), name): folder for name, folder in folders.items()}
        if len(same[split]) < len(folders):
            return layout
        if other := sorted(folders.keys() - same[split].keys()):
            logger.info(
                "%s: its %s images of %s are taken for those of %s",
                path,
                split,
                listed(other),
                listed([spelling[_plain(name)] for name in other]),
            )
    return same


def _plain(name: str) -> str:
    """A name without what is easily written otherwise: case, and accents in one character or two."""
    return unicodedata.normalize("NFC", name).casefold()


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
        if of_class.name.lower() in _PARTS:
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
    if _no_classes(found):
        parts = [name for name in found if name.lower() in _PARTS]
        inside = f", only {listed(found)}" if found else ""
        what = "holds images but no class folders" if folder.files else f"holds no class folders{inside}"
        kind = ", as for detection or segmentation" if len(parts) > 1 or "annotations" in parts else ""
        tables = [table for sub in (folder, *found.values()) for table in sub.tables]
        table = ", or a table of images and labels" + (f" (is {tables[0]} one?)" if tables else "")
        raise BadInput(f"{folder.path} {what}{kind}: expected one folder of images for each class{table}")
    contents = {tuple(below.name for below in sub.subfolders) for sub in found.values()}
    if len(found) > 1 and len(contents) == 1 and len(same := contents.pop()) > 1:
        raise BadInput(
            f"{folder.path}: its folders {listed(found)} all hold the same folders, {listed(same)}, so "
            "they look like splits rather than classes; call them train, val and test, or list the images "
            "to use and their labels in a table"
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


def _no_classes(names: Iterable[str]) -> bool:
    """Whether all folders are called as splits, or as parts of data sets of another kind."""
    return all(split_of_name(name) or name.lower() in _PARTS for name in names)


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
