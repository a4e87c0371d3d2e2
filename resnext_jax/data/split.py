"""Which images are held out for validation: a function of their names and a seed, nothing else.

Every group (one image, or all images that share a patient or a photo) is put in the order of a hash of the
seed and its name, and taken, in that order, for as long as it brings the classes nearer to their share. So
the split does not depend on the file system, the platform or any random generator; it meets the fraction of
every class to the image when the groups are single images; and adding or deleting an image moves at most
the image at the border of its class, never the whole order.
"""

from __future__ import annotations

import hashlib
import logging
import re
import signal
import threading
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast
from weakref import WeakKeyDictionary

import numpy as np

from resnext_jax.data.sources import Concatenation, NamedSource, Source, Subset
from resnext_jax.errors import BadInput

logger = logging.getLogger(__name__)

REGEX_SECONDS = 5.0
"""How long a regular expression may take for all names."""

# What data sets call their splits.
SPLIT_OF_NAME = {"train": "train", "training": "train"}
SPLIT_OF_NAME |= {"val": "val", "valid": "val", "validation": "val", "dev": "val"}
SPLIT_OF_NAME |= {"test": "test", "testing": "test"}

# What they add to it: train_set, TestData, val-images.
_ADDED = re.compile(r"(set|data|images?|imgs?|folder|split)$")


def split_of_name(name: str, *, whole: bool = True) -> str | None:
    """Which split a folder, or a value of a table, is called as: `train`, `val`, `test` or none.

    Args:
        name: in any case, with numbers and words such as `set` or `images`.
        whole: nothing else may stand in the name; otherwise other words may (`seg_train`).

    Example:
        >>> split_of_name("Training"), split_of_name("val_images"), split_of_name("trainer")
        ('train', 'val', None)
    """
    words = [_ADDED.sub("", word) for word in re.findall(r"[^\W\d_]+", name.lower())]
    words = [word for word in words if word]
    found = {SPLIT_OF_NAME[word] for word in words if word in SPLIT_OF_NAME}
    if len(found) != 1 or (whole and len(words) != 1):
        return None
    return found.pop()


@dataclass(frozen=True)
class Split:
    """How images that come undivided are divided, and how many of a split are used.

    Args:
        fraction: share of each class to hold out for validation, in (0, 1).
        seed: another seed holds out other images.
        group_by: a regular expression over the images' names; images whose first capture is equal stay on
            one side. "auto": the expression that the names suggest; "copies": images that look the same
            are a group; None: the groups that the data have themselves, if any.
        fold: (i, k): cross-validation: instead of a fraction hold out part i, counted from 0, of k.
        train_limit: use about this many training images only, all classes in proportion.
        val_limit: use about this many validation images only.
    """

    fraction: float = 0.2
    seed: int = 0
    group_by: str | None = None
    fold: tuple[int, int] | None = None
    train_limit: int | None = None
    val_limit: int | None = None

    def divide(self, source: NamedSource) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the training and of the validation images, int64, ascending.

        Raises:
            BadInput: see `hold_out`, `make_folds` and `groups_by_regex`.
        """
        groups = groups_of(source, self.group_by)
        groups = source.keys if groups is None else groups
        if self.fold is None:
            return hold_out(groups, source.labels, source.classes, fraction=self.fraction, seed=self.seed)
        which, count = self.fold
        fold_of = make_folds(groups, source.labels, source.classes, count=count, seed=self.seed)
        return np.flatnonzero(fold_of != which), np.flatnonzero(fold_of == which)

    def limited(self, name: str, source: Source) -> Source:
        """What is used of the split `name`."""
        count = {"train": self.train_limit, "val": self.val_limit}[name]
        return source if count is None else limit(source, count, seed=self.seed)

    def check_undivided(self, name: str, splits: Iterable[str]) -> None:
        """Refuse to divide data that come divided into `splits`.

        Raises:
            BadInput: `group_by` or `fold` is set.
        """
        for option in ("group_by", "fold"):
            if (value := getattr(self, option)) is not None:
                raise BadInput(
                    f"{option}={value!r}: divides nothing, {name} is already divided into "
                    f"{' and '.join(splits)}; leave it out"
                )


def groups_of(source: Source, group_by: str | None = None) -> list[str] | None:
    """The group of each image of a split.

    Args:
        source: as `Dataset.split` has it.
        group_by: as in `Split`.

    Returns:
        Length N; None if images stand alone.

    Raises:
        BadInput: see `groups_by_regex`.

    Example:
        >>> from resnext_jax.data import open_dataset
        >>> groups = groups_of(open_dataset("demo").split("train"), "([0-9])$")
        >>> len(set(groups))
        10
    """
    if isinstance(source, Subset):
        groups = groups_of(source.source, group_by)
        return None if groups is None else [groups[i] for i in source.indices]
    if isinstance(source, Concatenation):
        parts = [groups_of(part, group_by) for part in source.sources]
        known = [part for part in parts if part is not None]
        return [group for part in known for group in part] if len(known) == len(parts) else None
    named = cast(NamedSource, source)
    if group_by in ("auto", "copies"):
        return _found_groups(named, group_by)
    if group_by is not None:
        return groups_by_regex(named.names, group_by)
    groups = named.groups
    return None if groups is None else list(groups)


# Copies are found by decoding every image: once for each source.
_found: WeakKeyDictionary[NamedSource, list[str]] = WeakKeyDictionary()


def _found_groups(source: NamedSource, how: str) -> list[str] | None:
    """Groups that the names of the images suggest, or that near copies make."""
    from resnext_jax.data.copies import groups_of_copies, suggest_groups

    if how == "copies":
        if source not in _found:
            _found[source] = groups_of_copies(source)
        return _found[source]
    suggested = suggest_groups(source.names, source.labels)
    if not suggested:
        logger.warning("group_by='auto': the names of the images suggest no groups, so each stands alone")
        return None
    logger.info("group_by='auto': %d groups, by %s", suggested[0].groups, suggested[0].group_by)
    return groups_by_regex(source.names, suggested[0].group_by)


@contextmanager
def _limited(message: str) -> Iterator[None]:
    """Raise BadInput if the context lasts too long, where the system can interrupt it: Unix, main thread."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise BadInput(message)

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, REGEX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def groups_by_regex(names: Sequence[str], pattern: str) -> list[str]:
    """The first capture of a regular expression in each name.

    Args:
        names: file names, each searched (not fully matched) for the pattern.
        pattern: a regular expression with a capture, such as `^(P\\d+)_`.

    Raises:
        ValueError: the pattern does not compile, captures nothing, or does not match some name.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # `[[` may once mean a set
            regex = re.compile(pattern)
    except re.error as error:
        raise BadInput(f"group_by={pattern!r}: not a regular expression: {error}") from None
    if not regex.groups:
        raise BadInput(f"group_by={pattern!r}: captures nothing; put what names the group in ( )")
    groups = []
    with _limited(f"group_by={pattern!r}: takes too long on these names; use one without nested repetitions"):
        for name in names:
            match = regex.search(name)
            if match is None or not match[1]:
                raise BadInput(
                    f"group_by={pattern!r}: captures nothing in {name!r}; it must match every image"
                )
            groups.append(match[1])
    return groups


def hold_out(
    groups: Sequence[str], labels: np.ndarray, classes: Sequence[str], *, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Divide images into training and validation, no group on both sides, stratified by class.

    Args:
        groups: the group of each image; its own name if images stand alone.
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
        raise BadInput(f"val_fraction={fraction}: expected a number between 0 and 1, both excluded")

    counts = _count(groups, labels, classes, at_least=2)
    totals = np.bincount(labels, minlength=len(classes)).tolist()

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
    for group in sorted(counts, key=lambda group: _hash(seed, group)):
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
            raise BadInput(
                f"no image of class {name!r} is left to train on: its groups are shared with other classes "
                "and all held out; use a smaller val_fraction, another split_seed or a finer group_by"
            )

    is_val = np.fromiter((group in chosen for group in groups), bool, len(groups))
    return np.flatnonzero(~is_val), np.flatnonzero(is_val)


def make_folds(
    groups: Sequence[str], labels: np.ndarray, classes: Sequence[str], *, count: int, seed: int
) -> np.ndarray:
    """Divide images into parts of about equal size, no group in two of them, stratified by class.

    The largest groups are placed first, equal ones in the order of a hash of the seed and their names; each
    goes to the part that has the least of its classes. If the groups are single images, the parts are equal
    to the image.

    Args:
        groups: the group of each image; its own name if images stand alone.
        labels: int [N], the class of each image.
        classes: class names, for messages.
        count: parts, at least 2.
        seed: another seed gives other parts.

    Returns:
        int64 [N]: the part of each image, from 0. Every part holds every class.

    Raises:
        ValueError: a class with too few groups for every part to have one.
    """
    counts = _count(groups, labels, classes, at_least=count)
    totals = np.bincount(labels, minlength=len(classes))
    sizes = {group: np.bincount(list(c), list(c.values()), len(classes)) for group, c in counts.items()}
    held = np.zeros((count, len(classes)))
    part_of = {}
    for group in sorted(sizes, key=lambda group: (-sizes[group].sum(), _hash(seed, group))):
        filled = held @ (sizes[group] / totals**2)  # shares of its classes, weighted by its own shares
        part = min(range(count), key=lambda part: (filled[part], held[part].sum()))
        part_of[group] = part
        held[part] += sizes[group]
    if (held == 0).any():
        part, label = np.argwhere(held == 0)[0]
        raise BadInput(
            f"fold {part} of {count} has no image of class {classes[label]!r}: its groups are shared with "
            "other classes; use fewer folds, another split_seed or a finer group_by"
        )
    return np.fromiter((part_of[group] for group in groups), np.int64, len(groups))


def limit(source: Source, count: int, *, seed: int) -> Source:
    """About `count` images of a source, all classes in proportion; all of them if there are no more.

    Raises:
        ValueError: a class of a single image, which cannot be divided.

    Example:
        >>> from resnext_jax.data import open_dataset
        >>> len(limit(open_dataset("demo").split("train"), 30, seed=0))
        30
    """
    if count >= len(source):
        return source
    share = count / len(source)
    _, chosen = hold_out(source.keys, source.labels, source.classes, fraction=share, seed=seed)
    return Subset(source, chosen)


def _count(
    groups: Sequence[str], labels: np.ndarray, classes: Sequence[str], *, at_least: int
) -> dict[str, Counter[int]]:
    """How many images of each class (by label) every group has; every class must be in so many groups."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    counts = {group: Counter(labels[indices].tolist()) for group, indices in members.items()}
    totals = np.bincount(labels, minlength=len(classes))
    having = Counter(label for count in counts.values() for label in count)
    for label, name in enumerate(classes):
        if having[label] < at_least:
            total, in_groups = int(totals[label]), having[label]
            what = f"{total} image{'s' * (total != 1)} in {in_groups} group{'s' * (in_groups != 1)}"
            raise BadInput(
                f"class {name!r} has {what}: at least {at_least} groups (single images where nothing groups "
                "them) are needed, so that it is among the images to train on and to validate on"
            )
    return counts


def _hash(seed: int, name: str) -> bytes:
    # One form of every accent: file systems disagree about it.
    name = unicodedata.normalize("NFC", name)
    return hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()
