"""Runs by several processes: what they must have in common, and how they end together."""

import json
import re
import shutil
import subprocess
import sys
import time

import pytest
from processes import COMMAND, finish, start

from resnext_jax import cli


@pytest.fixture
def flags(small_run) -> list[str]:
    fields = ("data", "model", "image_size", "batch_size", "lr", "out")
    return [
        word for name in fields for word in ("--" + name.replace("_", "-"), str(getattr(small_run, name)))
    ]


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--lr", "0.5", "--lr=0.5 in process 1, --lr=0.02 in process 0"),
        pytest.param("--seed", "7", "--seed=7 in process 1, --seed=0 in process 0", marks=pytest.mark.slow),
        pytest.param("--batch-size", "8", "--batch-size=8 in process 1", marks=pytest.mark.slow),
        pytest.param("--epochs", "9", "--epochs=9 in process 1", marks=pytest.mark.slow),
        ("--out", "elsewhere", r"--out=\S*elsewhere \(not shared\) in process 1"),
    ],
)
def test_processes_that_differ_are_refused_by_all(flags, tmp_path, flag, value, message):
    own = [flag, str(tmp_path / value) if flag == "--out" else value]
    for code, out, err in finish(start([flags, [*flags, *own]])):
        lines = [line for line in err.splitlines() if line.startswith("error:")]
        assert (code, len(lines)) == (2, 1), err
        assert not [line for line in out.splitlines() if not line.startswith("[Gloo]")]
        assert re.search(message, lines[0])
        assert "Traceback" not in err
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
def test_other_data_are_refused_by_all(flags, image_folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(image_folder, other)
    file = next((other / "left").iterdir())
    file.rename(file.with_name("P77_0.jpg"))
    for code, _, err in finish(start([flags, [*flags, "--data", str(other)]])):
        assert code == 2
        assert "data (names)=" in err, err


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_process_ends_the_other_in_time(flags, tmp_path, victim):
    more = ["--epochs", "100000", "--sync-bn", "--peer-timeout", "5"]
    processes = start([[*flags, *more]] * 2)
    history = tmp_path / "run" / "history.jsonl"
    deadline = time.monotonic() + 240
    while not history.exists():
        assert time.monotonic() < deadline
        assert [process.poll() for process in processes] == [None, None]
        time.sleep(0.1)
    processes[victim].kill()
    killed = time.monotonic()
    code, _, err = finish(processes)[1 - victim]
    assert time.monotonic() - killed < 30
    assert code == 4, err
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert line.startswith(f"error: process {victim} of the run")
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_nobody_joins_ends_in_time(flags, index):
    process = start([[*flags, "--peer-timeout", "5"]] * 2)
    process[1 - index].kill()
    code, _, err = finish(process)[index]
    assert code == 4, err
    who = "process 0 could not be reached at" if index else "not all 2 processes came within 5 s"
    assert f"error: {who}" in err


@pytest.mark.slow
def test_sigterm_to_one_saves_in_all_and_any_number_goes_on(flags, tmp_path, monkeypatch):
    """Two processes, then one, then a launch of two: the numbers of an uninterrupted run of one."""
    own = [*flags, "--sync-bn", "--lr", "0.001", "--pad-crop", "1", "--ema-decay", "0.9"]
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    history = tmp_path / "run" / "history.jsonl"
    processes = start([[*own, "--epochs", "100000", "--peer-timeout", "30"]] * 2)
    deadline = time.monotonic() + 240
    while not history.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    processes[1].terminate()
    ended = finish(processes)
    assert [code for code, _, _ in ended] == [143, 143], ended
    assert "interrupted: saved after" in ended[0][2]
    assert "interrupted" not in ended[1][2]
    epochs = len(history.read_text().splitlines())
    resume = ["--resume", "--out", str(tmp_path / "run")]
    words = [sys.executable, "-c", COMMAND]
    subprocess.run([*words, "train", *resume, "--epochs", str(epochs + 1)], check=True, capture_output=True)
    more = ["train", *resume, "--epochs", str(epochs + 2)]
    code = f"import sys; from resnext_jax.cli.commands import launch\nlaunch.PROGRAM = {words!r}\n"
    done = subprocess.run(
        [sys.executable, "-c", code + COMMAND, "launch", "--processes", "2", *more],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best epoch") == 1
    whole = [*own, "--epochs", str(epochs + 2), "--out", str(tmp_path / "whole")]
    subprocess.run([*words, "train", *whole], check=True, capture_output=True)
    rows = [
        [
            json.loads(line)["val_loss"]
            for line in (tmp_path / name / "history.jsonl").read_text().splitlines()
        ]
        for name in ("run", "whole")
    ]
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)


def test_launch_refuses_other_commands_and_gives_the_exit_code(capfd):
    with pytest.raises(SystemExit) as stop:
        cli.main(["launch", "--processes", "2", "predict"])
    assert stop.value.code == 2
    with pytest.raises(SystemExit) as stop:
        cli.main(["launch", "--processes", "1", "train", "--data", "x", "--lr", "0", "--out", "y"])
    assert stop.value.code == 2
    assert "--lr=0.0: expected a number above 0" in capfd.readouterr().err
