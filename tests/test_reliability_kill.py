"""Runs that are killed at any moment, many times over, end bit-identical to a run that nobody disturbed."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from resnext_jax.runs import Checkpoints

# Trains the `tiny` model in a child of its own for each line that it reads: importing takes most of the time
# of a run so small. A child may be told after which change to a file of its run it kills itself: between any
# two of them lies a moment of saving, of the history or of the pictures. On a slow disk an epoch ends before
# the checkpoint that was saved in it is written.
TRAIN = """
import json, os, signal, sys, time, traceback
import orbax.checkpoint as ocp
from resnext_jax.models import VARIANTS, ResNetConfig
VARIANTS["tiny"] = ResNetConfig("bottleneck", (1,), 4, 8, stem="cifar")
import resnext_jax.reports, resnext_jax.training.fit
from resnext_jax.cli import main

CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}

def count_changes(out, last):
    left = last
    def hook(event, arguments):
        nonlocal left
        if event in CHANGES and left is not None and any(out in str(name) for name in arguments[:2]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

def slow_down(seconds):
    write = ocp.JsonCheckpointHandler._save_fn
    async def slowly(*arguments):
        time.sleep(seconds)
        await write(*arguments)
    ocp.JsonCheckpointHandler._save_fn = slowly

for line in sys.stdin:
    told = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 0
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            count_changes(told["out"], told["last"])
            slow_down(told["wait"])
            main(told["command"])
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stderr.flush()
        os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass
class Job:
    """A command that is given again and again, as a cluster does."""

    process: subprocess.Popen
    command: list[str]
    out: Path

    def run(self, *, seconds: float | None = None, last: int | None = None, wait: float = 0) -> int:
        """Exit code; killed after some time, or after some changes to files, which wait for the disk."""
        command = [*self.command, "--out", str(self.out)]
        told = {"command": command, "out": str(self.out), "last": last, "wait": wait}
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(told), file=self.process.stdin, flush=True)
        child = int(self.process.stdout.readline())
        if seconds is not None:
            time.sleep(seconds)
            with suppress(ProcessLookupError):  # it has ended
                os.kill(child, signal.SIGKILL)
        return int(self.process.stdout.readline())


@pytest.fixture
def job(tmp_path, image_folder) -> Iterator[Job]:
    flags = {
        "data": image_folder,
        "model": "tiny",
        "image-size": 16,
        "batch-size": 4,
        "lr": 0.1,
        "epochs": 20,
    }
    flags |= {
        "ema-decay": 0.9,
        "accumulate": 2,
        "schedule": "plateau",
        "plateau-patience": 1,
        "early-stop": 2,
    }
    flags |= {"optimizer": "adam", "rotate": 20, "save-minutes": 0.001}
    command = ["train", "--resume", "--flip", *(str(x) for k, v in flags.items() for x in ("--" + k, v))]
    with (
        (tmp_path / "errors").open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-c", TRAIN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        yield Job(process, command, tmp_path / "run")


def left(out: Path) -> dict:
    """All that a run leaves, but for times and memory."""
    rows = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    summary = json.loads((out / "summary.json").read_text())
    found = {"history": rows, "summary": summary}
    for values in (*rows, summary):
        for name in [name for name in values if re.search("second|memory|wait", name)]:
            del values[name]
    with Checkpoints(out) as checkpoints:
        for which in ("best", "latest"):
            step = checkpoints.step_of(which)
            checkpoints.check(step)
            trees = checkpoints.read_model(step), checkpoints.read_optimizer(step)
            found[which] = step, [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(trees)]
    return found


def parts(value: Any) -> list:
    return list(value.items()) if isinstance(value, dict) else list(value)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_killed_at_any_moment(job, devices, tmp_path):
    """13 runs, each killed one to four times, while it reads, compiles, trains, saves, validates or draws."""
    job.command += ["--devices", str(devices)]
    job.out = tmp_path / "whole"
    job.run()  # compiles
    job.out = tmp_path / "undisturbed"
    start = time.monotonic()
    assert job.run() == 0, (tmp_path / "errors").read_text()
    duration = time.monotonic() - start
    expected = left(job.out)
    assert len(expected["history"]) < 20, "it was to stop early"
    assert len({row["lr"] for row in expected["history"]}) > 1, "the plateau was to reduce the rate"

    rng = random.Random(devices)
    kills, different = 0, {}
    for number in range(13):
        job.out = tmp_path / f"killed_{number}"
        for _ in range(rng.randint(1, 4)):
            by_time = rng.random() < 0.5
            moment = {"seconds": rng.uniform(0, duration)} if by_time else {"last": rng.randint(1, 400)}
            moment["wait"] = rng.choice([0, 0, 0.03, 0.1])
            code = job.run(**moment)
            assert code in (0, -signal.SIGKILL), (moment, (tmp_path / "errors").read_text())
            kills += code != 0
        assert job.run() == 0, (tmp_path / "errors").read_text()
        found = left(job.out)
        different[number] = [
            (before, after)
            for name in expected
            for before, after in zip_longest(parts(expected[name]), parts(found[name]))
            if before != after
        ]
    assert not any(different.values()), different
    assert kills > 13
    print(f"{kills} kills in 13 runs on {devices} devices")
