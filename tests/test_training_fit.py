"""Whole runs: what they leave, how they go on after a stop, what they refuse before writing anything."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from processes import COMMAND, free_port, without_warnings

import resnext_jax as rj
from resnext_jax import cli
from resnext_jax.runs import Checkpoints
from resnext_jax.training import Interrupted


@pytest.fixture
def config(small_run) -> rj.TrainConfig:
    return replace(small_run, epochs=3, pad_crop=1)


def read_variables(directory: Path) -> tuple[int, dict]:
    with Checkpoints(directory) as checkpoints:
        step = checkpoints.step_of("latest")
        return step, checkpoints.read_model(step)


def assert_same_run(a: Path, b: Path) -> None:
    """The same history but for times, and the same variables to the bit."""

    def rows(directory):
        lines = (directory / "history.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        return [{k: v for k, v in row.items() if "second" not in k} for row in rows]

    assert rows(a) == rows(b)
    (step_a, variables_a), (step_b, variables_b) = read_variables(a), read_variables(b)
    assert step_a == step_b
    for x, y in zip(*(jax.tree.leaves(v) for v in (variables_a, variables_b)), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_run_learns_and_leaves_everything(config):
    calls = []
    result = rj.fit(config, writers=[lambda progress: calls.append(len(progress.history))], quiet=True)
    assert result.summary["best_val_top1"] == 1.0
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    assert calls == [1, 2, 3]
    assert {path.name for path in config.out.iterdir()} == {
        *(
            "config.json",
            "history.csv",
            "history.jsonl",
            "summary.json",
            "checkpoints",
            ".resnext_jax.lock",
            "images.csv.gz",
            "validation.json",
        )
    }
    with (config.out / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert [int(row["step"]) for row in rows] == [4, 8, 12]
    about = json.loads((config.out / "config.json").read_text())
    assert about["classes"] == ["left", "right"]
    assert rj.TrainConfig.from_dict(about["config"]) == config
    summary = json.loads((config.out / "summary.json").read_text())
    assert summary["epochs"] == 3
    assert (
        summary["best_epoch"] == max(result.history, key=lambda r: (r["val_top1"], -r["val_loss"]))["epoch"]
    )
    assert 0 <= summary["data_wait_share"] < 1


def test_prediction_and_evaluation_need_only_the_run(config, image_folder):
    result = rj.fit(config, quiet=True)
    for which in ("best", "latest"):
        predictor = rj.load_run(config.out, which)
        row = next(row for row in result.history if row["step"] == predictor.step)
        metrics = predictor.evaluate("val")
        assert metrics["images"] == 4
        assert metrics["loss"] == pytest.approx(row["val_loss"], rel=1e-5)
    with pytest.raises(ValueError, match="devices"):
        predictor.evaluate("val", devices=1000)
    predictions = predictor.predict([image_folder], batch_size=3)
    assert len(predictions.keys) == 20
    assert predictions.probabilities.sum(1) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(
        predictions.probabilities, predictor.probabilities(predictions.images, batch_size=20), atol=1e-5
    )
    names = [top[0][0] for top in predictions.top()]
    assert np.mean([a == b for a, b in zip(names, predictions.true_classes(), strict=True)]) > 0.9
    assert len(predictions.top(2)[0]) == 2


class StopAt:
    """Stands for a signal that comes at a given step."""

    def __init__(self, step):
        self.step, self.signum = step, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def came_here(self):
        return self.signum is not None

    def requested(self, step):
        self.signum = signal.SIGTERM if step >= self.step else None
        return self.signum is not None


# Everything that a run carries from step to step or from epoch to epoch. No loss is ever 100 lower, so the
# rate is halved after the second epoch and after the third.
CARRIED = {
    "optimizer": "lamb",
    "schedule": "plateau",
    "plateau_factor": 0.5,
    "plateau_patience": 1,
    "plateau_min_delta": 100.0,
    "ema_decay": 0.9,
    "accumulate": 2,
    "balanced_sampler": True,
    "mixup": 0.2,
    "label_smoothing": 0.1,
    "clip_grad_norm": 1.0,
    "head_lr": 0.1,
    "layer_decay": 0.7,
    "early_stop": 3,
}


@pytest.mark.parametrize(("step", "recipe"), [(1, {}), (4, {}), (6, {}), (10, CARRIED)])
def test_a_run_stopped_at_any_step_goes_on_exactly(config, tmp_path, monkeypatch, step, recipe):
    config = replace(config, **recipe)
    whole = replace(config, out=tmp_path / "whole")
    result = rj.fit(whole, quiet=True)
    if recipe:
        assert [row["lr"] for row in result.history] == pytest.approx([0.02, 0.02, 0.01])
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["resnext_jax.training.fit"], "StopRequest", lambda: StopAt(step))
        with pytest.raises(Interrupted, match="saved after"):
            rj.fit(config, quiet=True)
    assert read_variables(config.out)[0] == step
    rj.fit(replace(config, resume=True), quiet=True)
    assert_same_run(whole.out, config.out)


def test_more_epochs_can_be_added(config, tmp_path):
    whole = replace(config, out=tmp_path / "whole")
    rj.fit(whole, quiet=True)
    rj.fit(replace(config, epochs=1), quiet=True)
    rj.fit(replace(config, resume=True), quiet=True)
    assert_same_run(whole.out, config.out)


def tiny_process(config: rj.TrainConfig, *more: str, **environment: str) -> subprocess.Popen:
    """A `train` command of its own with the settings of `config`, but for the number of epochs."""
    fields = ("data", "model", "image_size", "batch_size", "lr", "pad_crop", "out")
    flags = [part for name in fields for part in ("--" + name.replace("_", "-"), str(getattr(config, name)))]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "train", *flags, *more],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_epochs(config: rj.TrainConfig, process: subprocess.Popen, epochs: int) -> None:
    history = config.out / "history.jsonl"
    deadline = time.monotonic() + 240
    while not history.exists() or len(history.read_text().splitlines()) < epochs:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no epoch ended in time"
        time.sleep(0.05)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(config, signum, capsys):
    process = tiny_process(config, "--epochs", "100000", "--devices", "1")
    wait_for_epochs(config, process, 2)
    process.send_signal(signum)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signum
    assert without_warnings(err).count("\n") == 1, err
    assert f"resnext-jax train --resume --out {config.out}" in err
    step, _ = read_variables(config.out)
    cli.main(["train", "--resume", "--out", str(config.out), "--epochs", str(step // 4 + 1)])
    assert f"resuming after {step} steps" in capsys.readouterr().out


def test_a_killed_run_goes_on_from_its_last_epoch(config, tmp_path):
    process = tiny_process(config, "--epochs", "100000", "--devices", "1")
    wait_for_epochs(config, process, 3)
    process.kill()
    process.communicate(timeout=60)
    step, _ = read_variables(config.out)
    epochs = step // 4 + 2
    rj.fit(replace(config, epochs=epochs, resume=True), quiet=True)
    whole = replace(config, out=tmp_path / "whole", epochs=epochs)
    rj.fit(whole, quiet=True)
    assert_same_run(whole.out, config.out)


def joined_processes(configs, *flags):
    """Processes of two devices each, joined over the loopback, ended, and what each printed."""
    port = free_port()
    processes = [
        tiny_process(
            config,
            *(*flags, "--distributed"),
            XLA_FLAGS="--xla_force_host_platform_device_count=2",
            JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
            JAX_NUM_PROCESSES=str(len(configs)),
            JAX_PROCESS_ID=str(index),
        )
        for index, config in enumerate(configs)
    ]
    return processes, [process.communicate(timeout=300) for process in processes]


def test_a_process_that_cannot_begin_ends_the_others(config, tmp_path):
    """One host lacks the data: no other waits for it."""
    lacking = replace(config, data=str(tmp_path / "nowhere"))
    processes, outputs = joined_processes([config, lacking], "--epochs", "1")
    assert [process.returncode for process in processes] == [2, 2], outputs
    (_, first), (_, second) = outputs
    assert "error: process 1 of the run cannot go on; its message says why" in first
    assert "nowhere does not exist" in second
    assert not list(config.out.glob("checkpoints/*"))


def test_two_processes_train_as_one(config, tmp_path):
    """Two processes of two devices each, joined over the loopback, against one process of four."""
    # Small steps, which do not amplify rounding.
    config = replace(config, sync_bn=True, devices=None, lr=0.001)
    whole = replace(config, out=tmp_path / "whole")
    rj.fit(whole, quiet=True)
    processes, outputs = joined_processes([config, config], "--epochs", "3", "--sync-bn")
    assert [process.returncode for process in processes] == [0, 0], outputs
    (_, apart), (_, alone) = read_variables(config.out), read_variables(whole.out)
    for x, y in zip(jax.tree.leaves(apart), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(x, y, atol=2e-5)
    losses = [
        [json.loads(line)["val_loss"] for line in (run.out / "history.jsonl").read_text().splitlines()]
        for run in (config, whole)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("weight_decay", [0.9, 0.2])
def test_a_diverging_run_stops_and_keeps_what_was_good(config, weight_decay):
    # The decay alone multiplies every weight by 1 - 100 * decay in each step: finite for a while, then not.
    bad = replace(config, epochs=40, lr=100.0, momentum=0.0, weight_decay=weight_decay)
    with pytest.raises(
        FloatingPointError,
        match=r"at step \d+, in epoch \d+; (good until step \d+; )?try a lower lr than 100",
    ):
        rj.fit(bad, quiet=True)
    for which in ("best", "latest") if (config.out / "history.csv").exists() else ():
        with Checkpoints(config.out) as checkpoints:
            variables = checkpoints.read_model(checkpoints.step_of(which))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))


BAD_CONFIGS = {
    "unknown model 'resnext51'": {"model": "resnext51"},
    "lr=0: expected a number above 0 and at most 100": {"lr": 0},
    "lr=1000": {"lr": 1000},
    "val_fraction=1.5": {"val_fraction": 1.5},
    "optimizer='lion'": {"optimizer": "lion"},
    "epochs=0": {"epochs": 0},
    "warmup_epochs=3": {"warmup_epochs": 3},
    "milestones=(1,) with schedule='constant'": {"milestones": (1,)},
    "nesterov=True": {"nesterov": True, "optimizer": "adam"},
    "choose one": {"resume": True, "overwrite": True},
    "does not exist": {"data": "no/such/folder"},
    "batch_size=32: more than the 16 training images": {"batch_size": 32},
    "batch_size=6: expected a multiple of 4 (4 devices)": {"batch_size": 6, "devices": 4},
    "devices=64": {"devices": 64},
    "group_by": {"group_by": "("},
}


@pytest.mark.parametrize(("message", "changes"), BAD_CONFIGS.items())
def test_bad_input_writes_nothing(config, message, changes):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        rj.fit(replace(config, **changes), quiet=True)
    assert message in str(caught.value)
    assert not config.out.exists()


def test_bad_images_stop_the_run_or_are_left_out(config, image_folder):
    whole = (image_folder / "left" / "P00_0.jpg").read_bytes()
    (image_folder / "left" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (image_folder / "right" / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"cut\.jpg") as caught:
        rj.fit(replace(config, val_fraction=0.1), quiet=True)
    assert "text.png" in str(caught.value)
    assert not config.out.exists()
    result = rj.fit(replace(config, epochs=1, val_fraction=0.1, skip_bad_images=True), quiet=True)
    assert result.summary["train_images"] + result.summary["val_images"] == 20


def test_an_existing_run_is_neither_mixed_up_nor_lost(config, tmp_path):
    rj.fit(replace(config, epochs=1), quiet=True)
    before = (config.out / "history.csv").read_text()
    with pytest.raises(ValueError, match="exists already"):
        rj.fit(config, quiet=True)
    with pytest.raises(ValueError, match=r"lr: 0\.02 -> 0\.5; seed: 0 -> 1"):
        rj.fit(replace(config, resume=True, lr=0.5, seed=1), quiet=True)
    assert (config.out / "history.csv").read_text() == before
    rj.fit(replace(config, epochs=1, seed=1, overwrite=True), quiet=True)
    assert (config.out / "history.csv").read_text() != before

    other = tmp_path / "photos"
    other.mkdir()
    (other / "holiday.jpg").write_bytes(b"precious")
    with pytest.raises(ValueError, match="not a run directory"):
        rj.fit(replace(config, out=other, overwrite=True), quiet=True)
    assert (other / "holiday.jpg").exists()


def test_a_run_resumed_on_other_data_is_refused(config, image_folder):
    rj.fit(replace(config, epochs=1), quiet=True)
    for file in list((image_folder / "left").iterdir())[:3]:
        file.unlink()
    with pytest.raises(ValueError, match=r"not the images that the run in .*gone: 3"):
        rj.fit(replace(config, resume=True), quiet=True)
