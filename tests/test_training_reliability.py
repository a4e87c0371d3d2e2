"""Nothing is lost: signals, kills, full disks, damaged runs, two at once, numbers that are not finite."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import TINY, without_warnings

import resnext_jax as rj
from resnext_jax import cli
from resnext_jax.runs import Checkpoints
from resnext_jax.training import Loss, fit
from resnext_jax.training.trainer import Trainer

# Runs a command with the `tiny` model in the table, as a process of its own. MODE: what happens slowly.
PROCESS = f"""{TINY}
import sys, time
from resnext_jax import devices
from resnext_jax.training import setup
def wait(*arguments, **options):
    print("waiting", flush=True)
    time.sleep(300)
if sys.argv[1] == "data":
    setup.read_images = wait
elif sys.argv[1] == "compile":
    import jax
    jax.stages.Lowered.compile = wait
elif sys.argv[1] == "validation":
    from resnext_jax.inference import Evaluator
    stream = Evaluator.stream
    def slowly(*arguments):
        for result in stream(*arguments):
            print("waiting", flush=True)
            time.sleep(2)
            yield result
    Evaluator.stream = slowly
from resnext_jax.cli import main
main(sys.argv[2:])
"""


@pytest.fixture
def config(small_run) -> rj.TrainConfig:
    return replace(small_run, epochs=2)


@pytest.fixture
def finished(config) -> rj.TrainConfig:
    fit(config, quiet=True)
    return config


def command(config: rj.TrainConfig, *more: str) -> list[str]:
    names = ("data", "model", "image_size", "batch_size", "lr", "epochs", "devices", "out")
    flags = [part for name in names for part in ("--" + name.replace("_", "-"), str(getattr(config, name)))]
    return ["train", *flags, *more]


def process(mode: str, arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, mode, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows(directory: Path) -> list[dict]:
    lines = (directory / "history.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if "second" not in k} for line in lines]


@pytest.mark.parametrize("mode", ["data", "compile"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_the_first_step_ends_at_once(config, mode, signum):
    """While images are read, and while the step compiles, which looks for no signals."""
    started = process(mode, command(config))
    while "waiting" not in started.stdout.readline():
        assert started.poll() is None, started.communicate()
    started.send_signal(signum)
    _, err = started.communicate(timeout=60)  # far less than it would wait
    assert started.returncode == (130 if signum == signal.SIGINT else -signum)
    assert without_warnings(err) == ("interrupted\n" if signum == signal.SIGINT else "")
    if signum == signal.SIGINT:
        assert not config.out.exists()
    fit(replace(config, epochs=1), quiet=True)  # what is left is in nobody's way


def test_a_signal_while_validating_ends_between_batches(config, tmp_path):
    """The epoch's steps are saved; it is validated, and may be the best, when the run goes on."""
    config = replace(config, val_fraction=0.5)
    whole = replace(config, out=tmp_path / "whole")
    fit(whole, quiet=True)
    started = process("validation", command(config, "--val-fraction", "0.5"))
    while "waiting" not in started.stdout.readline():
        assert started.poll() is None, started.communicate()
    started.send_signal(signal.SIGTERM)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 128 + signal.SIGTERM
    assert "saved after" in err
    checkpoints = config.out / "checkpoints"
    [step] = (path.name for path in checkpoints.iterdir())
    assert not (checkpoints / step / "metrics").exists()
    # As if the run had been killed while what was saved is replaced by what was validated.
    (checkpoints / step).rename(checkpoints / f"{step}.replaced")
    with pytest.raises(ZeroDivisionError):
        fit(replace(config, resume=True), writers=[lambda progress: 1 / 0], quiet=True)
    assert (checkpoints / step / "metrics").exists()
    fit(replace(config, resume=True), quiet=True)
    assert rows(config.out) == rows(whole.out)
    assert not list(checkpoints.glob("*.replaced"))
    with Checkpoints(config.out) as ours, Checkpoints(whole.out) as theirs:
        assert [ours.step_of(which) for which in ("best", "latest")] == [
            theirs.step_of(which) for which in ("best", "latest")
        ]


def wait_for_epochs(config: rj.TrainConfig, started: subprocess.Popen, count: int) -> None:
    history = config.out / "history.jsonl"
    deadline = time.monotonic() + 240
    while not history.exists() or len(history.read_text().splitlines()) < count:
        assert started.poll() is None, started.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_closed_terminal_saves_and_two_trainings_are_refused(config):
    started = process("", command(replace(config, epochs=100000)))
    wait_for_epochs(config, started, 1)
    for options in ({"overwrite": True}, {"resume": True, "epochs": 100000}):
        with pytest.raises(ValueError, match=rf"in use by process {started.pid} on \S+ since"):
            fit(replace(config, **options), quiet=True)
    started.send_signal(signal.SIGHUP)
    _, err = started.communicate(timeout=120)
    assert started.returncode == 128 + signal.SIGHUP
    assert without_warnings(err).count("\n") == 1, err
    assert "saved after" in err
    with Checkpoints(config.out) as checkpoints:
        checkpoints.check(checkpoints.step_of("latest"))


def test_ctrl_c_again_and_again_is_one_line_and_loses_nothing(config):
    started = process("", command(replace(config, epochs=100000)))
    wait_for_epochs(config, started, 2)
    for _ in range(7):
        if started.poll() is None:
            os.kill(started.pid, signal.SIGINT)
        time.sleep(0.02)
    _, err = started.communicate(timeout=120)
    assert started.returncode == 130
    assert without_warnings(err).count("\n") == 1, err
    result = fit(replace(config, resume=True, epochs=len(rows(config.out)) + 1), quiet=True)
    assert [row["epoch"] for row in result.history] == list(range(1, len(result.history) + 1))


def test_one_command_can_be_repeated_for_ever(config, capsys):
    """A job script that always says --resume: started, killed before anything was saved, started again."""
    job = command(config, "--resume")
    config.out.mkdir()
    (config.out / ".resnext_jax.lock").write_text("")  # what a process leaves that was killed while reading
    cli.main(job)
    assert "starting from the beginning" in capsys.readouterr().err
    shutil.rmtree(config.out / "checkpoints")  # as if it had been killed before its first checkpoint
    cli.main(job)
    assert "starting from the beginning" in capsys.readouterr().err
    before = rows(config.out)
    summary = (config.out / "summary.json").read_text()
    cli.main(job)
    shown = capsys.readouterr()
    assert f"{config.out} is finished: 2 epochs" in shown.out
    assert "epoch 3" not in shown.out
    assert rows(config.out) == before
    assert (config.out / "summary.json").read_text() == summary


def test_resuming_nothing_with_no_settings_is_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--resume", "--out", str(tmp_path / "typo")])
    assert stop.value.code == 2
    assert "no run here to resume" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()
    with pytest.raises(ValueError, match="resume=True without out"):
        fit(rj.TrainConfig(resume=True))


def test_a_run_whose_newest_checkpoint_is_damaged_ends_as_a_whole_one(config, tmp_path, caplog):
    whole = replace(config, out=tmp_path / "whole", epochs=4)
    fit(whole, quiet=True)
    fit(replace(config, epochs=1), quiet=True)
    older = tmp_path / "older"
    shutil.copytree(config.out / "checkpoints" / "4", older)
    fit(replace(config, epochs=3, resume=True), quiet=True)
    if not (config.out / "checkpoints" / "4").exists():
        shutil.copytree(older, config.out / "checkpoints" / "4")
    newest = config.out / "checkpoints" / "12"
    data = max((newest / "model").rglob("*"), key=lambda path: path.stat().st_size)
    raw = data.read_bytes()
    data.write_bytes(raw[:-9] + bytes(9))
    (config.out / "config.json").write_text('{"config": {"da')
    for step in (path for path in (config.out / "checkpoints").iterdir() if path.name not in ("4", "12")):
        shutil.rmtree(step)
    fit(replace(config, epochs=4, resume=True), quiet=True)
    assert f"damaged, its checksum is wrong; moved to {config.out / 'damaged' / '12'}" in caplog.text
    assert rows(config.out) == rows(whole.out)


def test_a_failing_writer_does_not_lose_the_epoch(config):
    def fail(progress):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(config, writers=[fail], quiet=True)
    with Checkpoints(config.out) as checkpoints:
        assert len(checkpoints.read_meta(checkpoints.step_of("latest"))["history"]) == 1
    assert len(rows(config.out)) == 1
    assert len(fit(replace(config, resume=True), quiet=True).history) == 2


def test_a_full_disk_stops_the_run_or_not(config, tmp_path, monkeypatch, caplog):
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(OSError, match="no space left for a checkpoint") as caught:
            fit(config, quiet=True)
        assert "\n" not in str(caught.value)
        # A run that goes on without saving does not end as if it had saved.
        with pytest.raises(OSError, match="no space left for a checkpoint"):
            fit(replace(config, resume=True, on_save_error="continue"), quiet=True)
    assert not (config.out / "summary.json").exists()
    assert caplog.text.count("training goes on, and saves again later") == 1
    # Nothing was saved: it starts from the beginning. Full once more, for the first epoch only.
    full = iter([1000])
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=next(full, usage.free)))
        result = fit(replace(config, resume=True, on_save_error="continue"), quiet=True)
    assert caplog.text.count("training goes on, and saves again later") == 2
    assert len(result.history) == 2
    whole = replace(config, out=tmp_path / "whole")
    fit(whole, quiet=True)
    assert rows(config.out) == rows(whole.out)


def poison(monkeypatch, first: int, last: int) -> None:
    """Put NaN into the images of some steps, counted from 1."""
    start = Trainer.start

    def poisoned(trainer):
        start(trainer)
        step = trainer._train_step

        def bad(state, sums, batch):
            if first <= trainer.step + 1 <= last:
                sums_in = jax.tree.map(np.asarray, sums)
                state, sums = step(state, sums, batch)
                return state, sums | {
                    "loss": trainer.parallel.replicate(np.float32(np.nan)),
                    "count": trainer.parallel.replicate(sums_in["count"]),
                }
            return step(state, sums, batch)

        trainer._train_step = bad

    monkeypatch.setattr(Trainer, "start", poisoned)


def test_a_loss_that_is_not_finite_names_the_step_and_the_last_good_one(config, monkeypatch):
    poison(monkeypatch, 6, 6)
    said = r"the training loss is nan at step 6, in epoch 2; good until step 5; try a lower lr than 0\.02"
    with pytest.raises(FloatingPointError, match=said):
        fit(config, quiet=True)
    with Checkpoints(config.out) as checkpoints:
        assert checkpoints.step_of("latest") == 4


def test_a_validation_loss_that_is_not_finite_stops_the_run(config, monkeypatch):
    """It is never saved, so it is never the best."""
    losses = iter([0.5, float("nan")])
    module = sys.modules["resnext_jax.training.fit"]
    monkeypatch.setattr(module, "mean_metrics", lambda *_: {"loss": next(losses), "top1": 0.5})
    with pytest.raises(FloatingPointError, match="the validation loss is nan at step 8, in epoch 2"):
        fit(config, quiet=True)
    assert [row["epoch"] for row in rows(config.out)] == [1]


def ruin(monkeypatch, seldom: bool) -> None:
    """Make the loss of a batch NaN: if its images are of one class, or always."""
    loss = Loss.__call__

    def ruined(self, logits, targets):
        bad = jnp.max(targets.sum(0)) == len(targets) if seldom else True
        return jnp.where(bad, jnp.nan, loss(self, logits, targets))

    monkeypatch.setattr(Loss, "__call__", ruined)


def test_steps_that_are_not_finite_are_skipped_and_counted(config, monkeypatch):
    ruin(monkeypatch, seldom=True)
    config = replace(config, batch_size=2, on_nan="skip", ema_decay=0.9)
    result = fit(config, quiet=True)
    skipped = [row["skipped_steps"] for row in result.history]
    assert min(skipped) > 0
    assert max(skipped) < 8
    assert all(
        np.isfinite([row["train_loss"], row["val_loss"], row["grad_norm"]]).all() for row in result.history
    )
    # The optimiser counts the steps that it made, the state all of them.
    with Checkpoints(config.out) as checkpoints:
        state = checkpoints._read_item(16, "optimizer")
    assert state["step"] == 16
    for leaf in jax.tree.leaves(state):
        assert np.isfinite(leaf).all()


def test_a_run_that_only_skips_is_given_up(config, monkeypatch):
    ruin(monkeypatch, seldom=False)
    with pytest.raises(FloatingPointError, match=r"of 11 steps in a row is not finite at step 11"):
        fit(replace(config, batch_size=2, on_nan="skip", epochs=9), quiet=True)
    with pytest.raises(
        FloatingPointError, match=r"the training loss is nan at step 1, in epoch 1; try a lower"
    ):
        fit(replace(config, batch_size=2, overwrite=True), quiet=True)


def test_the_norm_of_the_gradient_is_in_the_history(config):
    history = fit(config, quiet=True).history
    assert all(0 < row["grad_norm"] < 100 for row in history)
    assert "grad_norm" in (config.out / "history.csv").read_text().splitlines()[0]


def test_runs_have_names_of_their_own(config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda *_: "20300102-030405")
    directories = [fit(replace(config, out=None, epochs=1)).directory for _ in range(2)]
    name = "checkpoints/images_tiny_20300102-030405"
    assert [str(path) for path in directories] == [name, f"{name}_2"]
    shown = capsys.readouterr().out
    assert f"in {name}" in shown
    assert "2 classes: left, right" in shown


@pytest.mark.parametrize(
    ("options", "lr"),
    [
        ({"batch_size": 256}, 0.1),
        ({"batch_size": 32}, 0.0125),
        ({"optimizer": "adamw"}, 0.001),
        ({"lr": 3.0}, 3.0),
    ],
)
def test_the_default_learning_rate_scales_with_the_batch(options, lr):
    assert rj.TrainConfig(**options).resolved().lr == pytest.approx(lr)


def test_choosing_on_the_test_split_is_said(config, image_folder, tmp_path, capsys):
    for split in ("train", "test"):
        shutil.copytree(image_folder, tmp_path / "divided" / split)
    result = fit(replace(config, data=str(tmp_path / "divided"), epochs=1))
    assert "the best is chosen, on the test split" in capsys.readouterr().out
    assert result.summary["validated_on"] == "test"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"epochs": [', "[" * 100_000])
def test_a_damaged_summary_is_written_again(finished, content):
    """The job script is repeated after a disk was repaired."""
    summary = (finished.out / "summary.json").read_text()
    (finished.out / "summary.json").write_text(content)
    fit(replace(finished, resume=True), quiet=True)
    for name in ("best_epoch", "best_val_loss", "epochs"):
        assert json.loads((finished.out / "summary.json").read_text())[name] == json.loads(summary)[name]
