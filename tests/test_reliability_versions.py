"""Runs that another version wrote, or that go on with other packages or on another number of devices."""

import json
import os
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import resnext_jax as rj
from resnext_jax.models import VARIANTS, ResNetConfig
from resnext_jax.runs import read_config
from resnext_jax.training import fit, saved_config

# A run of one epoch, of format 2 (version 0.1.0, jax 0.10.2, Python 3.11), whose second epoch is known.
STORED = Path(__file__).with_name("run_format_2.tar.xz")
SECOND_LOSS = 1.1094417572021484

CODE = """
import sys
from resnext_jax.models import VARIANTS, ResNetConfig
VARIANTS["tiny"] = ResNetConfig("basic", (1,), stem="deep", stem_width=8, planes=(16,))
from resnext_jax.cli import main
main(sys.argv[1:])
"""


@pytest.fixture
def stored(tmp_path, monkeypatch) -> Path:
    monkeypatch.setitem(
        VARIANTS, "tiny", ResNetConfig("basic", (1,), stem="deep", stem_width=8, planes=(16,))
    )
    with tarfile.open(STORED) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "format_2"


def go_on(run: Path, **options: object) -> list[dict]:
    return fit(replace(saved_config(run), out=run, resume=True, **options), quiet=True).history


def test_a_run_of_this_format_is_read_evaluated_and_resumed(stored):
    predictor = rj.load_run(stored)
    [row] = [json.loads(line) for line in (stored / "history.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(predictor.evaluate("val")["loss"], row["val_loss"], rtol=1e-4)
    first, second = go_on(stored, epochs=2)
    assert first["train_loss"] == row["train_loss"]
    np.testing.assert_allclose(second["val_loss"], SECOND_LOSS, rtol=1e-3)
    assert read_config(stored)["format"] == 2


def test_from_four_devices_to_one_and_two_and_back(stored):
    for epochs, devices in enumerate((4, 1, 2, 4), start=2):
        history = go_on(stored, epochs=epochs, devices=devices)
        assert len(history) == epochs
    np.testing.assert_allclose(history[1]["val_loss"], SECOND_LOSS, rtol=1e-3)


@pytest.mark.slow
def test_with_other_packages_and_back(stored):
    """Another Python with another jax goes on with the run, evaluates it, and gives it back."""
    other = os.environ.get("RESNEXT_JAX_OTHER_PYTHON")
    if not other:
        pytest.skip("RESNEXT_JAX_OTHER_PYTHON names no other Python, such as .venv-py312/bin/python")
    versions = []
    for epochs, python in enumerate((other, sys.executable, other), start=2):
        command = ["train", "--resume", "--out", str(stored), "--epochs", str(epochs)]
        for words in (command, ["evaluate", str(stored), "--json"]):
            done = subprocess.run(
                [python, "-c", CODE, *words], capture_output=True, text=True, timeout=600, check=False
            )
            assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in (stored / "history.jsonl").read_text().splitlines()]
        assert len(rows) == epochs
        versions.append(read_config(stored)["resumed"]["versions"]["jax"])
    assert versions[0] == versions[2] != versions[1]
    np.testing.assert_allclose(rows[1]["val_loss"], SECOND_LOSS, rtol=1e-3)
