"""What a run directory tells of a run under way."""

import json
import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import write_run
from small_models import CLASSES

from resnext_jax import BadInput, runs
from resnext_jax.reports.pictures import data_uri
from resnext_jax.serve.watching import read_pictures, read_progress


def row(epoch: int, top1: float, loss: float) -> runs.Row:
    return {"epoch": epoch, "step": 4 * epoch, "val_top1": top1, "val_loss": loss}


@pytest.fixture
def directory(tmp_path):
    return write_run(tmp_path / "run")


def test_a_run_before_its_first_epoch(directory):
    progress = read_progress(directory)
    assert progress["history"] == []
    assert progress["best"] is progress["seconds_since_epoch"] is None
    assert not progress["finished"]
    assert (progress["run"], progress["model"], progress["epochs"]) == ("run", "small", 3)
    assert progress["classes"] == list(CLASSES)
    (directory / "history.jsonl").unlink()
    assert read_progress(directory) == progress


def test_the_best_epoch_is_what_the_run_monitors(directory):
    history = [row(1, 0.5, 0.9), row(2, 0.8, 1.1), row(3, 0.9, math.nan)]
    runs.write_history(directory, history)
    progress = read_progress(directory)
    assert progress["best"] == 2
    assert math.isnan(progress["history"][2]["val_loss"])
    config = runs.read_config(directory)
    runs.write_json(directory / "config.json", config | {"config": {"monitor": "loss"}})
    assert read_progress(directory)["best"] == 1
    # Epochs that were not validated are never the best.
    runs.write_history(directory, [{"epoch": 1, "step": 4, "train_loss": 1.0}])
    assert read_progress(directory)["best"] is None


def test_a_run_is_finished_until_it_goes_on(directory):
    runs.write_history(directory, [row(1, 0.5, 0.9)])
    assert not read_progress(directory)["finished"]
    runs.write_json(directory / "summary.json", {"epochs": 1})
    assert read_progress(directory)["finished"]
    assert read_progress(directory)["seconds_since_epoch"] >= 0
    ended = (directory / "summary.json").stat().st_mtime
    runs.write_history(directory, [row(1, 0.5, 0.9), row(2, 0.6, 0.8)])
    os.utime(directory / "history.jsonl", (ended + 1, ended + 1))
    assert not read_progress(directory)["finished"]


def test_pictures_of_the_last_validation(directory):
    assert read_progress(directory)["pictures"] is None
    with pytest.raises(FileNotFoundError):
        read_pictures(directory)
    image = {"name": "<b>.jpg", "true": "a", "predicted": "b", "probability": 0.5}
    image |= {"picture": data_uri(np.zeros((8, 8, 3), np.uint8))}
    runs.write_json(directory / runs.PICTURES, {"epoch": 2, "images": [image | {"more": 1}]})
    assert read_pictures(directory) == {"epoch": 2, "images": [image]}
    assert read_progress(directory)["pictures"] == (directory / runs.PICTURES).stat().st_mtime
    for damaged in (
        '{"epoch": 2',
        "[]",
        '{"epoch": 2, "images": [{"name": "x"}]}',
        json.dumps({"epoch": 2, "images": [image | {"picture": "https://elsewhere/x.jpg"}]}),
    ):
        (directory / runs.PICTURES).write_text(damaged)
        with pytest.raises(BadInput, match=r"validation\.json: damaged"):
            read_pictures(directory)


def test_what_is_no_run(directory, tmp_path):
    with pytest.raises(FileNotFoundError, match="no run here"):
        read_progress(tmp_path)
    (directory / "history.jsonl").write_text('{"epoch": 1}\n{"epoch"')
    with pytest.raises(BadInput, match=r"history\.jsonl, line 2: expected a JSON object"):
        read_progress(directory)


numbers = st.floats(allow_infinity=False) | st.integers(-(10**9), 10**9)


@settings(max_examples=30)
@given(st.lists(st.dictionaries(st.text(min_size=1), numbers, min_size=1), max_size=4))
def test_the_history_is_read_as_it_was_written(tmp_path_factory, history):
    directory = tmp_path_factory.mktemp("history")
    names = {name for each in history for name in each}
    rows = [dict.fromkeys(names, 0.0) | each for each in history]
    runs.write_history(directory, rows)
    read = runs.read_history(directory)
    assert [list(each) for each in read] == [list(each) for each in rows]
    for ours, theirs in zip(read, rows, strict=True):
        assert all(
            a == b or (math.isnan(a) and math.isnan(b))
            for a, b in zip(ours.values(), theirs.values(), strict=True)
        )
