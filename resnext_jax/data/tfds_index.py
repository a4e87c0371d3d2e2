"""Labels, names and sizes of the records of a prepared data set, kept beside it: they are read once."""

from __future__ import annotations

import hashlib
import io
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnext_jax.storage import cache_directory, write_whole

logger = logging.getLogger(__name__)

_SECONDS = 30.0  # between lines that say how far a long pass is

Row = tuple[int, str, int]
"""Label, name and bytes of one record."""


@dataclass(frozen=True)
class Index:
    """What is known of each record of a split without reading it.

    Args:
        labels: int32 [N].
        names: length N.
        sizes: int64 [N], bytes of each image.
    """

    labels: np.ndarray
    names: list[str]
    sizes: np.ndarray


def load_index(directory: Path, split: str, count: int, read: Callable[[], Iterable[Row]]) -> Index:
    """The index of a split: the kept one if it is of these very files, else a new one, which is kept.

    It is written into the data set's directory, or, if that is read-only, into the user's cache.

    Args:
        directory: of the prepared data set.
        split: its name.
        count: how many records it has.
        read: reads every record once.
    """
    files = _files(directory)
    name = f"resnext_jax-{split}.npz"
    cached = (
        cache_directory("index") / hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:16] / name
    )
    for place in (directory / name, cached):
        if (index := _read(place, files, count)) is not None:
            return index
    index = _make(split, count, read())
    stream = io.BytesIO()
    names = np.frombuffer("\0".join(index.names).encode(), np.uint8)
    np.savez_compressed(stream, files=np.array(files), labels=index.labels, names=names, sizes=index.sizes)
    for place in (directory / name, cached):
        try:
            if place is cached:
                place.parent.mkdir(parents=True, exist_ok=True)
            write_whole(place, stream.getvalue())
        except OSError:
            continue
        break
    return index


def _make(split: str, count: int, rows: Iterable[Row]) -> Index:
    labels, sizes, names = np.empty(count, np.int32), np.empty(count, np.int64), []
    told = time.monotonic()
    for i, (label, name, size) in enumerate(rows):
        labels[i], sizes[i] = label, size
        names.append(name)
        if time.monotonic() - told > _SECONDS:
            told = time.monotonic()
            logger.info("reading the labels of %s, this once: %d of %d", split, i + 1, count)
    return Index(labels, names, sizes)


def _read(file: Path, files: str, count: int) -> Index | None:
    """An index that was kept; None if there is none, or it is damaged or of other files."""
    try:
        with np.load(file) as kept:
            if str(kept["files"]) != files:
                return None
            index = Index(kept["labels"], kept["names"].tobytes().decode().split("\0"), kept["sizes"])
    except Exception:  # NumPy and zipfile raise anything on damaged bytes; it is made anew
        return None
    return index if len(index.labels) == len(index.names) == len(index.sizes) == count else None


def _files(directory: Path) -> str:
    """Digest of the names, sizes and times of a data set's files."""
    found = [
        f"{path.name} {status.st_size} {status.st_mtime_ns}"
        for path in sorted(directory.iterdir())
        if not path.name.startswith("resnext_jax-") and (status := path.stat())
    ]
    return hashlib.sha256("\n".join(found).encode()).hexdigest()
