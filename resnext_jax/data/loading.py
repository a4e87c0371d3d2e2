"""Every image of a source at the network's size: decoded once into memory, or on demand."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from resnext_jax.data.images import decode
from resnext_jax.data.preprocessing import Preprocessing
from resnext_jax.data.sources import Record, Source
from resnext_jax.errors import BadInput

logger = logging.getLogger(__name__)

_CHUNK = 32  # images a thread takes at once: few futures, even for a million images


class Images:
    """The readable images of a source; made by `load_images`.

    Attributes:
        classes: class names, in the order of the labels.
        labels: int32 [N].
        keys: what the source calls each image, length N.
        cached: whether the images are in memory; else each `gather` reads and decodes.
    """

    def __init__(
        self,
        source: Source,
        preprocessing: Preprocessing,
        rows: np.ndarray,
        labels: np.ndarray,
        keys: list[str],
        cache: np.ndarray | None,
        workers: int,
    ):
        self.classes = source.classes
        self.labels = labels
        self.keys = keys
        self.cached = cache is not None
        self._source, self._preprocessing = source, preprocessing
        self._rows = rows  # the place of each image in the source and in the cache
        self._cache = cache
        self._pool = None if self.cached else ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        """Bytes of images held in memory; 0 when they are streamed."""
        return 0 if self._cache is None else self._cache.nbytes

    def gather(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Some images, safe to call from several threads.

        Args:
            indices: int [n], below the number of images.

        Returns:
            uint8 [n, S, S, 3], a copy.

        Raises:
            OSError, ValueError: when streaming, an image that could be read before no longer can.
        """
        rows = self._rows[indices]
        if self._cache is not None:
            return np.take(self._cache, rows, axis=0)
        assert self._pool is not None
        side = self._preprocessing.image_size
        out = np.empty((len(rows), side, side, 3), np.uint8)

        def load(i: int) -> None:
            out[i] = self._preprocessing(_read(self._source, int(rows[i]))[1])

        for _ in self._pool.map(load, range(len(rows))):
            pass
        return out


class Pixels:
    """Images that are in memory already, as `Images` hands them out; every label is 0.

    Args:
        pixels: uint8 [N, S, S, 3].
        classes: what they will be told apart into.
    """

    def __init__(self, pixels: np.ndarray, classes: tuple[str, ...]):
        self.classes = classes
        self.labels = np.zeros(len(pixels), np.int32)
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def gather(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Some images, uint8 [n, S, S, 3], a copy."""
        return self._pixels[indices]


def load_images(
    source: Source,
    preprocessing: Preprocessing,
    *,
    budget_bytes: int,
    skip_bad: bool = False,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Images:
    """Read every image of a source once; keep them all in memory where that stays within the budget.

    Above the budget the images are only checked now, and decoded again whenever they are gathered.

    Args:
        source: the split to load.
        preprocessing: geometry applied to each image.
        budget_bytes: the most that the images may take in memory.
        skip_bad: go on without images that cannot be read, naming each in a warning, instead of raising.
        workers: threads that read and decode; None: one for each CPU that this process may use.
        progress: called with (images done, images in all) as loading goes on.

    Raises:
        ValueError: images that cannot be read, all in one line; or no image of some class is left.
    """
    count, side = len(source), preprocessing.image_size
    if not count:
        raise BadInput("the data set holds no image")
    workers = workers or available_cpus()
    labels = np.full(count, -1, np.int32)
    keys = [""] * count
    cached = count * side * side * 3 <= budget_bytes
    cache = np.empty((count, side, side, 3), np.uint8) if cached else None
    reasons: dict[int, str] = {}

    def load(start: int) -> int:
        stop = min(start + _CHUNK, count)
        for row in range(start, stop):
            try:
                record, image = _read(source, row)
            except (OSError, ValueError) as error:
                reasons[row] = " ".join(str(error).split())
                continue
            labels[row], keys[row] = record["label"], record["key"]
            if cache is not None:
                cache[row] = preprocessing(image)
        return stop - start

    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        done = 0
        for loaded in pool.map(load, range(0, count, _CHUNK)):
            done += loaded
            if progress is not None:
                progress(done, count)
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the images that are left

    rows = np.flatnonzero(labels >= 0)
    if reasons:
        _report_bad([reasons[row] for row in sorted(reasons)], count, skip_bad)
        lost = np.setdiff1d(source.labels, labels[rows])
        if len(lost):
            names = [source.classes[label] if label >= 0 else "no class" for label in lost]
            raise BadInput(f"no readable image is left of {', '.join(names)}: every one was skipped")
    return Images(source, preprocessing, rows, labels[rows], [keys[row] for row in rows], cache, workers)


def _read(source: Source, row: int) -> tuple[Record, np.ndarray]:
    """A record and its image, decoded."""
    record = source[row]
    label = record["label"]
    if not 0 <= label < len(source.classes):
        raise BadInput(f"{record['key']}: label {label} is not one of the {len(source.classes)} classes")
    return record, decode(record["image"], record["key"])


def _report_bad(reasons: list[str], count: int, skip_bad: bool) -> None:
    if skip_bad:
        for reason in reasons:
            logger.warning("skipped an image that cannot be read: %s", reason)
        return
    raise BadInput(
        f"{len(reasons)} of {count} images cannot be read (--skip-bad-images goes on without them): "
        f"{'; '.join(reasons)}"
    )


def available_cpus() -> int:
    """CPUs that this process may use."""
    # Not os.cpu_count() where it can be helped: a container is often given fewer CPUs than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
