"""Every image of a source at the network's size: decoded once into memory, or whenever it is asked for."""

from __future__ import annotations

import copy
import logging
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from resnext_jax.data.images import decode
from resnext_jax.data.preprocessing import Geometry, Preprocessing
from resnext_jax.data.sources import Source
from resnext_jax.errors import BadInput

logger = logging.getLogger(__name__)

_CHUNK = 32  # images a thread takes at once: few futures, even for a million images
_MOST_NAMED = 10  # bad images named in an error
_MOST_LOGGED = 20  # bad images logged one by one


class BadImages(BadInput):
    """Images cannot be read; the message names the first of them.

    Args:
        reasons: for each image, its key and what is wrong.
        count: how many images were read.

    Attributes:
        reasons: all of them.
    """

    def __init__(self, reasons: Sequence[str], count: int):
        self.reasons = list(reasons)
        more = len(reasons) - _MOST_NAMED
        named = "; ".join(self.reasons[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
        super().__init__(
            f"{len(reasons)} of {count} images cannot be read (skip_bad_images=True goes on without them): "
            f"{named}"
        )


class Images:
    """The images of a source at the network's size, which are streamed; `load_images` may cache them.

    Args:
        source: where the images are.
        preprocessing: geometry applied to each image.
        skip_bad: mark images that cannot be read instead of raising.
        workers: threads that read and decode; None: one for each CPU that this process may use.
        named: log which images were skipped.

    Attributes:
        classes: class names, in the order of the labels.
        labels: int32 [N].
        keys: what the source calls each image, length N.
        skip_bad: whether images that cannot be read are left out.
        bad: by key, why an image cannot be read. If all images are in memory, these are not among the N; of
            streamed images they are found only when they are read.
        checksums: uint32, of the bytes of each image of the source, 0 for those that cannot be read; None if
            the images are streamed.
    """

    def __init__(
        self,
        source: Source,
        preprocessing: Geometry,
        *,
        skip_bad: bool,
        workers: int | None = None,
        named: bool = True,
    ):
        self.classes = source.classes
        self.labels = np.asarray(source.labels, np.int32)
        self.keys = self._source_keys = list(source.keys)
        self.bad: dict[str, str] = {}
        self.checksums: np.ndarray | None = None
        self.skip_bad = skip_bad
        self._source, self._preprocessing, self._named = source, preprocessing, named
        self._rows = np.arange(len(self.labels))  # the place of each image in the source and in the cache
        self._cache: np.ndarray | None = None
        self._pool = ThreadPoolExecutor(workers or available_cpus(), thread_name_prefix="decode")
        outside = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.classes)))
        if outside.size:
            where = self.keys[outside[0]]
            raise BadInput(
                f"{where}: label {self.labels[outside[0]]} is not one of the {len(self.classes)} classes"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def cached(self) -> bool:
        """Whether the images are in memory; otherwise each `read` decodes."""
        return self._cache is not None

    @property
    def nbytes(self) -> int:
        """Bytes of images held in memory; 0 if they are streamed."""
        return 0 if self._cache is None else self._cache.nbytes

    def why_bad(self) -> list[str]:
        """Why images cannot be read, as `bad`, but in the order of the source; threads find them in any."""
        if not self.bad:  # as after most epochs: no pass over the names of a million images
            return []
        return [self.bad[key] for key in dict.fromkeys(self._source_keys) if key in self.bad]

    def gather(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Some images, uint8 [n, S, S, 3], a copy; as `read`."""
        return self.read(indices)[0]

    def read(self, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Some images, and which of them could be read. Safe to call from several threads.

        Args:
            indices: int [n], below the number of images.

        Returns:
            uint8 [n, S, S, 3], a copy, black for what could not be read; bool [n].

        Raises:
            BadImages: an image cannot be read, and bad images are not to be skipped.
        """
        rows = self._rows[indices]
        if self._cache is not None:
            return np.take(self._cache, rows, axis=0), np.ones(len(rows), bool)
        side = self._preprocessing.image_size
        out = np.zeros((len(rows), side, side, 3), np.uint8)
        reasons = list(self._pool.map(self._load, rows.tolist(), out))  # in the order of the images
        good = np.array([reason is None for reason in reasons], bool)
        if not (good.all() or self.skip_bad):
            raise BadImages([reason for reason in reasons if reason is not None], len(rows))
        return out, good

    def subset(self, indices: np.ndarray) -> Images:
        """Some of the images, in the same memory."""
        part = copy.copy(self)
        part.labels, part.keys = self.labels[indices], [self.keys[i] for i in indices]
        part._rows = self._rows[indices]
        return part

    def fill_cache(self, progress: Callable[[int], None]) -> None:
        """Read every image into memory; those that cannot be read leave the images.

        Args:
            progress: called with how many images are done.
        """
        count, side = len(self), self._preprocessing.image_size
        cache, checksums = np.empty((count, side, side, 3), np.uint8), np.zeros(count, np.uint32)
        good = np.ones(count, bool)

        def load(start: int) -> int:
            stop = min(start + _CHUNK, count)
            for row in range(start, stop):
                good[row] = self._load(row, cache[row], checksums) is None
            return stop

        try:
            for done in self._pool.map(load, range(0, count, _CHUNK)):
                progress(done)
        finally:
            self._pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the rest
        self._rows = np.flatnonzero(good)
        self.labels, self.keys = self.labels[good], [self.keys[row] for row in self._rows]
        self._cache, self.checksums = cache, np.where(good, checksums, 0)

    def _load(self, row: int, out: np.ndarray, checksums: np.ndarray | None = None) -> str | None:
        """Decode an image into its place; why that cannot be done, if it cannot."""
        key = self._source_keys[row]
        try:
            image = self._source[row]["image"]
            if checksums is not None:
                checksums[row] = zlib.crc32(image if isinstance(image, bytes) else image.tobytes())
            out[:] = self._preprocessing(decode(image, key))
        except (OSError, BadInput) as error:
            reason = " ".join(str(error).split())
            if self.skip_bad and self._named and key not in self.bad:
                if len(self.bad) < _MOST_LOGGED:
                    logger.warning("skipped an image that cannot be read: %s", reason)
                elif len(self.bad) == _MOST_LOGGED:
                    logger.warning("skipped more images that cannot be read, which are not named here")
            self.bad[key] = reason
            return reason
        return None


class Pixels:
    """Images that are in memory already, as `Images` hands them out; every label is 0.

    Args:
        pixels: uint8 [N, S, S, 3].
        classes: the model's class names.
    """

    def __init__(self, pixels: np.ndarray, classes: tuple[str, ...]):
        self.classes = classes
        self.labels = np.zeros(len(pixels), np.int32)
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def read(self, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Some images, uint8 [n, S, S, 3], a copy; and that all of them could be read, bool [n]."""
        return self._pixels[indices], np.ones(len(indices), bool)


def load_images(
    source: Source,
    preprocessing: Preprocessing,
    *,
    budget_bytes: int,
    skip_bad: bool = False,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Images:
    """Read every image of a source once and keep it in memory, if that stays within the budget.

    Above the budget nothing is read now: the images are decoded whenever they are gathered.

    Args:
        source: the split to load.
        preprocessing: geometry applied to each image.
        budget_bytes: the most that the images may take in memory.
        skip_bad: go on without images that cannot be read, naming each in a warning, instead of raising.
        workers: threads that read and decode; None: one for each CPU that this process may use.
        progress: called with (images done, images in all) as loading goes on.

    Raises:
        BadInput: no image; images that cannot be read; or no image of some class is left.

    Example:
        >>> from resnext_jax.data import open_dataset
        >>> source = open_dataset("demo", val_limit=30).split("val")
        >>> images = load_images(source, Preprocessing(32), budget_bytes=2**30)
        >>> len(images), images.cached, images.gather([0, 1]).shape
        (30, True, (2, 32, 32, 3))
    """
    options = {"budget_bytes": budget_bytes, "skip_bad": skip_bad, "workers": workers, "progress": progress}
    images = start_images(source, preprocessing, **options)
    check_readable([images], [source])
    return images


def start_images(
    source: Source,
    preprocessing: Preprocessing,
    *,
    budget_bytes: int,
    skip_bad: bool,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> Images:
    """As `load_images`, but bad images raise no error yet: `check_readable` raises it."""
    count, side = len(source), preprocessing.image_size
    if not count:
        raise BadInput("the data set holds no image")
    images = Images(source, preprocessing, skip_bad=skip_bad, workers=workers)
    if count * side * side * 3 <= budget_bytes:
        images.fill_cache(lambda done: None if progress is None else progress(done, count))
    return images


def check_readable(loaded: Sequence[Images], sources: Sequence[Source]) -> None:
    """Refuse images that cannot be read, of all splits at once, unless they are to be skipped.

    Args:
        loaded: made by `start_images`.
        sources: what each was made of.

    Raises:
        BadImages: some cannot be read.
        BadInput: they were to be skipped, and no image of some class is left.
    """
    for images, source in zip(loaded, sources, strict=True):
        lost = np.setdiff1d(source.labels, images.labels) if images.bad else ()
        if images.skip_bad and len(lost):
            names = ", ".join(source.classes[label] for label in lost)
            raise BadInput(f"no readable image is left of {names}: every one was skipped")
    reasons = [reason for images in loaded if not images.skip_bad for reason in images.why_bad()]
    if reasons:
        raise BadImages(reasons, sum(len(source) for source in sources))


def available_cpus() -> int:
    """CPUs that this process may use."""
    # Not os.cpu_count() where it can be helped: a container is often given fewer CPUs than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
