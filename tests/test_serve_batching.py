"""The thread that owns the device: which images share a batch, and what an error or an end does to them."""

import threading
from concurrent.futures import CancelledError, Future, wait
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext_jax.serve.batching import Batcher, batch_sizes

SIDE = 2


def image(value: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), value, np.uint8)


class Model:
    """Gives back the value of each image; notes the batches, and may be held up."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        self.free = threading.Event()
        self.free.set()
        self.started = threading.Event()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.started.set()
        assert self.free.wait(60)
        self.threads.add(threading.get_ident())
        self.batches.append(images[:, 0, 0, 0].tolist())
        if 255 in self.batches[-1]:
            raise ValueError("no image for me")
        return images[:, 0, 0, :2].astype(np.float32)


def held(batcher: Batcher, model: Model) -> Future:
    """Submit image 1, whose batch is under way and does not end before the model is let free."""
    model.free.clear()
    model.started.clear()
    first = batcher.submit(image(1))
    assert model.started.wait(60)
    return first


def values(futures: list[Future]) -> list[int]:
    return [int(future.result(60)[0]) for future in futures]


def test_what_comes_during_a_batch_is_the_next_one():
    model = Model()
    with Batcher(model, (1, 8)) as batcher:
        first = held(batcher, model)
        others = [batcher.submit(image(value)) for value in range(2, 10)]
        assert batcher.waiting == 8
        model.free.set()
        assert values([first, *others]) == list(range(1, 10))
    assert model.batches == [[1], list(range(2, 10))]
    assert model.threads.isdisjoint({threading.get_ident()})
    assert len(model.threads) == 1


def test_a_batch_is_filled_up_to_a_compiled_size():
    model = Model()
    with Batcher(model, (4,)) as batcher:
        assert values([batcher.submit(image(7))]) == [7]
    assert model.batches == [[7, 0, 0, 0]]


@pytest.mark.parametrize(
    ("seconds", "batches"),
    [
        ({1: 1, 2: 2, 4: 4}, [1, 1, 1, 1, 1, 1]),  # nothing is gained: whoever came first is served first
        ({1: 10, 2: 18, 4: 34}, [4, 2]),  # a CPU: filling up costs as much as images do
        ({1: 10, 2: 10, 4: 11, 8: 12}, [8]),  # a GPU: filling up costs little
    ],
)
def test_the_size_that_classifies_most_images_a_second_is_taken(monkeypatch, seconds, batches):
    model = Model()
    clock = 0.0

    def timed(images: np.ndarray) -> np.ndarray:
        nonlocal clock
        clock += seconds[len(images)]
        return model(images)

    monkeypatch.setattr("time.perf_counter", lambda: clock)
    batcher = Batcher(timed, tuple(seconds))
    assert batcher.warm(SIDE).tolist() == [0, 0]
    model.batches.clear()
    with batcher:
        first = held(batcher, model)
        others = [batcher.submit(image(value)) for value in range(2, 8)]
        model.free.set()
        wait([first, *others])
    assert [len(batch) for batch in model.batches[1:]] == batches


def test_every_size_is_compiled_before_the_first_request():
    model, told = Model(), []
    batcher = Batcher(model, (1, 2, 8))
    batcher.warm(SIDE, lambda done, note: told.append(done))
    assert {len(batch) for batch in model.batches} == {1, 2, 8}
    assert told == [1, 2, 3]


def test_an_error_reaches_the_images_of_its_batch_and_no_others():
    model = Model()
    with Batcher(model, (1, 2)) as batcher:
        first = held(batcher, model)
        bad = [batcher.submit(image(value)) for value in (2, 255)]
        good = batcher.submit(image(3))
        model.free.set()
        assert values([first, good]) == [1, 3]
        for future in bad:
            with pytest.raises(ValueError, match="no image for me"):
                future.result(60)
        assert batcher.alive


def test_images_that_nobody_waits_for_are_left_out():
    model = Model()
    with Batcher(model, (1, 4)) as batcher:
        held(batcher, model)
        given_up, wanted = batcher.submit(image(2)), batcher.submit(image(3))
        assert given_up.cancel()
        model.free.set()
        assert values([wanted]) == [3]
    assert [2 in batch for batch in model.batches] == [False, False]


def test_calls_have_the_device_for_themselves():
    model = Model()
    with Batcher(model, (1,)) as batcher:
        where = batcher.call(threading.get_ident)
        failed = batcher.call(lambda: 1 // 0)
        assert values([batcher.submit(image(5))]) == [5]
        assert {where.result(60)} == model.threads
        with pytest.raises(ZeroDivisionError):
            failed.result(60)


def test_the_end_cancels_what_waits_and_refuses_what_comes():
    model = Model()
    batcher = Batcher(model, (1,))
    with batcher:
        first = held(batcher, model)
        waiting = [batcher.submit(image(2)), batcher.call(threading.get_ident)]
        threading.Timer(0.1, model.free.set).start()
    assert values([first]) == [1]
    for future in waiting:
        with pytest.raises(CancelledError):
            future.result(0)
    assert not batcher.alive
    with pytest.raises(RuntimeError):
        batcher.submit(image(3))


@given(st.lists(st.integers(1, 254), min_size=1, max_size=40), st.integers(1, 9), st.integers(1, 4))
def test_each_image_gets_its_own_result(numbers: list[int], most: int, devices: int):
    model = Model()
    sizes = batch_sizes(most, devices)
    with Batcher(model, sizes) as batcher:
        assert values([batcher.submit(image(number)) for number in numbers]) == numbers
    assert {len(batch) for batch in model.batches} <= set(sizes)


@given(st.integers(1, 300), st.integers(1, 8))
def test_batch_sizes_are_shared_evenly_and_reach_the_most(most: int, devices: int):
    sizes = batch_sizes(most, devices)
    assert all(size % devices == 0 for size in sizes)
    assert sorted(set(sizes)) == list(sizes)
    assert 0 <= sizes[-1] - most < devices
    assert sizes[0] == devices
    # A batch is less than twice as large as what waits for it, but for what the devices share evenly.
    assert all(larger < 2 * smaller + devices for smaller, larger in pairwise(sizes))
