"""Damaged and odd images through training, evaluation, prediction and serving: nothing ends or hangs."""

import csv
import io
import json
import os
import signal
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from bad_images import write_bad_images
from serving import serving, write_run

from resnext_jax import cli
from resnext_jax.data import decode
from resnext_jax.data.walk import Folder
from resnext_jax.errors import BadInput

CLASSES = ("left", "right")

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are Unix's")


@pytest.fixture(autouse=True)
def _no_hang():
    """A pipe that is opened would block for ever."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(900)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def command(*words: object, code: int) -> tuple[str, str]:
    """What a command printed to standard output and to standard error."""
    ended = 0
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            cli.main([str(word) for word in words])
        except SystemExit as stop:
            ended = stop.code
    assert ended == code, err.getvalue()
    assert "\x1b" not in err.getvalue() + out.getvalue()
    assert "Warning" not in err.getvalue()
    return out.getvalue(), err.getvalue()


def readable(path: Path) -> bool:
    try:
        decode(path.read_bytes(), "")
    except (BadInput, OSError):
        return False
    return True


@pytest.mark.parametrize("count", [42, pytest.param(350, marks=pytest.mark.slow)])
def test_bad_images(tmp_path, tiny, count):
    data, run = tmp_path / "data", tmp_path / "run"
    write_bad_images(data, CLASSES, count)
    found = [name for name, _ in Folder(data).images]
    special = {f"left/{name}.jpg" for name in ("pipe", "null", "loop", "nowhere")}
    bad = {name for name in found if name in special or not readable(data / name)}
    assert special <= bad
    assert len(bad) > count / 4

    flags = {"model": tiny, "image-size": 16, "batch-size": 4, "lr": 0.01, "epochs": 1, "devices": 1}
    train = [
        "train",
        *(str(x) for k, v in flags.items() for x in ("--" + k, v)),
        "--out",
        run,
        "--data",
        data,
    ]
    _, err = command(*train, code=2)
    assert err.splitlines()[-1].startswith("error: ")
    assert not run.exists()
    _, err = command(*train, "--skip-bad-images", code=0)
    reported = (run / "bad_images.txt").read_text().splitlines()
    assert len(reported) == len(set(reported)) == len(bad)

    out, _ = command("evaluate", run, "--data", data, "--split", "all", "--skip-bad-images", "--json", code=0)
    assert json.loads(out)["images"] == len(found) - len(bad)
    command("predict", run, data, code=2)
    command("predict", run, data, "--skip-bad-images", "--csv", tmp_path / "rows.csv", code=0)
    with (tmp_path / "rows.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(found) - len(bad)

    if count < 100:
        return
    pytest.importorskip("starlette")
    small = write_run(tmp_path / "small")
    with serving("serve", small) as server:
        for name in found:
            if name in special:
                continue
            status, _ = server.send_files({"image": (data / name).read_bytes()})
            # What is read from a disk is not all read from the net: no animations, and fewer formats.
            assert status in ((400, 413, 415) if name in bad else (200, 413, 415)), name
        assert server.get("/health")
