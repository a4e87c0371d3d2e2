"""Metrics against definitions written out in another way, and the picture of the confusion matrix."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from resnext_jax.inference.classification import (
    calibration_error,
    classification_report,
    confusion_matrix,
    make_results,
    weighted_areas,
)
from resnext_jax.reports.confusion import draw_confusion


def report_of(*arguments) -> dict:
    return classification_report(make_results(*arguments))


def areas(positive: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    roc, average = weighted_areas(positive, scores, np.ones((1, len(scores))))
    return float(roc[0]), float(average[0])


def predictions(seed: int, count: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(classes), count)
    return np.log(probabilities).astype(np.float32), rng.integers(0, classes, count)


@given(st.integers(0, 1000), st.integers(1, 40), st.integers(2, 6))
def test_scores_of_each_class_by_counting(seed, count, classes):
    log_probabilities, labels = predictions(seed, count, classes)
    names = [f"class {i}" for i in range(classes)]
    report = report_of(log_probabilities, labels, names)
    predicted = [max(range(classes), key=lambda k, row=row: row[k]) for row in log_probabilities]
    pairs = list(zip(labels.tolist(), predicted, strict=True))
    for i, name in enumerate(names):
        hits = sum(t == p == i for t, p in pairs)
        found, actual = sum(p == i for _, p in pairs), sum(t == i for t, _ in pairs)
        precision = hits / found if found else 0.0
        recall = hits / actual if actual else 0.0
        f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
        expected = {"precision": precision, "recall": recall, "f1": f1, "support": actual}
        assert report["per_class"][name] == pytest.approx(expected)
        assert report["confusion"][i] == [sum(pair == (i, j) for pair in pairs) for j in range(classes)]
    # Classes that the images lack are not held against the model.
    present = [values for values in report["per_class"].values() if values["support"]]
    for score in ("precision", "recall", "f1"):
        expected = sum(values[score] for values in present) / len(present)
        assert report["macro"][score] == pytest.approx(expected)
    assert report["balanced_accuracy"] == pytest.approx(report["macro"]["recall"])
    assert ("sensitivity" in report) == (classes == 2)
    json.dumps(report)


@given(st.integers(0, 1000), st.integers(3, 40))
def test_areas_of_several_classes_are_means_of_one_against_the_rest(seed, count):
    log_probabilities, labels = predictions(seed, count, 4)
    report = report_of(log_probabilities, labels, list("abcd"))
    each = np.array([areas(labels == i, log_probabilities[:, i]) for i in range(4)])
    for name, values in zip(("roc_auc", "pr_auc"), each.T, strict=True):
        known = values[np.isfinite(values)]
        assert report[name] == pytest.approx(known.mean()) if len(known) else math.isnan(report[name])


@given(arrays.arrays(np.bool_, 12), arrays.arrays(np.int64, 12, elements=st.integers(0, 5)))
def test_roc_auc_by_comparing_all_pairs(positive, scores):
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    found, _ = areas(positive, scores.astype(float))
    assert math.isnan(found) if not pairs else found == pytest.approx(np.mean(pairs))


def test_roc_auc_is_the_area_under_the_curve():
    rng = np.random.default_rng(0)
    positive = rng.random(300) < 0.3
    scores = np.round(rng.normal(size=300) + positive, 1)  # with ties
    thresholds = np.concatenate([[np.inf], np.sort(np.unique(scores))[::-1]])
    hits = [(scores[positive] >= t).mean() for t in thresholds]
    alarms = [(scores[~positive] >= t).mean() for t in thresholds]
    assert areas(positive, scores)[0] == pytest.approx(np.trapezoid(hits, alarms))


@given(arrays.arrays(np.bool_, 12), arrays.arrays(np.int64, 12, elements=st.integers(0, 5)))
def test_average_precision_threshold_by_threshold(positive, scores):
    _, found = areas(positive, scores.astype(float))
    if positive.all() or not positive.any():
        assert math.isnan(found)
        return
    expected, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = scores >= threshold
        recall = (positive & taken).sum() / positive.sum()
        expected += (recall - before) * (positive & taken).sum() / taken.sum()
        before = recall
    assert found == pytest.approx(expected)


@given(st.integers(0, 1000))
def test_areas_of_weighted_samples_are_those_of_repeated_examples(seed):
    rng = np.random.default_rng(seed)
    positive, scores = rng.random(15) < 0.5, rng.integers(0, 6, 15).astype(float)
    weights = rng.integers(0, 4, (3, 15))
    found = np.array(weighted_areas(positive, scores, weights)).T
    for row, values in zip(weights, found, strict=True):
        if row.any():
            expected = areas(np.repeat(positive, row), np.repeat(scores, row))
            np.testing.assert_allclose(values, expected)


def test_two_classes_and_which_is_to_be_detected():
    labels = np.array([0, 0, 0, 1])
    log_probabilities = np.log([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
    second = report_of(log_probabilities, labels, ("ill", "well"))
    assert (second["positive"], second["sensitivity"], second["specificity"]) == ("well", 1, 2 / 3)
    first = report_of(log_probabilities, labels, ("ill", "well"), "ill")
    assert (first["positive"], first["sensitivity"], first["specificity"]) == ("ill", 2 / 3, 1)
    assert first["roc_auc"] == pytest.approx(second["roc_auc"]) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="positive='sick': expected one of two classes; there are ill, well"):
        report_of(log_probabilities, labels, ("ill", "well"), "sick")


@pytest.mark.parametrize("bins", [1, 5, 15])
def test_calibration_error_bin_by_bin(bins):
    rng = np.random.default_rng(0)
    confidences = np.concatenate([rng.random(200), [0.0, 0.2, 0.4, 1.0]])
    correct = rng.random(204) < confidences**2
    expected = 0.0
    for i in range(bins):
        inside = (confidences > i / bins) & (confidences <= (i + 1) / bins)
        if i == 0:
            inside |= confidences == 0
        if inside.any():
            expected += inside.mean() * abs(confidences[inside].mean() - correct[inside].mean())
    assert calibration_error(confidences, correct, bins) == pytest.approx(expected)


@pytest.mark.parametrize("classes", [2, 25, 80])
def test_confusion_matrix_is_drawn(tmp_path, classes):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, 500)
    matrix = confusion_matrix(labels, np.where(rng.random(500) < 0.8, labels, 0), classes)
    draw_confusion(matrix, [f"猴痘 $x_{i}^" for i in range(classes)], tmp_path / "deep" / "confusion.png")
    image = np.asarray(Image.open(tmp_path / "deep" / "confusion.png").convert("RGB"))
    # The diagonal is dark blue: far from white, and from the grey of text.
    assert ((image[..., 2] > 80) & (image[..., 0] < 60)).mean() > 0.002
