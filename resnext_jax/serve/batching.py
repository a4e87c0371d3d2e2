"""Requests at the same time share the device: one thread owns it, and takes what waits as a batch."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from resnext_jax.console import Update

Classify = Callable[[np.ndarray], np.ndarray]
"""Images, uint8 [N, S, S, 3], to probabilities, float32 [N, K]; compiled anew for each N."""

_WARM_SECONDS = 0.5  # spent on timing a batch size, once it is compiled


class Batcher:
    """A thread that owns the device.

    It does not wait for batches to fill: what came while it worked on a batch is the next one. So a single
    client waits for nobody, and many clients fill the batches. Only a few batch sizes are used, so that all
    can be compiled ahead; a batch is filled up to its size with black images. Among the sizes, the one that
    classifies the most waiting images per second is taken, as timed by `warm`.

    Args:
        classify: the model.
        sizes: batch sizes.
        on_batch: told the images in a batch and its seconds after each.
    """

    def __init__(
        self,
        classify: Classify,
        sizes: Sequence[int],
        on_batch: Callable[[int, float], None] = lambda images, seconds: None,
    ):
        self._model, self._on_batch = classify, on_batch
        self._seconds = dict.fromkeys(sizes, 1.0)  # of a batch, by size
        self._images: deque[tuple[np.ndarray, Future]] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="device", daemon=True)

    def __enter__(self) -> "Batcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether the thread works."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Images and calls that no batch has taken yet."""
        return len(self._images) + len(self._calls)

    def warm(self, side: int, update: Update | None = None) -> np.ndarray:
        """Compile and time every batch size; called before the thread starts.

        Args:
            side: of the images, in pixels.
            update: progress: sizes done.

        Returns:
            The probabilities of a black image, float32 [K].
        """
        results = np.empty(0)
        for done, size in enumerate(self._seconds, start=1):
            black = np.zeros((size, side, side, 3), np.uint8)
            results = self._model(black)
            times: list[float] = []
            while len(times) < 3 and sum(times) < _WARM_SECONDS:
                start = time.perf_counter()
                self._model(black)
                times.append(time.perf_counter() - start)
            self._seconds[size] = min(times)
            if update:
                update(done, "")
        return results[0]

    def submit(self, image: np.ndarray) -> "Future[np.ndarray]":
        """Let an image, uint8 [S, S, 3], be classified: float32 [K].

        If the future is cancelled before a batch takes the image, the image is left out.
        """
        return self._add(self._images, image)

    def call(self, function: Callable[[], Any]) -> Future:
        """Let the thread call a function that needs the device."""
        return self._add(self._calls, function)

    def close(self) -> None:
        """Finish the batch under way, cancel all that waits, and end the thread."""
        with self._changed:
            self._closed = True
            waiting = [future for _, future in (*self._images, *self._calls)]
            self._images.clear()
            self._calls.clear()
            self._changed.notify()
        for future in waiting:
            future.cancel()
        if self._thread.ident is not None:
            self._thread.join()

    def _add(self, queue: deque, item: Any) -> Future:
        future: Future = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the server is ending")
            queue.append((item, future))
            self._changed.notify()
        return future

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._images or self._calls or self._closed)
                if self._closed:
                    return
                call = self._calls.popleft() if self._calls else None
                size = self._best_size(len(self._images)) if self._images else 0
                batch = [self._images.popleft() for _ in range(min(size, len(self._images)))]
            if call and call[1].set_running_or_notify_cancel():
                _settle([call[1]], _call_alone, call[0])
            batch = [(image, future) for image, future in batch if future.set_running_or_notify_cancel()]
            if batch:
                images, futures = zip(*batch, strict=True)
                _settle(futures, self._classify, images, size)

    def _best_size(self, waiting: int) -> int:
        return min(self._seconds, key=lambda size: self._seconds[size] / min(size, waiting))

    def _classify(self, images: Sequence[np.ndarray], size: int) -> np.ndarray:
        filled = np.zeros((size, *images[0].shape), np.uint8)
        filled[: len(images)] = images
        start = time.perf_counter()
        probabilities = self._model(filled)[: len(images)]
        self._on_batch(len(images), time.perf_counter() - start)
        return probabilities


def batch_sizes(most: int, devices: int) -> tuple[int, ...]:
    """Powers of two up to `most`, each a multiple of the number of devices.

    Example:
        >>> batch_sizes(12, 1), batch_sizes(8, 3)
        ((1, 2, 4, 8, 12), (3, 6, 9))
    """
    sizes = [*(2**power for power in range(most.bit_length()) if 2**power < most), most]
    return tuple(dict.fromkeys(-(-size // devices) * devices for size in sizes))


def _call_alone(function: Callable[[], Any]) -> list[Any]:
    return [function()]


def _settle(futures: Sequence[Future], function: Callable[..., Iterable[Any]], *arguments: Any) -> None:
    """Give each future its result, or all of them the error: one that fails does not end the thread."""
    try:
        results = function(*arguments)
    except Exception as error:
        for future in futures:
            future.set_exception(error)
    else:
        for future, result in zip(futures, results, strict=True):
            future.set_result(result)
