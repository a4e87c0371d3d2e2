"""The same numbers however a run is laid out: real processes, each with simulated devices of its own."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from processes import COMMAND, finish, start

from resnext_jax.runs import Checkpoints

# Processes x devices of each.
LAYOUTS = [(1, 1), (1, 4), (2, 2), (4, 1)]
# Through every ordered pair of them.
WALK = [LAYOUTS[i] for i in (0, 1, 0, 2, 0, 3, 1, 2, 1, 3, 2, 3, 0)]

# A process says on standard error what it writes to the run directory.
WATCHED = f"""
import os, sys

def tell(event, arguments):
    writes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
    writes = writes or event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if writes and str(arguments[0]).startswith(sys.argv[sys.argv.index("--out") + 1]):
        print("wrote", arguments[0], file=sys.stderr, flush=True)

sys.addaudithook(tell)
{COMMAND}"""


@pytest.fixture
def flags(image_folder) -> list[str]:
    # 13 images for training and 7 for validation, which batches of 4 do not divide.
    data = ["--data", str(image_folder), "--val-fraction", "0.35", "--batch-size", "4"]
    # A low rate: momentum, ReLU and batch norm amplify rounding.
    return [*data, "--model", "tiny", "--image-size", "16", "--lr", "0.0001", "--epochs", "1"]


def train(layout: tuple[int, int], flags: list[str], out: Path) -> None:
    """Train by so many processes with so many devices each, of which only the first writes and announces."""
    processes, devices = layout
    ended = finish(start([[*flags, "--out", str(out)]] * processes, devices=devices, program=WATCHED))
    assert [code for code, _, _ in ended] == [0] * processes, ended
    _, said, errors = ended[0]
    assert said.count("best epoch") == 1
    assert f"wrote {out}" in errors
    for _, said, errors in ended[1:]:
        assert not [line for line in said.splitlines() if not line.startswith("[Gloo]")]
        assert not errors


def result(out: Path) -> list[np.ndarray]:
    """All numbers that a run leaves, but for times: its history, and the state in its last checkpoint."""
    rows = map(json.loads, (out / "history.jsonl").read_text().splitlines())
    history = [np.float32(v) for row in rows for k, v in row.items() if "second" not in k]
    with Checkpoints(out) as checkpoints:
        step = checkpoints.step_of("latest")
        state = checkpoints.read_model(step), checkpoints.read_optimizer(step)
    return [*history, *jax.tree.leaves(state)]


def assert_close(out: Path, other: Path, atol: float = 1e-5) -> None:
    """Two runs left the same numbers but for rounding."""
    for ours, theirs in zip(result(out), result(other), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=atol, err_msg=out.name)


def assert_alike(layouts: list[tuple[int, int]], flags: list[str], folder: Path) -> None:
    """Runs of these layouts leave the same numbers."""
    outs = [folder / f"{processes}x{devices}" for processes, devices in layouts]
    for layout, out in zip(layouts, outs, strict=True):
        train(layout, flags, out)
        assert_close(out, outs[0])


def test_two_processes_are_two_devices(flags, tmp_path):
    assert_alike([(1, 2), (2, 1)], [*flags, "--pad-crop", "2", "--ema-decay", "0.9"], tmp_path)


@pytest.mark.slow
def test_shard_map_is_pmap(flags, tmp_path):
    train((1, 4), flags, tmp_path / "pmap")
    for layout in LAYOUTS[1:]:
        out = tmp_path / f"shard_map{layout}"
        train(layout, [*flags, "--parallel", "shard_map"], out)
        assert_close(out, tmp_path / "pmap")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layouts", "more"),
    [
        pytest.param(LAYOUTS, ["--sync-bn"], id="synchronised"),
        pytest.param(
            LAYOUTS,
            ["--sync-bn", "--flip", "--pad-crop", "2", "--rotate", "10", "--ema-decay", "0.9"],
            id="augmentation and average",
        ),
        # Each device normalises its own images, so only runs of as many devices are alike.
        pytest.param(LAYOUTS[1:], [], id="statistics of its own"),
        pytest.param(LAYOUTS[1:], ["--batch-size", "8", "--accumulate", "2"], id="accumulation"),
        pytest.param(LAYOUTS[1:], ["--batch-size", "8", "--accumulate", "2", "--sync-bn"], id="both"),
        pytest.param(
            LAYOUTS, ["--batch-size", "8", "--accumulate", "2", "--model", "tiny_gn"], id="no batch norm"
        ),
    ],
)
def test_layouts_change_nothing_but_rounding(flags, tmp_path, layouts, more):
    assert_alike(layouts, [*flags, *more], tmp_path)


@pytest.mark.slow
def test_any_layout_goes_on_with_the_run_of_any_other(flags, tmp_path):
    """One run, every epoch in another layout; and one that was never interrupted."""
    flags = [*flags, "--sync-bn", "--pad-crop", "2", "--ema-decay", "0.9"]
    for epoch, layout in enumerate(WALK, start=1):
        train(layout, [*flags, "--epochs", str(epoch), "--resume"], tmp_path / "passed_on")
    train(LAYOUTS[0], [*flags, "--epochs", str(len(WALK))], tmp_path / "whole")
    # In so many steps rounding turns a ReLU on or off now and then; a step too few or twice is 0.1 and more.
    assert_close(tmp_path / "passed_on", tmp_path / "whole", atol=2e-3)
