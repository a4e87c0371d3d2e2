"""From a source to batches: loading, bad images, order, division among devices and processes."""

import itertools
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import resnext_jax.data.loading as loading
from resnext_jax.console import Console
from resnext_jax.data import (
    DataConfig,
    Preprocessing,
    WaitTimer,
    eval_batches,
    load_images,
    open_dataset,
    prefetch_to_device,
    read_images,
    steps_per_epoch,
    train_batches,
)
from resnext_jax.data.loading import BadImages
from resnext_jax.data.sources import Subset

SMALL = Preprocessing(image_size=16)


class Numbered:
    """A source whose image i is filled with the colour i."""

    classes = ("even", "odd")

    def __init__(self, count):
        self.labels = np.arange(count, dtype=np.int32) % 2
        self.keys = [f"{i}" for i in range(count)]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = np.full((4, 4, 3), index, np.uint8)
        return {"image": image, "label": int(self.labels[index]), "key": self.keys[index]}


def numbered(count, budget_bytes=1 << 30):
    return load_images(Numbered(count), Preprocessing(image_size=4), budget_bytes=budget_bytes)


def order(batches, steps):
    """The image numbers of the first batches, [steps, batch]."""
    return np.stack([batch["image"][..., 0, 0, 0].ravel() for batch in itertools.islice(batches, steps)])


def test_cached_and_streamed_images_are_the_same(image_folder):
    source = open_dataset(str(image_folder)).train
    need = len(source) * 16 * 16 * 3
    seen = []
    cached = load_images(source, SMALL, budget_bytes=need, progress=lambda *done: seen.append(done))
    streamed = load_images(source, SMALL, budget_bytes=need - 1, workers=3)
    assert seen[-1] == (16, 16)
    assert (cached.cached, cached.nbytes, streamed.cached, streamed.nbytes) == (True, need, False, 0)
    for images in (cached, streamed):
        assert len(images) == 16
        assert images.classes == ("left", "right")
        np.testing.assert_array_equal(images.labels, source.labels)
        assert images.labels.dtype == np.int32
        assert images.keys == list(source.keys)
    indices = np.array([3, 0, 15, 3])
    np.testing.assert_array_equal(cached.gather(indices), streamed.gather(indices))
    assert cached.gather(indices[:0]).shape == streamed.gather(indices[:0]).shape == (0, 16, 16, 3)
    from_file = np.asarray(Image.open(image_folder / source.keys[3]))
    np.testing.assert_array_equal(cached.gather([3])[0], SMALL(from_file))


def damage(folder, *names):
    for name in names:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])


def test_bad_images_are_all_named_before_anything_else(image_folder):
    damage(image_folder, "left/P00_0.jpg", "right/P03_1.jpg")
    (image_folder / "right" / "P04_0.jpg").write_bytes(b"")
    source = open_dataset(str(image_folder)).split("all")
    with pytest.raises(ValueError, match="3 of 20 images cannot be read") as caught:
        load_images(source, SMALL, budget_bytes=1 << 30)
    for name in ("left/P00_0.jpg", "right/P03_1.jpg", "right/P04_0.jpg"):
        assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_images_are_skipped_on_request(image_folder, caplog):
    damage(image_folder, "left/P00_0.jpg", "right/P03_1.jpg")
    source = open_dataset(str(image_folder)).split("all")
    images = load_images(source, SMALL, budget_bytes=1 << 30, skip_bad=True)
    assert len(images) == 18
    assert {record.args[0].split(":")[0] for record in caplog.records} == {
        "left/P00_0.jpg",
        "right/P03_1.jpg",
    }
    good = [i for i, key in enumerate(source.keys) if key in images.keys]
    np.testing.assert_array_equal(images.labels, source.labels[good])
    reference = [SMALL(np.asarray(Image.open(image_folder / key))) for key in images.keys]
    np.testing.assert_array_equal(images.gather(np.arange(18)), reference)


@pytest.mark.parametrize(
    ("count", "message"), [(8, r"(.*?: [^;]*;){7}[^;]*$"), (17, r"(.*?: [^;]*;){10} and 7 more$")]
)
def test_ten_bad_images_are_named(image_folder, count, message):
    source = open_dataset(str(image_folder)).split("all")
    damage(image_folder, *source.keys[:count])
    with pytest.raises(BadImages, match=rf"{count} of 20 images cannot be read{message}") as caught:
        load_images(source, SMALL, budget_bytes=1 << 30)
    assert [reason.split(":")[0] for reason in caught.value.reasons] == source.keys[:count]


def test_bad_images_of_all_splits_are_named_at_once(image_folder):
    dataset = open_dataset(str(image_folder))
    damage(image_folder, dataset.train.keys[3], dataset.val.keys[1])
    splits = {"training": dataset.train, "validation": dataset.val}
    with pytest.raises(BadImages, match="2 of 20 images") as caught:
        read_images(splits, SMALL, DataConfig(), Console(True))
    assert dataset.train.keys[3] in str(caught.value)
    assert dataset.val.keys[1] in str(caught.value)
    too_little = DataConfig(cache_gib=16 * 16 * 3 * 19 / 2**30)
    loaded = read_images(splits, SMALL, too_little, Console(True))
    assert [(images.cached, images.bad) for images in loaded.values()] == [(False, {})] * 2


def test_streamed_images_are_not_read_before_they_are_wanted(image_folder):
    source = open_dataset(str(image_folder)).split("all")
    damage(image_folder, source.keys[4])
    images = load_images(source, SMALL, budget_bytes=0)
    assert len(images) == 20
    assert not images.bad
    images.gather([3, 5])
    with pytest.raises(BadImages, match=rf"1 of 3 images cannot be read .*: {source.keys[4]}: "):
        images.gather([3, 4, 5])


@pytest.mark.parametrize("budget_bytes", [0, 1 << 30])
def test_bad_images_are_named_in_the_order_of_the_source(image_folder, monkeypatch, budget_bytes):
    """Whichever thread is the first to find one; and some of the images are named as all of them are."""
    source = open_dataset(str(image_folder)).split("all")
    damage(image_folder, *source.keys[4:16])
    decode, found = loading.decode, threading.Event()

    def wait_for_a_later_one(image, key):
        if key == source.keys[4]:
            found.wait(10)
        elif key == source.keys[15]:
            found.set()
        return decode(image, key)

    monkeypatch.setattr(loading, "decode", wait_for_a_later_one)
    monkeypatch.setattr(loading, "_CHUNK", 1)
    expected = [f"{key}: " for key in source.keys[4:16]]

    def named(reasons):
        return [reason[: len(start)] for reason, start in zip(reasons, expected, strict=True)]

    if budget_bytes:
        with pytest.raises(BadImages) as caught:
            load_images(source, SMALL, budget_bytes=budget_bytes)
        assert named(caught.value.reasons) == expected
        return
    images = load_images(source, SMALL, budget_bytes=budget_bytes, workers=2)
    with pytest.raises(BadImages) as caught:
        images.read(np.arange(20))
    assert named(caught.value.reasons) == named(images.why_bad()) == expected
    part = images.subset(np.array([0, 15]))
    with pytest.raises(BadImages, match=f"1 of 2 images cannot be read .*: {source.keys[15]}: "):
        part.read([0, 1])


def test_streamed_bad_images_are_replaced_in_training_and_masked_in_evaluation(image_folder, caplog):
    source = open_dataset(str(image_folder)).split("all")
    bad = [4, 5, 19]
    damage(image_folder, *[source.keys[i] for i in bad])
    images = load_images(source, SMALL, budget_bytes=0, skip_bad=True)
    whole = {i: images.gather([i])[0] for i in range(20) if i not in bad}
    instead = {4: 6, 5: 6, 19: 0}  # the next that can be read
    for epoch, processes in ((0, 1), (1, 2)):
        options = {"batch_size": 4, "seed": 3, "start_step": 5 * epoch}
        expected = order(train_batches(numbered(20), **options), 5)
        parts = [
            list(
                itertools.islice(
                    train_batches(images, process_index=i, process_count=processes, **options), 5
                )
            )
            for i in range(processes)
        ]
        for step, numbers in enumerate(expected):
            pixels = np.concatenate([part[step]["image"].reshape(-1, 16, 16, 3) for part in parts])
            labels = np.concatenate([part[step]["label"].ravel() for part in parts])
            numbers = [instead.get(int(number), int(number)) for number in numbers]
            np.testing.assert_array_equal(pixels, [whole[number] for number in numbers])
            np.testing.assert_array_equal(labels, source.labels[numbers])
            assert all(part[step]["mask"].all() for part in parts)
    batches = list(eval_batches(images, batch_size=8))
    masks = np.concatenate([batch["mask"].ravel() for batch in batches])
    assert np.flatnonzero(~masks).tolist() == [*bad, 20, 21, 22, 23]
    assert set(images.bad) == {source.keys[i] for i in bad}
    assert len(caplog.records) == 3  # each is named once


def test_nothing_can_be_read(image_folder):
    source = open_dataset(str(image_folder)).split("all")
    damage(image_folder, *source.keys)
    images = load_images(source, SMALL, budget_bytes=0, skip_bad=True)
    with pytest.raises(ValueError, match="none of the 20 images can be read"):
        next(train_batches(images, batch_size=4, seed=0))


def test_many_bad_images_are_not_all_logged(image_folder, caplog):
    source = open_dataset(str(image_folder)).split("all")

    class Twice(Subset):
        @property
        def keys(self):
            return [f"{i}/{key}" for i, key in enumerate(super().keys)]

    images = load_images(Twice(source, np.tile(np.arange(20), 2)), SMALL, budget_bytes=0, skip_bad=True)
    damage(image_folder, *source.keys)
    images.gather(np.arange(40))
    assert len(images.bad) == 40
    assert len(caplog.records) == 21
    assert "not named here" in caplog.text


def test_a_class_without_readable_images(image_folder):
    damage(image_folder, *[f"left/P{i // 2:02d}_{i % 2}.jpg" for i in range(10)])
    source = open_dataset(str(image_folder)).split("all")
    with pytest.raises(ValueError, match="no readable image is left of left"):
        load_images(source, SMALL, budget_bytes=1 << 30, skip_bad=True)


def test_a_file_that_vanishes_while_streaming(image_folder):
    source = open_dataset(str(image_folder)).split("all")
    images = load_images(source, SMALL, budget_bytes=0)
    (image_folder / images.keys[2]).unlink()
    with pytest.raises(BadImages, match=images.keys[2]):
        images.gather([1, 2])


def test_labels_outside_the_classes():
    source = Numbered(4)
    source.labels[2] = -1
    with pytest.raises(ValueError, match="2: label -1 is not one of the 2 classes"):
        load_images(source, Preprocessing(image_size=4), budget_bytes=0)


@pytest.mark.parametrize("budget_bytes", [0, 1 << 30])
def test_epochs_hold_each_image_at_most_once_in_a_new_order(budget_bytes):
    images = numbered(22, budget_bytes)
    steps = steps_per_epoch(22, 4)
    assert steps == 5
    epochs = order(train_batches(images, batch_size=4, seed=1), 3 * steps).reshape(3, -1)
    for epoch in epochs:
        assert len(set(epoch)) == 20
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[1], epochs[2])
    np.testing.assert_array_equal(
        order(train_batches(images, batch_size=4, seed=1), 15).reshape(3, -1), epochs
    )
    assert not np.array_equal(order(train_batches(images, batch_size=4, seed=2), 5).ravel(), epochs[0])


def test_labels_and_mask_belong_to_the_images():
    for batch in itertools.islice(train_batches(numbered(22), batch_size=4, seed=0, local_devices=2), 12):
        assert batch["image"].shape == (2, 2, 4, 4, 3)
        assert batch["image"].dtype == np.uint8
        assert batch["label"].dtype == np.int32
        assert batch["mask"].dtype == bool
        assert batch["mask"].all()
        np.testing.assert_array_equal(batch["image"][..., 0, 0, 0] % 2, batch["label"])


@given(start=st.integers(0, 40), seed=st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_resuming_at_any_step_is_exact(start, seed):
    images = numbered(22)
    whole = order(train_batches(images, batch_size=4, seed=seed), start + 7)
    resumed = order(train_batches(images, batch_size=4, seed=seed, start_step=start), 7)
    np.testing.assert_array_equal(whole[start:], resumed)


@pytest.mark.parametrize(("processes", "devices"), [(1, 4), (2, 1), (2, 2), (4, 1)])
def test_the_global_batch_does_not_depend_on_the_division(processes, devices):
    images = numbered(22)
    whole = order(train_batches(images, batch_size=8, seed=5), 6)
    parts = [
        order(
            train_batches(
                images,
                batch_size=8,
                seed=5,
                process_index=i,
                process_count=processes,
                local_devices=devices,
            ),
            6,
        )
        for i in range(processes)
    ]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


@given(
    count=st.integers(1, 40),
    per_device=st.integers(1, 3),
    processes=st.integers(1, 3),
    devices=st.integers(1, 3),
)
@settings(max_examples=30, deadline=None)
def test_evaluation_sees_every_image_once(count, per_device, processes, devices):
    images = numbered(count)
    batch_size = per_device * processes * devices
    parts = [
        list(
            eval_batches(
                images,
                batch_size=batch_size,
                process_index=i,
                process_count=processes,
                local_devices=devices,
            )
        )
        for i in range(processes)
    ]
    assert {len(part) for part in parts} == {-(-count // batch_size)}
    seen = []
    for step in zip(*parts, strict=True):
        for batch in step:
            assert batch["image"].shape == (devices, per_device, 4, 4, 3)
            np.testing.assert_array_equal(
                batch["label"][batch["mask"]], images.labels[batch["image"][batch["mask"]][:, 0, 0, 0]]
            )
            assert not batch["image"][~batch["mask"]].any()
            seen += batch["image"][batch["mask"]][:, 0, 0, 0].tolist()
    assert seen == list(range(count))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 32}, "batch_size=32: more than the 22 training images; use at most 22"),
        ({"batch_size": 24, "local_devices": 4}, "use at most 20"),
        ({"batch_size": 24, "local_devices": 24}, "more devices .24. than images"),
        ({"batch_size": 6, "local_devices": 4}, "multiple of 4 .4 devices., such as 8"),
        ({"batch_size": 4, "local_devices": 4, "process_count": 2}, "8 devices"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_batch_sizes_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        train_batches(numbered(22), seed=0, **options)


def test_an_error_while_streaming_reaches_the_consumer(image_folder):
    images = load_images(open_dataset(str(image_folder)).split("all"), SMALL, budget_bytes=0)
    for key in images.keys:
        (image_folder / key).unlink()
    with pytest.raises(BadImages, match="4 of 4 images cannot be read"):
        next(train_batches(images, batch_size=4, seed=0))


def test_prefetch_keeps_the_order_and_looks_ahead():
    put = []
    batches = prefetch_to_device(range(6), lambda x: put.append(x) or x, size=2)
    assert next(batches) == 0
    assert put == [0, 1]
    assert list(batches) == [1, 2, 3, 4, 5]
    assert list(prefetch_to_device([], lambda x: x)) == []


def test_wait_timer_counts_the_producers_time_only():
    timer = WaitTimer(iter([1, 2, 3]))
    assert list(timer) == [1, 2, 3]
    assert 0 < timer.seconds < 1


def test_a_process_that_stops_in_the_middle_exits():
    code = (
        "from resnext_jax.data import *\n"
        "images = load_images(open_dataset('demo').val, Preprocessing(image_size=32), budget_bytes=0)\n"
        "print(next(train_batches(images, batch_size=8, seed=0))['label'].shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "(1, 8)\n"


@pytest.mark.parametrize(
    ("module", "use", "message"),
    [
        ("grain", lambda: next(eval_batches(numbered(4), batch_size=2)), "need Grain"),
        ("tensorflow_datasets", lambda: open_dataset("tfds:cifar10"), "need TensorFlow Datasets"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, module, use, message):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"{message} .*pip install"):
        use()
