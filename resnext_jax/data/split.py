"""Which images are held out for validation: a function of their names and a seed, nothing else.

Every group (one image, or all images that share a patient or a photo) is put in the order of a hash of the
seed and its name, and taken, in that order, for as long as it brings the classes nearer to their share. So
the split does not depend on the file system, the platform or any random generator; it meets the fraction of
every class to the image when the groups are single images; and adding or deleting an image moves at most
the image at the border of its class, never the whole order.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from resnext_jax.data.sources import Dataset, Source, Subset

# What data sets call their splits.
SPLIT_OF_NAME = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class NamedSource(Source, Protocol):
    """A source whose images have names that say how they belong together."""

    @property
    def names(self) -> Sequence[str]:
        """What `group_by` is matched against, length N."""


def divide(
    name: str,
    sources: Mapping[str, NamedSource],
    *,
    val_fraction: float,
    split_seed: int,
    group_by: str | None,
) -> Dataset:
    """Make a data set of the splits that there are, holding out validation images where there are none.

    Where `train` stands alone, `val_fraction` of each class is held out; where `train` and `test` stand
    without `val`, `test` serves as both.

    Args:
        name: of the data set, for messages.
        sources: the splits that there are, by `train`, `val`, `test`.
        val_fraction: share of each class to hold out, in (0, 1).
        split_seed: another seed holds out other images.
        group_by: a regular expression over the names; images whose first capture is equal stay on one side.

    Raises:
        ValueError: see `hold_out` and `groups_by_regex`; or a `group_by` where nothing is held out.
    """
    first = next(iter(sources.values()))
    if list(sources) == ["train"]:
        groups = first.keys if group_by is None else groups_by_regex(first.names, group_by)
        train, val = hold_out(groups, first.labels, first.classes, fraction=val_fraction, seed=split_seed)
        return Dataset(name, first.classes, Subset(first, train), Subset(first, val))
    if group_by is not None:
        raise ValueError(f"group-by divides nothing: {name} is already divided into {' and '.join(sources)}")
    splits: dict[str, Source] = dict(sources)
    if "test" in splits:
        splits.setdefault("val", splits["test"])
    return Dataset(name, first.classes, **splits)


def groups_by_regex(names: Sequence[str], pattern: str) -> list[str]:
    """The first capture of a regular expression in each name.

    Args:
        names: file names, each searched (not fully matched) for the pattern.
        pattern: a regular expression with a capture, such as `^(P\\d+)_`.

    Raises:
        ValueError: the pattern does not compile, captures nothing, or does not match some name.
    """
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"group-by {pattern!r} is not a regular expression: {error}") from None
    if not regex.groups:
        raise ValueError(f"group-by {pattern!r} captures nothing: put what names the group in ( )")
    groups = []
    for name in names:
        match = regex.search(name)
        if match is None or not match[1]:
            raise ValueError(f"group-by {pattern!r} captures nothing in {name!r}: it must match every image")
        groups.append(match[1])
    return groups


def hold_out(
    groups: Sequence[str], labels: np.ndarray, classes: Sequence[str], *, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Divide images into training and validation, no group on both sides, stratified by class.

    Args:
        groups: the group of each image; its own name where images stand alone.
        labels: int [N], the class of each image.
        classes: class names, for messages.
        fraction: share of each class to hold out, in (0, 1).
        seed: another seed gives another split.

    Returns:
        (train, val): int64 indices, ascending. Both hold every class.

    Raises:
        ValueError: fraction outside (0, 1), or a class that cannot be on both sides.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"val-fraction is {fraction}: expected a number between 0 and 1, both excluded")

    members: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    counts = {group: Counter(labels[indices].tolist()) for group, indices in members.items()}
    totals = np.bincount(labels, minlength=len(classes)).tolist()
    for label, name in enumerate(classes):
        having = sum(label in count for count in counts.values())
        if having < 2:
            what = f"{totals[label]} image{'s' * (totals[label] != 1)} in {having} group{'s' * (having != 1)}"
            raise ValueError(
                f"class {name!r} has {what}: at least 2 groups (single images where nothing groups them) "
                "are needed, one to train on and one to validate on"
            )

    # At least one image of each class on each side, else the share to the nearest image.
    targets = [min(max(total * fraction, 1), total - 1) for total in totals]
    held: Counter[int] = Counter()

    def gain(group: str) -> float:
        """How much nearer to their targets the classes come, each in shares of its size."""
        return sum(
            (abs(held[label] - targets[label]) - abs(held[label] + n - targets[label])) / totals[label]
            for label, n in counts[group].items()
        )

    chosen = set()
    for group in sorted(members, key=lambda group: _hash(seed, group)):
        if gain(group) > 0:
            chosen.add(group)
            held.update(counts[group])

    # A class whose every group is too large for its share still needs one held out: the smallest.
    for label in range(len(classes)):
        if not held[label]:
            of_class = [group for group in counts if label in counts[group]]
            group = min(of_class, key=lambda group: (sum(counts[group].values()), _hash(seed, group)))
            chosen.add(group)
            held.update(counts[group])
    for label, name in enumerate(classes):
        if held[label] == totals[label]:
            raise ValueError(
                f"no image of class {name!r} is left to train on: its groups are shared with other classes "
                "and all held out; use a smaller val-fraction, another split-seed or a finer group-by"
            )

    is_val = np.fromiter((group in chosen for group in groups), bool, len(groups))
    return np.flatnonzero(~is_val), np.flatnonzero(is_val)


def _hash(seed: int, name: str) -> bytes:
    # One form of every accent: file systems disagree about it.
    name = unicodedata.normalize("NFC", name)
    return hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()
