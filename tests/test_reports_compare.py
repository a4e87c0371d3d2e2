"""Runs side by side: differences by a paired bootstrap, and what cannot be compared."""

from pathlib import Path

import numpy as np
import pytest
from small_models import labelled

from resnext_jax import BadInput, runs
from resnext_jax.inference import LabelledPredictions, differences
from resnext_jax.inference.bootstrap import resample
from resnext_jax.reports.compare import (
    Compared,
    check_comparable,
    compare,
    histories,
    print_comparison,
    short_names,
)
from resnext_jax.reports.curves import draw_validation

CLASSES = ("a", "b", "c")


def entry(name: str, skill: float, seed: int = 0, count: int = 80, classes=CLASSES, groups=None) -> Compared:
    """A run that is right more often the greater its skill; the images are equally hard for all."""
    hardness = np.random.default_rng(1).normal(size=count)
    rng = np.random.default_rng(seed)
    images = labelled(np.arange(count) % len(classes), classes, side=4)
    logits = rng.normal(size=(count, len(classes))) * 0.5
    logits += (skill + hardness)[:, None] * np.eye(len(classes))[images.labels]
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    predictions = LabelledPredictions(images, log_probabilities, classes, groups)
    return Compared(Path("checkpoints") / name, "resnet18", 1000, 10, predictions)


def test_differences_resample_by_resample():
    first, second = entry("x", 0.5).predictions, entry("y", 1.5, seed=2).predictions
    found = differences(first.results(), second.results())
    right = [p.log_probabilities.argmax(1) == p.labels for p in (first, second)]
    drawn = []
    for weights in resample(80):
        for row in weights.astype(int):
            chosen = np.repeat(np.arange(80), row)
            drawn.append(right[1][chosen].mean() - right[0][chosen].mean())
    value, interval = found["top1",]
    assert value == pytest.approx(right[1].mean() - right[0].mean())
    np.testing.assert_allclose(interval, np.quantile(drawn, [0.025, 0.975]), atol=1e-6)


def test_pairs_tell_more_than_two_intervals():
    """Of models that err on the same hard images the difference is known better than either accuracy."""
    rows = compare([entry("x", 0.5), entry("y", 0.9, seed=0)])
    low, high = rows[1]["difference"]["top1"]["interval"]
    widths = [np.diff(row["metrics"]["intervals"]["top1"])[0] for row in rows]
    assert high - low < min(widths)
    gained, lost = rows[1]["only_this_right"], rows[1]["only_first_right"]
    assert (gained - lost) / 80 == pytest.approx(rows[1]["difference"]["top1"]["value"])


def test_a_run_against_itself(capsys):
    rows = compare([entry("x", 0.5), entry("deep/x", 0.5)])
    assert rows[1]["difference"]["top1"] == {"value": 0, "interval": None}
    assert "difference" not in rows[0]
    print_comparison(rows)
    shown = capsys.readouterr().out
    assert "checkpoints/x" in shown
    assert "deep/x" in shown
    assert "balanced accuracy" in shown


def test_what_cannot_be_compared():
    first = entry("x", 1)
    with pytest.raises(BadInput, match=r"y: tells apart b, c, d; .*x tells apart a, b, c"):
        check_comparable(first, entry("y", 1, classes=("b", "c", "d")))
    with pytest.raises(BadInput, match=r"80 of its 90 images are among those of .*x; set data="):
        check_comparable(first, entry("y", 1, count=90))
    relabelled = entry("y", 1)
    relabelled.predictions.images.labels = (relabelled.predictions.labels + 1) % 3
    with pytest.raises(BadInput, match="set data="):
        check_comparable(first, relabelled)
    check_comparable(first, entry("y", 5, seed=9))


def test_names_are_as_long_as_it_takes():
    assert short_names(["/a/b/run", "/a/c/run"]) == ["b/run", "c/run"]
    assert short_names(["/a/one", "/b/two"]) == ["one", "two"]
    assert short_names(["/a/same", "/a/same"]) == ["/a/same", "/a/same"]


def test_curves_of_runs_that_have_them(tmp_path):
    row = {"epoch": 1, "step": 3, "val_loss": 0.5, "val_top1": 0.7}
    for name, count in (("one", 3), ("two", 2), ("converted", 0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"config": {"monitor": "loss"}}')
        runs.write_history(tmp_path / name, [row | {"epoch": i + 1} for i in range(count)])
    found = histories([tmp_path / "one", tmp_path / "two", tmp_path / "converted"])
    assert [(name, len(history), monitor) for name, history, monitor in found] == [
        ("one", 3, "loss"),
        ("two", 2, "loss"),
    ]
    draw_validation(found, tmp_path / "curves.svg")
    assert (tmp_path / "curves.svg").stat().st_size > 5000
    with pytest.raises(BadInput, match="no history"):
        draw_validation([], tmp_path / "none.png")
