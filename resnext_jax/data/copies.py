"""Copies of images: found by their bytes, by a hash of what they show, and by their names."""

from __future__ import annotations

import logging
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from resnext_jax.data.dataset import Dataset
from resnext_jax.data.images import decode
from resnext_jax.data.loading import available_cpus
from resnext_jax.data.sources import Source
from resnext_jax.data.split import groups_by_regex
from resnext_jax.errors import BadInput

logger = logging.getLogger(__name__)

MOST_DIFFERENT = 8
"""Bits of 64 in which the hashes of near copies differ at most."""
LEAST_ALIKE = 0.9
"""Correlation that the thumbnails of near copies have at least."""

_BLACK = 12  # shades up to this may be the border that a turned or shifted image was given
_SIDE, _LOW = 32, 8  # pixels of the thumbnail, frequencies that are kept
_STEPS = np.arange(_SIDE)
_COSINES = np.cos(np.pi * (2 * _STEPS + 1) * _STEPS[:_LOW, None] / (2 * _SIDE))
_BLOCK = 2048  # images compared with as many others at once
_MOST_PARTNERS = 64  # of an image, behind it: the pairs of a thousand blank images would be half a million

# Parts of names that tell copies apart, from the finest groups to the coarsest. Each fits any name.
_NAMINGS = (
    r"^(.+?)(?:\.rf\.[0-9a-f]{8,})?\.\w+$",
    r"^(.+?)(?:[ _-]+\(?\d+\)?)?\.\w+$",
    r"^(.+?)(?:[ _-]+[A-Za-z]+\d*)?\.\w+$",
    r"^(.+)/",
    r"^([^ _-]+)[ _-]",
    r"^([^/]+)/",
)


def thumbnail(image: np.ndarray) -> np.ndarray:
    """What copies are known by: the shades of an image, uint8 [32, 32].

    Args:
        image: uint8 [h, w, 3].
    """
    grey = Image.fromarray(image).convert("L")
    return np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS))


def low_frequencies(thumbnails: np.ndarray) -> np.ndarray:
    """The low frequencies of the cosine transform, float32 [N, 8, 8], of thumbnails, uint8 [N, 32, 32]."""
    return (_COSINES @ thumbnails.astype(np.float64) @ _COSINES.T).astype(np.float32)


def hashes(frequencies: np.ndarray) -> np.ndarray:
    """Perceptual hashes: whether each frequency is above the median. The hash is `imagehash.phash`'s.

    Args:
        frequencies: float [N, 8, 8].

    Returns:
        float32 [N, 64] of 1 and -1, so that a product counts the bits that agree.
    """
    flat = frequencies.reshape(-1, _LOW * _LOW)
    return np.where(flat > np.median(flat, axis=1, keepdims=True), 1, -1).astype(np.float32)


def _orientations(frequencies: np.ndarray) -> Iterator[np.ndarray]:
    """The frequencies of images as they are, mirrored and turned: eight arrays [N, 8, 8].

    A mirror image changes the sign of the odd frequencies, a reflection at the diagonal transposes them.
    """
    sign = (-1.0) ** np.arange(_LOW)
    for turned in (frequencies, frequencies.swapaxes(1, 2)):
        for down in (np.ones(_LOW), sign):
            for across in (np.ones(_LOW), sign):
                yield turned * down[:, None] * across


def near_copies(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of images that show the same, perhaps mirrored, turned by quarters, brighter or compressed anew.

    The hash of every image is compared with that of every other, in blocks of bounded memory. If two hashes
    are close, the thumbnails must agree, too, wherever neither is black: the black borders of turned and
    shifted images give images that have nothing else in common the same hash.

    Of an image with very many copies, such as a blank one, only some are compared with it.

    Args:
        thumbnails: uint8 [N, 32, 32].

    Returns:
        int64 [P, 2], the pairs in order, first the smaller index; and int [P], the bits in which their hashes
        differ.
    """
    count, bits = len(thumbnails), _LOW * _LOW
    frequencies = np.concatenate(
        [low_frequencies(thumbnails[i : i + _BLOCK]) for i in range(0, count, _BLOCK)]
        or [np.zeros((0, 8, 8))]
    )
    as_they_are = hashes(frequencies)
    partners = np.zeros(count, int)
    found = [np.zeros((0, 3), np.int64)]
    for start in range(0, count, _BLOCK):
        rows = [hashes(turned) for turned in _orientations(frequencies[start : start + _BLOCK])]
        for other in range(start, count, _BLOCK):
            columns = as_they_are[other : other + _BLOCK].T
            agreeing = rows[0] @ columns  # agreements minus differences
            for turned in rows[1:]:
                np.maximum(agreeing, turned @ columns, out=agreeing)
            close = agreeing >= bits - 2 * MOST_DIFFERENT
            i, j = np.nonzero(np.triu(close, 1) if other == start else close)
            place = np.arange(len(i)) - np.searchsorted(i, i)  # among the partners of the same image
            kept = place < _MOST_PARTNERS - partners[start + i]
            i, j = i[kept], j[kept]
            partners += np.bincount(start + i, minlength=count)
            different = (bits - agreeing[i, j].astype(np.int64)) // 2
            found.append(np.stack([start + i, other + j, different], axis=1))
    candidates = np.concatenate(found)
    candidates = candidates[np.lexsort(candidates.T[1::-1])]
    alike = [
        _alike(thumbnails, candidates[start : start + _BLOCK]) for start in range(0, len(candidates), _BLOCK)
    ]
    candidates = candidates[np.concatenate([*alike, np.zeros(0, bool)])]
    return candidates[:, :2], candidates[:, 2]


def _alike(thumbnails: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Whether the thumbnails of pairs agree where neither is black, in some orientation; bool [P]."""
    found = np.zeros(len(pairs), bool)
    for transposed in (False, True):
        for down in (1, -1):
            for across in (1, -1):
                left = np.flatnonzero(~found)
                first, second = (thumbnails[pairs[left, i]].astype(np.float32) for i in (0, 1))
                second = second.swapaxes(1, 2) if transposed else second
                second = second[:, ::down, ::across]
                found[left] = _correlation(first, second) >= LEAST_ALIKE
    return found


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of images, [P, h, w] each, where neither is black; float [P]."""
    seen = (first > _BLACK) & (second > _BLACK)
    count = np.maximum(seen.sum((1, 2), keepdims=True), 1)
    a, b = ((x - (x * seen).sum((1, 2), keepdims=True) / count) * seen for x in (first, second))
    size = np.sqrt((a * a).sum((1, 2)) * (b * b).sum((1, 2)))
    # Of one shade where both are seen: the same, as far as that tells.
    return np.where(size > 1e-3, (a * b).sum((1, 2)) / np.maximum(size, 1e-3), 1.0)


def groups_of_copies(source: Source, workers: int | None = None) -> list[str]:
    """The group of each image: all that near copies join, called by the first of them; length N.

    Every image is decoded once. One that cannot be read stands alone.
    """
    thumbnails = np.zeros((len(source), _SIDE, _SIDE), np.uint8)
    readable = np.ones(len(source), bool)
    keys = source.keys

    def load(index: int) -> None:
        try:
            thumbnails[index] = thumbnail(decode(source[index]["image"], keys[index]))
        except (OSError, BadInput):
            readable[index] = False

    logger.info("comparing %d images, to keep copies on one side of the split", len(source))
    with ThreadPoolExecutor(workers or available_cpus(), thread_name_prefix="decode") as pool:
        for _ in pool.map(load, range(len(source)), chunksize=32):
            pass
    rows = np.flatnonzero(readable)
    pairs, _ = near_copies(thumbnails[rows])
    return [keys[int(first)] for first in join(len(source), rows[pairs])]


def join(count: int, pairs: np.ndarray) -> np.ndarray:
    """Groups of all that pairs join, int [count]: each is called by its first member."""
    parent = list(range(count))

    def root(member: int) -> int:
        while parent[member] != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    for a, b in pairs.tolist():
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return np.array([root(member) for member in range(count)], int)


@dataclass(frozen=True)
class NameGroups:
    """Groups that the names of images suggest.

    Args:
        group_by: the regular expression whose first capture is the group.
        groups: how many there are.
        largest: images in the largest.
    """

    group_by: str
    groups: int
    largest: int


def suggest_groups(names: Sequence[str], labels: np.ndarray) -> list[NameGroups]:
    """Groups that names suggest, such as photo_1.jpg and photo_2.jpg, the finest first.

    A part of the names counts as a group if there are several of it in every class, most groups have more
    than one image, and what tells their images apart comes again in other groups.

    Args:
        names: length N.
        labels: int [N].

    Example:
        >>> names = [f"P{i}_{j}.jpg" for i in range(8) for j in range(3)]
        >>> suggest_groups(names, np.arange(24) // 3 % 2)[0].groups
        8
    """
    found: dict[tuple[int, ...], NameGroups] = {}
    for pattern in _NAMINGS:
        try:
            groups = groups_by_regex(names, pattern)
        except BadInput:  # it does not fit every name
            continue
        sizes = Counter(groups)
        rests = {name.replace(group, "", 1) for name, group in zip(names, groups, strict=True)}
        of_class = defaultdict(set)
        for group, label in zip(groups, labels.tolist(), strict=True):
            of_class[label].add(group)
        largest = max(sizes.values())
        if (
            len(names) >= 1.5 * sum(map(len, of_class.values()))
            and len(rests) <= len(names) / 2
            and largest <= max(len(names) / 5, 2)
            and min(map(len, of_class.values())) >= 3
        ):
            number = {group: i for i, group in enumerate(sizes)}
            partition = tuple(number[group] for group in groups)
            found.setdefault(partition, NameGroups(pattern, len(sizes), largest))
    return sorted(found.values(), key=lambda each: -each.groups)


def copied_share(train: Source, val: Source, most: int = 1000) -> float:
    """Which share of the validation images is in the training images too, byte for byte; estimated cheaply.

    Only images of equal size are read: of at most `most` validation images, spread evenly, and of three times
    as many training images. So it is no more than the true share.
    """
    chosen = np.unique(np.linspace(0, len(val) - 1, min(most, len(val))).round().astype(int))
    sizes = val.sizes[chosen]
    chosen, sizes = chosen[sizes > 0], sizes[sizes > 0]
    candidates = np.flatnonzero(np.isin(train.sizes, sizes))[: 3 * most]
    chosen = chosen[np.isin(sizes, train.sizes[candidates])]
    known = {_content(train, i) for i in candidates.tolist()} - {None}
    copied = sum(_content(val, i) in known for i in chosen.tolist())
    return copied / max(min(most, len(val)), 1)


@dataclass(frozen=True)
class CheapLook:
    """What is told about copies without decoding an image.

    Args:
        groups: what the names of the training images suggest, the finest first.
        ignored: whether the split ignores those groups, though it could keep each on one side.
        copied: at least this share of the validation images are exact copies of training images.
    """

    groups: list[NameGroups]
    ignored: bool
    copied: float


def cheap_look(dataset: Dataset) -> CheapLook:
    """Look for copies across the split without decoding an image.

    Raises:
        BadInput: the data cannot be divided, or there are no training images.
    """
    train, val = dataset.split("train"), dataset.split("val")
    part = dataset.parts["train"]
    groups = suggest_groups(part.names, part.labels)
    ignored = dataset.undivided and dataset.rule.group_by is None and part.groups is None
    return CheapLook(groups, bool(groups) and ignored, copied_share(train, val))


def copies_found(dataset: Dataset) -> list[str]:
    """What a cheap look tells, a line each: groups that names suggest, exact copies across the split.

    Raises:
        BadInput: the data cannot be divided.

    Example:
        >>> from resnext_jax.data import open_dataset
        >>> copies_found(open_dataset("demo"))
        []
    """
    lines, look = [], cheap_look(dataset)
    if look.ignored:
        finest = look.groups[0]
        lines.append(
            f"the names suggest {finest.groups} groups of images (one photo, one patient), which the "
            f"split ignores; group_by=auto keeps each on one side, as does group_by='{finest.group_by}'"
        )
    if look.copied:
        mend = "; group_by=copies keeps them on one side" if dataset.undivided else ""
        lines.append(
            f"at least {100 * look.copied:.1f} % of the validation images are exact copies of training "
            f"images, which flatters{mend}"
        )
    return lines


def _content(source: Source, index: int) -> tuple[int, int] | None:
    """Length and checksum of an image; None if it cannot be read."""
    try:
        image = source[index]["image"]
    except (OSError, BadInput):
        return None
    data = image if isinstance(image, bytes) else image.tobytes()
    return len(data), zlib.crc32(data)
