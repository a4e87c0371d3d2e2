"""Predicting in a stream: the same as at once, each image decoded once, rows as they come."""

import csv
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_models import small_model, small_spec

import resnext_jax.data.loading as loading
from resnext_jax.cli.commands.predict import Predict
from resnext_jax.data import BadImages
from resnext_jax.inference import Predictor
from resnext_jax.reports.rows import PredictionFiles, PredictionLines


@pytest.fixture(scope="module")
def predictor():
    return Predictor(small_model("cifar"), small_spec("cifar"), {}, 0)


@pytest.fixture
def folder(tmp_path):
    """Eleven images of different sizes."""
    for i in range(11):
        pixels = np.random.default_rng(i).integers(0, 256, (20 + i, 40, 3), dtype=np.uint8)
        (tmp_path / "scans").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "scans" / f"{i:02d}.png")
    return tmp_path / "scans"


def test_batches_in_order_each_image_decoded_once(predictor, folder, monkeypatch):
    decoded = []
    decode = loading.decode
    monkeypatch.setattr(loading, "decode", lambda image, key: decoded.append(key) or decode(image, key))
    whole = predictor.predict(folder)
    assert sorted(decoded) == sorted(whole.keys)
    parts = list(predictor.stream(folder, batch_size=4))
    assert [len(part.keys) for part in parts] == [4, 4, 3]
    assert [key for part in parts for key in part.keys] == whole.keys
    np.testing.assert_allclose(
        np.concatenate([part.probabilities for part in parts]), whole.probabilities, rtol=1e-5
    )
    np.testing.assert_array_equal(np.concatenate([part.images for part in parts]), whole.images)


def test_bad_images_are_named_behind_all_others(predictor, folder, caplog):
    for name in ("03.png", "10.png"):
        (folder / name).write_bytes(b"no image")
    seen = []

    def follow():
        for part in predictor.stream(folder, batch_size=4):
            seen.extend(part.keys)

    with pytest.raises(BadImages, match=r"2 of 11 images cannot be read .*03\.png: not an image.*10\.png"):
        follow()
    assert len(seen) == 9
    assert not caplog.records
    found = predictor.predict(folder, skip_bad_images=True)
    assert len(found.keys) == len(found.images) == len(found.probabilities) == 9
    assert len(caplog.records) == 2


def test_the_stream_is_no_further_than_its_consumer(predictor, folder, monkeypatch):
    """So memory does not grow with the number of images."""
    decoded = []
    decode = loading.decode
    monkeypatch.setattr(loading, "decode", lambda image, key: decoded.append(key) or decode(image, key))
    stream = predictor.stream([folder / f"{i % 11:02d}.png" for i in range(800)], batch_size=4)
    assert len(next(stream).keys) == 4
    assert len(decoded) < 100
    stream.close()


def test_patterns(predictor, folder):
    assert len(predictor.predict(str(folder / "0*.png")).keys) == 10
    assert len(predictor.predict(str(folder.parent / "**" / "1*.png")).keys) == 1
    with pytest.raises(FileNotFoundError, match="no file fits this pattern"):
        predictor.predict(str(folder / "*.tif"))
    odd = folder / "[x].png"
    (folder / "00.png").rename(odd)
    assert predictor.predict(odd).keys == [str(odd)]
    with pytest.raises(ValueError, match="no image to classify"):
        predictor.predict([])


def test_names_of_all_kinds_are_written(tmp_path):
    names = ["a.png", b"caf\xe9.png", "new\nline.png", "x\x1b[2J.png", "[bold]x.png", "猫.png"]
    keys = [os.fsdecode(name) for name in names]
    rows = np.full((len(keys), 2), 0.5)
    with PredictionFiles(("one", "two"), tmp_path / "p.csv", tmp_path / "p.jsonl") as files:
        files.add(keys[:2], rows[:2])
        assert len((tmp_path / "p.jsonl").read_text().splitlines()) == 2  # rows come at once
        files.add(keys[2:], rows[2:])
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as stream:
        header, *written = csv.reader(stream)
    assert header == ["image", "class", "probability", "one", "two"]
    lines = (tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()
    for given, row, line in zip(keys, written, lines, strict=True):
        expected = "caf\\xe9.png" if "\udce9" in given else given
        assert row == [expected, "one", "0.500000", "0.500000", "0.500000"]
        assert json.loads(line)["image"] == expected
        assert json.loads(line)["probabilities"] == {"one": 0.5, "two": 0.5}


def test_columns_in_the_terminal(predictor, folder):
    found = predictor.predict([folder / "00.png", folder / "01.png"])
    found = type(found)(["a\x1b.png", "猫" * 3], found.images, found.probabilities, found.classes)
    lines = PredictionLines([*found.keys, "x" * 200], found.classes, top_k=2)
    shown = [lines.header(), *lines.lines(found)]
    from rich.cells import cell_len

    assert len({cell_len(line) for line in shown}) == 1
    assert shown[1].startswith("a\\x1b.png ")
    assert all(line.isprintable() for line in shown)


def test_names_from_standard_input(folder, monkeypatch):
    names = b"".join(os.fsencode(folder / f"0{i}.png") + b"\r\n" for i in range(3)) + b"\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(names)))
    command = Predict(run=Path("run"), images=(Path("-"), folder / "1*.png"))
    assert [Path(key).name for key in command.source().keys] == ["00.png", "01.png", "02.png", "10.png"]
