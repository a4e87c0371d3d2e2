"""A trace of some steps, and where the time of all of them goes."""

import gzip
import json
from dataclasses import replace

import pytest

import resnext_jax as rj


def test_a_trace_has_the_steps_that_were_asked_for(small_run, capsys):
    run = replace(small_run, epochs=1, profile=2)
    result = rj.fit(run)
    folder = run.out / "profile"
    assert f"a trace of 2 steps is in {folder}" in capsys.readouterr().out
    (file,) = folder.rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    steps = [event for event in events if event.get("name") == "train"]
    assert [int(event["args"]["step_num"]) for event in steps] == [1, 2]
    assert not [event for event in events if "compile" in event.get("name", "").lower()]
    (row,) = result.history
    spent = sum(row[f"{part}_seconds"] for part in ("data", "dispatch", "device"))
    assert row["images_per_second"] == pytest.approx(16 / spent, rel=0.05)
    assert spent < row["seconds"]
    assert rj.fit(replace(run, profile=None, overwrite=True), quiet=True)
    assert not folder.exists()


def test_a_run_that_ends_first_leaves_the_steps_that_it_made(small_run, capsys):
    rj.fit(replace(small_run, epochs=1, profile=99))
    assert "a trace of 3 steps is in" in capsys.readouterr().out
