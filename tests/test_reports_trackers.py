"""Experiment trackers in their offline modes: what they keep is the run's history."""

import json
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

import resnext_jax as rj
from resnext_jax.errors import MissingPackage
from resnext_jax.reports.trackers import MLflow, WandB


def records(log: bytes) -> Iterator[bytes]:
    """What a log holds that is written in the format of LevelDB's, behind a header of seven bytes."""
    block, at, parts = 32768, 7, b""
    while at + 7 <= len(log):
        if block - at % block < 7:  # too little room for a record's head: filled up
            at += block - at % block
            continue
        _, length, kind = struct.unpack_from("<IHB", log, at)
        if at + 7 + length > len(log):
            return  # still being written
        parts += log[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_mlflow_keeps_settings_and_history(small_run, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    writer = MLflow()
    try:
        result = rj.fit(replace(small_run, epochs=2), writers=[writer], quiet=True)
    finally:
        mlflow.end_run()
    client = mlflow.MlflowClient()
    run = client.get_run(writer.run.info.run_id)
    assert run.info.run_name == "run"
    assert run.data.params["lr"] == "0.02"
    for name in ("val_loss", "train_top1", "lr"):
        kept = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]
        assert kept == [(row["epoch"], pytest.approx(row[name])) for row in result.history]


def test_wandb_keeps_settings_and_history_of_a_resumed_run(small_run):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    rj.fit(replace(small_run, epochs=1), quiet=True)
    writer = WandB(mode="offline")
    result = rj.fit(replace(small_run, epochs=2, resume=True), writers=[writer], quiet=True)
    writer.run.finish()
    [file] = small_run.out.rglob("*.wandb")
    # Written by a process of its own, which may be behind.
    for _ in range(600):
        kept = list(map(Record.FromString, records(file.read_bytes())))
        if kept and kept[-1].HasField("exit"):
            break
        time.sleep(0.1)
    rows, settings = {}, {}
    for record in kept:
        for item in record.run.config.update:
            settings[item.key] = json.loads(item.value_json)
        if record.HasField("history"):
            items = record.history.item
            row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}
            rows[row["_step"]] = row
    assert settings["lr"] == 0.02
    assert sorted(rows) == [1, 2]
    for row in result.history:
        assert rows[row["epoch"]]["val_loss"] == pytest.approx(row["val_loss"])


@pytest.mark.parametrize(("writer", "package"), [(WandB, "wandb"), (MLflow, "mlflow")])
def test_the_package_is_asked_for(writer, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackage, match=rf"resnext-jax\[{package}\]"):
        writer()
