"""Whole runs under the options that change what is kept, when a run stops, and what is refused."""

import re
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest

import resnext_jax as rj
from resnext_jax import cli
from resnext_jax.runs import Checkpoints, best_row, read_best
from resnext_jax.weights import convert, read_weights
from resnext_jax.weights.state_dict import from_trees


@pytest.fixture
def config(small_run) -> rj.TrainConfig:
    return replace(small_run, epochs=2)


def same(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_the_average_is_validated_saved_and_exported(config, tmp_path):
    result = rj.fit(replace(config, ema_decay=0.9), quiet=True)
    predictor = rj.load_run(config.out, "latest")
    assert predictor.evaluate("val")["loss"] == pytest.approx(result.history[-1]["val_loss"], rel=1e-5)
    with Checkpoints(config.out) as checkpoints:
        average, best = (checkpoints.read_model(checkpoints.step_of(w)) for w in ("latest", "best"))
    _, exported, _ = read_best(config.out)
    assert same(exported, best)
    convert(config.out, tmp_path / "average.safetensors")
    written = read_weights(tmp_path / "average.safetensors")
    for name, values in from_trees(best["params"], best["batch_stats"]).items():
        np.testing.assert_array_equal(written[name], values)
    rj.fit(replace(config, overwrite=True), quiet=True)
    with Checkpoints(config.out) as checkpoints:
        last = checkpoints.read_model(checkpoints.step_of("latest"))
    assert not same(average, last)  # the very same steps without averaging


def test_a_run_stops_early_and_keeps_its_best(config, monkeypatch, capsys):
    losses = iter([0.9, 0.5, 0.7, 0.6, 0.1])
    fit_module = sys.modules["resnext_jax.training.fit"]
    monkeypatch.setattr(fit_module, "mean_metrics", lambda *_: {"loss": next(losses), "top1": 0.5})
    stopping = replace(config, epochs=9, early_stop=2, monitor="loss")
    result = rj.fit(stopping)
    assert "stopped early: no better epoch than 2 in 2" in capsys.readouterr().out
    assert result.summary["epochs"] == 4
    assert result.summary["best_epoch"] == best_row(result.history, "loss")["epoch"] == 2
    assert rj.load_run(config.out).step == 2 * 4
    # It stays stopped, unless it is given more patience.
    assert rj.fit(replace(stopping, resume=True), quiet=True).summary["epochs"] == 4
    patient = replace(stopping, resume=True, early_stop=3, epochs=5)
    assert rj.fit(patient, quiet=True).summary["best_epoch"] == 5


def test_bfloat16_learns_as_float32_does(config):
    """The curves of one seed are no further apart than those of two seeds are."""

    def curve(**changes) -> np.ndarray:
        run = replace(config, epochs=6, overwrite=True, **changes)
        return np.array([row["train_loss"] for row in rj.fit(run, quiet=True).history])

    reference = curve()
    noise = np.abs(curve(seed=1) - reference).mean()
    low = np.abs(curve(dtype="bfloat16") - reference).mean()
    assert low < noise
    assert reference[-1] < reference[0] - noise


CONTRADICTIONS = {
    "plateau_patience=3 with schedule='cosine': it has no effect": {
        "schedule": "cosine",
        "plateau_patience": 3,
    },
    "plateau_factor=0.5 with schedule='constant'": {"plateau_factor": 0.5},
    "min_lr=0.001 with schedule='constant'": {"min_lr": 0.001},
    "expected less than the learning rate, lr=0.02": {"min_lr": 0.5, "schedule": "cosine"},
    "warmup_epochs=1 with schedule='onecycle': choose one": {"schedule": "onecycle", "warmup_epochs": 1},
    "momentum=0.5 with optimizer='adam'": {"optimizer": "adam", "momentum": 0.5},
    "class_weights='balanced' with mixup=0.2": {"class_weights": "balanced", "mixup": 0.2},
    "with balanced_sampler=True: choose one": {"class_weights": (1.0, 2.0), "balanced_sampler": True},
    "expected 'balanced' or several finite numbers": {"class_weights": "even"},
    "3 weights": {"class_weights": (1.0, 2.0, 3.0)},
    "accumulate=3: expected a divisor of batch_size=4": {"accumulate": 3},
    "batch_size=4: expected a multiple of 8 (4 devices with accumulate=2)": {"accumulate": 2, "devices": 4},
    "expected a multiple of 8 (pairs to mix on 4 devices)": {"mixup": 0.2, "devices": 4},
    "ema_decay=1": {"ema_decay": 1.0},
    "label_smoothing=1": {"label_smoothing": 1.0},
    "early_stop=0": {"early_stop": 0},
    "clip_grad_norm=0": {"clip_grad_norm": 0.0},
    "schedule='linear': expected one of constant": {"schedule": "linear"},
    "monitor='accuracy'": {"monitor": "accuracy"},
    "val_fraction=0.3: choose one": {"fold": (0, 3), "val_fraction": 0.3},
    "fold=(3, 3): expected a part": {"fold": (3, 3)},
    "pad_crop=16: expected less than image_size=16": {"pad_crop": 16},
    "resize_size=8: expected a number of at least image_size=16": {"resize_size": 8},
    "milestones=(3, 2): expected rising epochs": {"schedule": "step", "milestones": (3, 2)},
    "schedule='step' without milestones": {"schedule": "step"},
    "seed=4294967296: expected a number of at least 0 and at most 4294967295": {"seed": 2**32},
    "milestones=(3000000000,): expected a number of at least 1 and at most 1000000": {
        "schedule": "step",
        "milestones": (3_000_000_000,),
    },
    "cache_gib=inf: expected a finite number": {"cache_gib": float("inf")},
    "lr=nan: expected a finite number": {"lr": float("nan")},
    "batch_size='4': expected a whole number": {"batch_size": "4"},
    "epochs=True: expected a whole number": {"epochs": True},
    "batch_size=9223372036854775808: expected a whole number of 64 bits": {"batch_size": 2**63},
    "process_id=0 without coordinator": {"process_id": 0},
    "flip=1: expected True or False": {"flip": 1},
    "model=3: expected a text": {"model": 3},
    "freeze='backbone': expected several texts": {"freeze": "backbone", "weights": "x"},
    "fold=(1, 2, 3): expected 2 whole numbers": {"fold": (1, 2, 3)},
}


@pytest.mark.parametrize(("message", "changes"), CONTRADICTIONS.items())
def test_contradictions_are_refused(config, monkeypatch, message, changes):
    monkeypatch.setattr(
        sys.modules["resnext_jax.training.setup"], "read_images", lambda *_, **__: pytest.fail("data read")
    )
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        rj.fit(replace(config, **changes), quiet=True)
    assert "\n" not in str(caught.value)
    assert not config.out.exists()


FLAGS = {
    "--plateau-patience=3 with --schedule='cosine'": "--schedule cosine --plateau-patience 3",
    "--val-fraction=0.0: expected a number above 0 and below 1": "--early-stop 3 --val-fraction 0",
    "--class-weights='balanced' with --mixup=0.2": "--class-weights balanced --mixup 0.2",
    "--class-weights=(1.0, 2.0) with --mixup=0.0 and --cutmix=1.0": "--class-weights 1 2 --cutmix 1",
    "--accumulate=3: expected a divisor of --batch-size=32": "--accumulate 3",
    "unknown model 'resnext51'": "--model resnext51",
    "invalid choice 'lion'": "--optimizer lion",
    "invalid choice 'linear'": "--schedule linear",
    "invalid choice 'accuracy'": "--monitor accuracy",
    "invalid choice 'wrap'": "--rotate 5 --fill wrap",
    "invalid choice 'autoaugment'": "--auto autoaugment",
    "class-weights": "--class-weights even",
}


@pytest.mark.parametrize(("message", "flags"), FLAGS.items())
def test_the_command_refuses_before_it_looks_for_data(message, flags, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(
            ["train", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run"), *flags.split()]
        )
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert "does not exist" not in error
