"""Every experiment runs, on demo and on real data, and what it promises is there afterwards."""

import json
import os
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import results_page
from PIL import Image

from resnext_jax.data import prepare_tfds
from resnext_jax.training import saved_config

FOLDER = Path(__file__).resolve().parents[1] / "experiments"
# With --smoke each takes less than a minute; with a tiny model, seconds.
EXPERIMENTS = {
    "monkeypox_resnext50": (),
    "cifar10_resnet18": (),
    "transfer_resnext50": (),
    "monkeypox_resnext50_sgd": (),
    "folders_resnext50_full": (),
    "cifar10_resnext29": (),
    "imagenet_resnext50": ("v2",),
    "monkeypox_crossval": (),
}


SCRIPTS = [path for path in sorted(FOLDER.rglob("*.py")) if '__name__ == "__main__"' in path.read_text()]


@pytest.mark.slow  # seconds each, in a process of its own
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_starts_as_its_header_says(script, tmp_path):
    """By its path, with nothing set: also those that use another script."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONPATH": str(FOLDER.parent)}  # of the package, where it is not installed
    command = [sys.executable, str(script), "--help"]
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "usage" in ended.stdout


@pytest.fixture
def smoke(tiny, tmp_path, monkeypatch):
    """Runs a script in this process, on one device; returns its run directory."""

    def call(name: str, *arguments: object) -> Path:
        flags = ["--smoke", "--model", tiny, "--devices", "1", "--out", tmp_path / name, *arguments]
        argv = [f"{name}.py", *EXPERIMENTS[name], *map(str, flags)]
        monkeypatch.setattr(sys, "argv", argv)
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        return tmp_path / name

    return call


@pytest.mark.parametrize(
    "name",
    [
        "monkeypox_resnext50",
        "cifar10_resnet18",
        "monkeypox_resnext50_sgd",
        "cifar10_resnext29",
        "imagenet_resnext50",
    ],
)
def test_it_trains_and_evaluates(smoke, name, capsys):
    out = smoke(name)
    shown = capsys.readouterr().out
    assert "best epoch" in shown
    assert (out / "curves.png").is_file()
    evaluation = json.loads((out / "evaluation.json").read_text())
    summary = json.loads((out / "summary.json").read_text())
    assert evaluation["val"]["top1"] == summary["best_val_top1"]
    assert evaluation["val"]["images"] == summary["val_images"] == 33
    if name == "monkeypox_resnext50_sgd":
        assert "images/" in shown  # the image that is predicted


def test_folders_leaves_its_reports_and_resumes(smoke, capsys):
    out = smoke("folders_resnext50_full")
    shown = capsys.readouterr().out
    assert "multiply-adds" in shown
    for picture in ("predictions.png", "confusion.png"):
        assert Image.open(out / picture).size[0] > 300
    assert list((out / "tensorboard").iterdir())
    evaluation = json.loads((out / "evaluation.json").read_text())
    assert [metrics["images"] for metrics in evaluation.values()] == [33, 150]
    assert "test, 150 images" in shown
    resumed = smoke("folders_resnext50_full", "--resume", "--epochs", 2)
    assert len((resumed / "history.jsonl").read_text().splitlines()) == 2


def test_transfer_takes_a_runs_weights_and_predicts_a_folder(smoke, tmp_path, capsys):
    pretrained = smoke("monkeypox_resnext50_sgd")
    out = smoke("transfer_resnext50", "--weights", pretrained, "--freeze", "backbone")
    rows = (out / "predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + 18
    assert Image.open(out / "predictions.png").size[0] > 300
    assert "trained: " in capsys.readouterr().out


def test_crossval_tests_every_fold_and_goes_on(smoke, capsys):
    out = smoke("monkeypox_crossval")
    result = json.loads((out / "crossval.json").read_text())
    assert len(result["accuracies"]) == 2
    assert saved_config(out / "fold1").fold == (1, 2)
    capsys.readouterr()
    smoke("monkeypox_crossval", "--no-overwrite")
    assert capsys.readouterr().out.count(" is finished: 1 epoch") == 2
    assert json.loads((out / "crossval.json").read_text()) == result


def test_crossval_tests_on_the_original_photos(smoke, tmp_path, capsys):
    rng = np.random.default_rng(0)
    archive, photos = tmp_path / "archive", [f"{c}{p:02}_01" for c in ("M", "NM") for p in range(4)]
    for kind, copies in (("Original Images", [""]), ("Augmented Images", ["_00", "_01", "_02"])):
        for photo in photos:
            folder = archive / kind / ("Monkeypox" if photo[0] == "M" else "Others")
            folder.mkdir(parents=True, exist_ok=True)
            for copy in copies:
                pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{photo}{copy}.jpg")
    for config in ("original", "augmented"):
        prepare_tfds(f"tfds:monkeypox/{config}", tmp_path / "tfds", archive)
    flags = ["--data", "tfds:monkeypox/augmented", "--data-dir", tmp_path / "tfds", "--batch-size", 4]
    smoke("monkeypox_crossval", *flags, "--group-by", r"^(N?M\d+)_", "--image-size", 16)
    shown = capsys.readouterr().out
    assert "12 training and 12 validation images" in shown
    for fold in (0, 1):
        assert re.search(rf"fold {fold}: \d+\.00 % of 4 original photos", shown)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_smoke_takes_less_than_a_minute_and_a_half(name, tmp_path):
    environment = os.environ | {"XLA_FLAGS": "", "RESNEXT_JAX_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, FOLDER / f"{name}.py", *EXPERIMENTS[name], "--smoke", "--out", tmp_path / name]
    start = time.monotonic()
    subprocess.run(command, env=environment, check=True)
    assert time.monotonic() - start < 90


@pytest.mark.needs_data
@pytest.mark.parametrize("name", ["monkeypox_resnext50", "cifar10_resnext29"])
def test_it_trains_on_real_data(smoke, shared_data, name, capsys):
    data = {
        "monkeypox_resnext50": ("--data", shared_data / "monkeypox"),
        "cifar10_resnext29": ("--data", "tfds:cifar10", "--data-dir", shared_data / "tfds"),
    }
    smoke(name, *data[name])
    assert "training and" in capsys.readouterr().out


def test_bad_input_is_one_line(smoke, capsys):
    with pytest.raises(SystemExit) as stop:
        smoke("monkeypox_resnext50", "--lr", "-1")
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: --lr=-1.0: expected a number above 0")


def test_the_results_page_shows_the_records():
    assert results_page.tables() in (FOLDER / "README.md").read_text()


def test_records_of_runs_become_rows(smoke, tmp_path, monkeypatch):
    monkeypatch.setattr(results_page, "RESULTS", tmp_path / "results")
    out = smoke("monkeypox_crossval", "--batch-size", "8")
    for fold in (1, 0, 1):  # one of them twice
        results_page.keep(results_page.record(out / f"fold{fold}"))
    records = json.loads((tmp_path / "results" / "monkeypox_crossval.json").read_text())
    assert [each["fold"] for each in records] == [0, 1]
    accuracies = json.loads((out / "crossval.json").read_text())["accuracies"]
    assert [100 * each["best_val_top1"] for each in records] == pytest.approx(accuracies, abs=0.01)
    command = records[0]["command"]
    assert "--out" not in command
    assert str(tmp_path) not in command
    assert command.endswith("--batch-size 8")
    (row,) = [line for line in results_page.tables().splitlines() if "| 2 folds |" in line]
    mean, deviation = np.mean(accuracies), np.std(accuracies, ddof=1)
    assert f"| 82.96 ± 4.57 % | {mean:.1f} ± {deviation:.1f} % |" in row
