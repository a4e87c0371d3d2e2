"""TensorBoard's files: read back, they hold the history, the pictures, and each epoch once after a resume."""

import io
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resnext_jax as rj
from resnext_jax.reports.tensorboard import TensorBoard

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")


def read_values(directory: Path) -> list[tuple[str, int, object]]:
    """Every value of every event: (tag, step, value)."""
    found = []
    for file in sorted(directory.iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):  # records: length, its checksum, content, its checksum
            [length] = struct.unpack_from("<Q", data, at)
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
            found += [(value.tag, event.step, value) for value in event.summary.value]
            at += 16 + length
    return found


def test_events_hold_the_run(small_run):
    config = replace(small_run, epochs=2)
    rj.fit(config, writers=[TensorBoard()], quiet=True)
    result = rj.fit(replace(config, epochs=3, resume=True, tensorboard=True), quiet=True)
    values = read_values(config.out / "tensorboard")
    numbers = [
        (tag, step, value.simple_value) for tag, step, value in values if value.HasField("simple_value")
    ]
    scalars = {(tag, step): number for tag, step, number in numbers}
    assert len(scalars) == len(numbers)  # each once
    for row in result.history:
        assert scalars["loss/val", row["epoch"]] == pytest.approx(row["val_loss"])
        assert scalars["top1/train", row["epoch"]] == pytest.approx(row["train_top1"])
        assert scalars["lr", row["epoch"]] == pytest.approx(row["lr"])
    pictures = [(tag, step, value.image) for tag, step, value in values if value.HasField("image")]
    confusions = [step for tag, step, _ in pictures if tag.startswith("confusion")]
    assert confusions == [1, 2, 3]
    tag, _, image = pictures[0]
    assert tag == "images/training"
    assert len(np.unique(np.asarray(Image.open(io.BytesIO(image.encoded_image_string))))) > 50


def test_a_run_that_began_without_gets_its_whole_history(small_run):
    rj.fit(replace(small_run, epochs=1), quiet=True)
    rj.fit(replace(small_run, epochs=2, resume=True), writers=[TensorBoard()], quiet=True)
    steps = [step for tag, step, _ in read_values(small_run.out / "tensorboard") if tag == "lr"]
    assert steps == [1, 2]
