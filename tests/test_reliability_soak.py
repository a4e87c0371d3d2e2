"""Long runs take no more of the machine than short ones: memory, open files and threads stay flat."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from PIL import Image
from processes import COMMAND

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="/proc is Linux's")

KINDS = ("memory", "handles", "threads")


def of_process(pid: int) -> tuple[float, int, int]:
    """MiB of memory, open files and sockets, threads."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines if ":" in line)
    handles = len(os.listdir(f"/proc/{pid}/fd"))
    return int(status["VmRSS"].split()[0]) / 1024, handles, int(status["Threads"])


def epochs_in(history: Path) -> int:
    return len(history.read_text().splitlines()) if history.exists() else 0


def watched(arguments: list[str], history: Path) -> tuple[dict[str, list[float]], int]:
    """What a command takes, 20 times a second from its third epoch on; and how many epochs it made."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    watchdog = threading.Timer(1500, process.kill)
    watchdog.start()
    taken = []
    try:
        while process.poll() is None:
            time.sleep(0.05)
            if epochs_in(history) > 2:
                try:
                    taken.append(of_process(process.pid))
                except (OSError, KeyError):  # it is ending
                    continue
    finally:
        watchdog.cancel()
    assert process.returncode == 0, process.stderr.read().decode()
    return dict(zip(KINDS, map(list, zip(*taken, strict=True)), strict=True)), epochs_in(history)


def assert_flat(taken: dict[str, list[float]]) -> None:
    """The last quarter of the time takes what the second one took."""
    quarter = len(taken["memory"]) // 4
    assert quarter > 20
    early = {kind: median(values[quarter : 2 * quarter]) for kind, values in taken.items()}
    late = {kind: median(values[-quarter:]) for kind, values in taken.items()}
    print(f"\nsecond quarter {early}, last quarter {late}, most { ({k: max(v) for k, v in taken.items()}) }")
    assert late["memory"] < early["memory"] + 10
    assert late["handles"] <= early["handles"] + 2
    assert late["threads"] <= early["threads"] + 2


def flags(**values: object) -> list[str]:
    return [str(x) for name, value in values.items() for x in ("--" + name.replace("_", "-"), value)]


COMMON = {"model": "tiny", "image_size": 16, "batch_size": 4, "lr": 1e-4, "devices": 1}


@pytest.mark.slow
def test_300_epochs(image_folder, tmp_path):
    """Each with a save, a validation, a picture and rows of history."""
    run = tmp_path / "run"
    arguments = ["train", *flags(**COMMON, data=image_folder, epochs=300, out=run)]
    taken, epochs = watched(arguments, run / "history.jsonl")
    assert epochs == 300
    assert_flat(taken)


@pytest.mark.slow
def test_2000_steps_of_streamed_images(tmp_path):
    rng = np.random.default_rng(0)
    for name, shade in (("dark", 40), ("light", 160)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(250):
            pixels = shade + rng.integers(0, 90, (120, 150, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "images" / name / f"{i}.jpg")
    run = tmp_path / "run"
    arguments = ["train", *flags(**COMMON, data=tmp_path / "images", epochs=20, cache_gib=0, out=run)]
    taken, epochs = watched(arguments, run / "history.jsonl")
    assert epochs == 20  # of 100 steps
    assert_flat(taken)
