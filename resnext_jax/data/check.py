"""A look at a whole data set before training: what cannot be read, what is odd, what is there twice."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from resnext_jax.data.config import DataConfig
from resnext_jax.data.copies import NameGroups, join, near_copies, suggest_groups, thumbnail
from resnext_jax.data.dataset import Dataset
from resnext_jax.data.images import decode
from resnext_jax.data.loading import available_cpus
from resnext_jax.data.sources import Source
from resnext_jax.errors import BadInput

SMALL = 32  # pixels; a shorter side is odd
LONG = 10  # a longer side of so many shorter ones is odd


@dataclass(frozen=True)
class DataReport:
    """What `check_data` found.

    Args:
        data: what was checked.
        classes: images of each class.
        sizes: width x height of the images, the most frequent first, and how many have each.
        unreadable: by name, why an image cannot be read.
        odd: what is odd about images, by their names.
        exact_copies: names of images with the same bytes, group by group.
        near_copies: names of images that look the same, group by group; exact copies among them.
        conflicts: pairs of images that look the same and have different labels.
        groups: groups that the names suggest, the finest first.
        split: images to train and to validate on; None if the data cannot be divided.
        undivided: why they cannot be divided.
        copied: share of the validation images that have an exact or near copy among the training images.
        pairs: of each group of copies across the split the two that differ least, the closest first:
            (training image, validation image).
    """

    data: str
    classes: dict[str, int]
    sizes: dict[str, int]
    unreadable: dict[str, str] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)
    exact_copies: list[list[str]] = field(default_factory=list)
    near_copies: list[list[str]] = field(default_factory=list)
    conflicts: list[tuple[str, str]] = field(default_factory=list)
    groups: list[NameGroups] = field(default_factory=list)
    split: dict[str, int] | None = None
    undivided: str | None = None
    copied: float | None = None
    pairs: list[tuple[str, str]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return vars(self) | {"groups": [vars(groups) for groups in self.groups]}


def check_data(
    data: str,
    *,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> DataReport:
    """Look at every image of a data set: for what cannot be read, for odd images, and for copies.

    Args:
        data: `demo`, a folder of images, a table, or `tfds:NAME[/CONFIG]`.
        progress: called with (images done, images in all).
        options: other fields of `DataConfig`, such as `data_dir`, `val_fraction` or `group_by`.

    Raises:
        FileNotFoundError: there is no such data set.
        BadInput: it holds no usable data set.

    Example:
        >>> report = rj.check_data("demo")
        >>> report.classes, report.copied
        ({'blisters': 300, 'ring': 300, 'scales': 300}, 0.0)
    """
    config = DataConfig(data=data, **options)
    return check_dataset(config.open(), workers=config.workers, progress=progress)


def check_dataset(
    dataset: Dataset,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DataReport:
    """The same as `check_data` for a data set that is open already.

    Args:
        dataset: what is looked at.
        workers: threads that decode images; None: one a CPU core.
        progress: called with (images done, images in all).

    Example:
        >>> from resnext_jax.data import open_dataset
        >>> report = check_dataset(open_dataset("demo"))  # doctest: +SKIP
    """
    source = dataset.split("all")
    keys, labels, classes = list(source.keys), source.labels, source.classes
    looks = _look(source, keys, workers or available_cpus(), progress)
    rows = np.flatnonzero(looks.readable)
    pairs, different = near_copies(looks.thumbnails[rows])
    pairs = rows[pairs]
    same_bytes: dict[bytes, list[str]] = defaultdict(list)
    for row in rows:
        same_bytes[looks.contents[row]].append(keys[row])
    alike: dict[int, list[str]] = defaultdict(list)
    group_of = join(len(keys), pairs)
    for row, first in enumerate(group_of.tolist()):
        alike[first].append(keys[row])
    suggested = [
        each for part in list(dataset.parts.values())[:1] for each in suggest_groups(part.names, part.labels)
    ]
    try:
        sides, undivided = (dataset.split("train"), dataset.split("val")), None
    except BadInput as error:
        sides, undivided = None, str(error)
    copied, worst = _across(*sides, keys, pairs, different, group_of) if sides else (None, [])
    counts = Counter(labels.tolist())
    return DataReport(
        data=dataset.name,
        classes={name: counts[label] for label, name in enumerate(classes)},
        sizes=dict(Counter(size for size in looks.sizes if size).most_common()),
        unreadable=looks.unreadable,
        odd=looks.odd,
        exact_copies=[names for names in same_bytes.values() if len(names) > 1],
        near_copies=[names for names in alike.values() if len(names) > 1],
        conflicts=[(keys[a], keys[b]) for a, b in pairs.tolist() if labels[a] != labels[b]],
        groups=suggested,
        split={"train": len(sides[0]), "val": len(sides[1])} if sides else None,
        undivided=undivided,
        copied=copied,
        pairs=worst,
    )


class _Looks:
    """What is kept of each image: little more than 1 KiB."""

    def __init__(self, count: int):
        self.thumbnails = np.zeros((count, 32, 32), np.uint8)
        self.readable = np.zeros(count, bool)
        self.contents = [b""] * count
        self.sizes = [""] * count
        self.unreadable: dict[str, str] = {}
        self.odd: dict[str, str] = {}


def _look(
    source: Source, keys: list[str], workers: int, progress: Callable[[int, int], None] | None
) -> _Looks:
    looks = _Looks(len(source))

    def load(row: int) -> None:
        key = keys[row]
        try:
            data = source[row]["image"]
            image = decode(data, key)
        except (OSError, BadInput) as error:
            looks.unreadable[key] = " ".join(str(error).split())
            return
        content = data if isinstance(data, bytes) else np.ascontiguousarray(data).data
        looks.contents[row] = hashlib.blake2b(content, digest_size=16).digest()
        looks.thumbnails[row] = thumbnail(image)
        looks.readable[row] = True
        height, width = image.shape[:2]
        looks.sizes[row] = f"{width} x {height}"
        if image.min() == image.max():
            looks.odd[key] = "one colour only"
        elif max(height, width) >= LONG * min(height, width):
            looks.odd[key] = f"{width} x {height} pixels: very long"
        elif min(height, width) < SMALL:
            looks.odd[key] = f"{width} x {height} pixels: very small"

    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        for start in range(0, len(source), 1024):  # few futures at a time, however many images
            stop = min(start + 1024, len(source))
            for _ in pool.map(load, range(start, stop)):
                pass
            if progress is not None:
                progress(stop, len(source))
    finally:
        pool.shutdown(cancel_futures=True)
    looks.unreadable, looks.odd = dict(sorted(looks.unreadable.items())), dict(sorted(looks.odd.items()))
    return looks


def _across(
    train: Source,
    val: Source,
    keys: list[str],
    pairs: np.ndarray,
    different: np.ndarray,
    group_of: np.ndarray,
) -> tuple[float, list[tuple[str, str]]]:
    """Share of validation images with a copy in training, and the closest pair of each group."""
    side = dict.fromkeys(train.keys, "train") | dict.fromkeys(val.keys, "val")
    closest: dict[int, tuple[int, str, str]] = {}
    copied = set()
    for (a, b), bits in zip(pairs.tolist(), different.tolist(), strict=True):
        sides = {side.get(keys[i]): keys[i] for i in (a, b)}
        if {"train", "val"} <= sides.keys():
            found = (bits, sides["train"], sides["val"])
            group = int(group_of[a])
            closest[group] = min(found, closest.get(group, found))
            copied.add(sides["val"])
    worst = [(first, second) for _, first, second in sorted(closest.values())]
    return len(copied) / len(val), worst
