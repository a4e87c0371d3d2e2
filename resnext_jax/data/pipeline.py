"""Batches in an order that depends on the seed alone: not on threads, devices, processes or resumption."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from types import ModuleType
from typing import Any, Generic, TypedDict, TypeVar

import numpy as np

from resnext_jax.data.loading import Images
from resnext_jax.errors import BadInput, MissingPackage

_T = TypeVar("_T")
_R = TypeVar("_R")


class Batch(TypedDict):
    """One process's share of a global batch: D local devices, B images each."""

    image: np.ndarray  # uint8 [D, B, H, W, 3]
    label: np.ndarray  # int32 [D, B]
    mask: np.ndarray  # bool [D, B]; False where the last batch of an evaluation is filled up


def check_batch(batch_size: int, shares: int, what: str) -> None:
    """Check that a batch divides evenly.

    Args:
        batch_size: images in a global batch.
        shares: how many equal shares it has to have.
        what: who or what gets them, for the message.

    Raises:
        BadInput: it does not.
    """
    if batch_size < 1 or batch_size % shares:
        fitting = max(round(batch_size / shares), 1) * shares
        raise BadInput(
            f"batch_size={batch_size}: expected a multiple of {shares} ({what}), such as {fitting}"
        )


def steps_per_epoch(count: int, batch_size: int, devices: int = 1) -> int:
    """Training steps in an epoch of `count` images; what is left of each epoch's order is dropped.

    Raises:
        BadInput: fewer images than a batch, which `devices` have to share, takes.

    Example:
        >>> steps_per_epoch(100, batch_size=32)
        3
    """
    if count < batch_size:
        largest = count - count % devices
        advice = f"use at most {largest}" if largest else f"there are more devices ({devices}) than images"
        raise BadInput(f"batch_size={batch_size}: more than the {count} training images; {advice}")
    return count // batch_size


def train_batches(
    images: Images,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    balanced: bool = False,
    repeats: int = 1,
    process_index: int = 0,
    process_count: int = 1,
    local_devices: int = 1,
) -> Iterator[Batch]:
    """Endless batches, every epoch in a new order, whole batches only.

    Batch k is a function of (seed, k): a run that resumes at `start_step` sees what an uninterrupted one
    would have seen.

    Args:
        images: the training images.
        batch_size: images in a global batch, over all processes and devices.
        seed: of the order.
        start_step: steps already taken since the beginning of the run.
        balanced: draw all classes equally often, see `balanced_order`.
        repeats: how many times each image is put into a batch, to be augmented anew each time (Hoffer et
            al. 2020); divides the batch. An epoch has as many steps, and covers 1/repeats of the images.
        process_index: this process.
        process_count: processes that share each batch.
        local_devices: devices of each process.

    Raises:
        ValueError: a batch that the devices do not divide, or more than there are images.

    Example:
        >>> from resnext_jax.data import Preprocessing, load_images, open_dataset
        >>> source = open_dataset("demo", train_limit=30).split("train")
        >>> images = load_images(source, Preprocessing(32), budget_bytes=2**30)
        >>> batch = next(train_batches(images, batch_size=8, seed=0, local_devices=2))
        >>> batch["image"].shape, batch["image"].dtype, batch["label"].shape
        ((2, 4, 32, 32, 3), dtype('uint8'), (2, 4))
    """
    share = _Share(batch_size, process_index, process_count, local_devices)
    steps = steps_per_epoch(len(images), batch_size, share.devices)
    grain = _import_grain()
    if balanced or repeats > 1:
        distinct = batch_size // repeats

        @lru_cache(maxsize=2)
        def order_of(epoch: int) -> np.ndarray:
            if balanced:
                return balanced_order(images.labels, seed, epoch)
            return np.random.default_rng((seed, epoch)).permutation(len(images))

        def draw(step: int) -> np.ndarray:
            first = step % steps * distinct
            # Not side by side: mixup pairs neighbours.
            return np.tile(order_of(step // steps)[first : first + distinct], repeats)

        batches = grain.MapDataset.range(start_step, sys.maxsize).map(draw)
    else:
        order = grain.MapDataset.range(len(images)).seed(seed).shuffle()
        batches = order.batch(batch_size, drop_remainder=True).repeat()[start_step:]
    return _iterate(batches.map(lambda indices: share.collate(images, indices, replace=True)))


def balanced_order(labels: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Indices of as many images as there are, all classes equally often (but for a remainder, by lot).

    The images of a class are drawn in rounds: none comes again before all have come once.

    Args:
        labels: int [N].
        seed: of the order.
        epoch: counted from 0; each has an order of its own.

    Returns:
        int [N].
    """
    rng = np.random.default_rng((seed, epoch))
    present = rng.permutation(np.unique(labels))
    quotas = len(labels) // len(present) + (np.arange(len(present)) < len(labels) % len(present))
    drawn = []
    for label, quota in zip(present, quotas, strict=True):
        members = np.flatnonzero(labels == label)
        rounds = [rng.permutation(members) for _ in range(-(-quota // len(members)))]
        drawn.append(np.concatenate(rounds)[:quota])
    return rng.permutation(np.concatenate(drawn))


def eval_batches(
    images: Images,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    local_devices: int = 1,
) -> Iterator[Batch]:
    """Every image once, in order; the last batch is filled up with black images whose mask is False.

    Every process gets the same number of batches, ceil(N / batch_size), whatever its share of the images.

    Args:
        images: the images to evaluate.
        batch_size: images in a global batch, over all processes and devices.
        process_index: this process.
        process_count: processes that share each batch.
        local_devices: devices of each process.

    Raises:
        ValueError: a batch that the devices do not divide.

    Example:
        >>> from resnext_jax.data import Preprocessing, load_images, open_dataset
        >>> source = open_dataset("demo", val_limit=30).split("val")
        >>> images = load_images(source, Preprocessing(32), budget_bytes=2**30)
        >>> [int(batch["mask"].sum()) for batch in eval_batches(images, batch_size=16)]
        [16, 14]
    """
    share = _Share(batch_size, process_index, process_count, local_devices)
    starts = _import_grain().MapDataset.range(0, len(images), batch_size)
    return _iterate(
        starts.map(
            lambda start: share.collate(images, np.arange(start, min(start + batch_size, len(images))))
        )
    )


def prefetch_to_device(batches: Iterable[_T], put: Callable[[_T], _R], size: int = 2) -> Iterator[_R]:
    """Start copying the next batches to the devices while the present one is computed on.

    Args:
        batches: host batches.
        put: starts the copy and returns at once, as `jax.device_put` does.
        size: how many batches are on their way, at least 1.
    """
    batches = iter(batches)
    on_their_way = deque(put(batch) for batch in islice(batches, size))
    while on_their_way:
        yield on_their_way.popleft()
        on_their_way.extend(put(batch) for batch in islice(batches, 1))


class WaitTimer(Generic[_T]):
    """Passes an iterator on and adds up the time that its consumer waits for it.

    Attributes:
        seconds: spent waiting so far.
    """

    def __init__(self, iterable: Iterable[_T]):
        self._iterator = iter(iterable)
        self.seconds = 0.0

    def __iter__(self) -> Iterator[_T]:
        return self

    def __next__(self) -> _T:
        start = time.perf_counter()
        try:
            return next(self._iterator)
        finally:
            self.seconds += time.perf_counter() - start


@dataclass(frozen=True)
class _Share:
    """A process's contiguous slice of every global batch, so that the batch is the same for any division."""

    batch_size: int
    process_index: int
    process_count: int
    local_devices: int

    def __post_init__(self) -> None:
        check_batch(self.batch_size, self.devices, f"{self.devices} devices")

    @property
    def devices(self) -> int:
        return self.process_count * self.local_devices

    def collate(self, images: Images, indices: np.ndarray, *, replace: bool = False) -> Batch:
        """This process's part of the global batch of images `indices`, filled up with zeros.

        An image that cannot be read is masked; with `replace` the next readable one takes its place.
        """
        size = self.batch_size // self.process_count
        mine = indices[self.process_index * size : (self.process_index + 1) * size]

        def by_device(values: np.ndarray) -> np.ndarray:
            if len(values) < size:
                fill = np.zeros((size - len(values), *values.shape[1:]), values.dtype)
                values = np.concatenate([values, fill])
            return values.reshape(self.local_devices, -1, *values.shape[1:])

        pixels, good = images.read(mine)
        if replace:
            mine = mine.copy()
            for place in np.flatnonzero(~good):
                mine[place], pixels[place] = _next_readable(images, int(mine[place]))
            good[:] = True
        return {
            "image": by_device(pixels),
            "label": by_device(images.labels[mine]),
            "mask": by_device(good),
        }


def _next_readable(images: Images, index: int) -> tuple[int, np.ndarray]:
    """The first image behind another that can be read: it depends on no batch, so on no division of one."""
    for other in range(index + 1, index + len(images)):
        pixels, good = images.read([other % len(images)])
        if good[0]:
            return other % len(images), pixels[0]
    raise BadInput(f"none of the {len(images)} images can be read")


def _iterate(batches: Any) -> Iterator[Batch]:
    """Read a Grain data set in the background: two batches at once, a few ahead, always in order."""
    return iter(batches.to_iter_dataset(_import_grain().ReadOptions(num_threads=2, prefetch_buffer_size=4)))


def _import_grain() -> ModuleType:
    try:
        import grain
    except ImportError as error:
        raise MissingPackage(f"batches need Grain ({error}): pip install grain") from error
    return grain
