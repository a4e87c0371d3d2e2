"""Confidence intervals: against loops over resamples, exact probabilities, and what they promise."""

import math

import numpy as np
import pytest

from resnext_jax.inference.bootstrap import RESAMPLES, intervals, percentiles, resample, wilson
from resnext_jax.inference.classification import classification_report, make_results, statistics

CLASSES = ("a", "b", "c", "d", "e", "f", "g")


def results(count: int, classes: int, seed: int = 0, skill: float = 1.0):
    """Of a classifier that is better than chance."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, classes)) + skill * np.eye(classes)[labels]
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return make_results(log_probabilities.astype(np.float32), labels, CLASSES[:classes])


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_metrics_of_weighted_samples_are_those_of_repeated_images(classes):
    """Each resample as a data set of its own."""
    given = results(30, classes)
    weights = np.concatenate(list(resample(30)))[:20]
    found = statistics(given, weights)
    for b, row in enumerate(weights.astype(int)):
        repeated = make_results(
            np.repeat(given.log_probabilities, row, 0), np.repeat(given.labels, row), given.classes
        )
        report = classification_report(repeated)
        assert found["balanced_accuracy",][b] == pytest.approx(report["balanced_accuracy"])
        assert found["macro", "f1"][b] == pytest.approx(report["macro"]["f1"])
        assert found["top1",][b] == pytest.approx((repeated.predicted == repeated.labels).mean())
        assert found["loss",][b] == pytest.approx(repeated.losses.mean())
        for name, values in report["per_class"].items():
            if values["support"]:
                assert found["per_class", name, "recall"][b] == pytest.approx(values["recall"])
                assert found["per_class", name, "precision"][b] == pytest.approx(values["precision"])
            else:
                assert math.isnan(found["per_class", name, "recall"][b])
        if classes == 2:
            for name in ("sensitivity", "specificity", "roc_auc", "pr_auc"):
                assert found[name,][b] == pytest.approx(report[name], nan_ok=True)
    assert (("top5",) in found) == (classes > 5)


def test_resamples_draw_images_with_replacement():
    weights = np.concatenate(list(resample(25)))
    assert weights.shape == (RESAMPLES, 25)
    assert (weights.sum(1) == 25).all()
    # Of one image, in one resample: mean 1, and a share of (1 - 1/25)^25 of them lack it.
    np.testing.assert_allclose(weights.mean(0), 1, atol=5 / math.sqrt(RESAMPLES))
    assert (weights == 0).mean() == pytest.approx((24 / 25) ** 25, abs=0.01)
    np.testing.assert_array_equal(weights, np.concatenate(list(resample(25))))


def test_many_images_are_drawn_in_parts():
    parts = list(resample(30_000))
    assert len(parts) > 10
    assert sum(map(len, parts)) == RESAMPLES
    assert all((part.sum(1) == 30_000).all() for part in parts)


def test_groups_are_drawn_whole():
    groups = [f"P{i // 3}" for i in range(12)]
    weights = np.concatenate(list(resample(12, groups)))
    by_group = weights.reshape(RESAMPLES, 4, 3)
    assert (by_group == by_group[:, :, :1]).all()
    assert (by_group[:, :, 0].sum(1) == 4).all()


def test_the_interval_of_accuracy_is_the_binomials():
    """Resampling independent images is drawing from a binomial distribution."""
    given = results(200, 3)
    right = int((given.predicted == given.labels).sum())
    low, high = intervals(given)["top1"]
    total = np.cumsum(
        [math.comb(200, k) * (right / 200) ** k * (1 - right / 200) ** (200 - k) for k in range(201)]
    )
    exact = [np.searchsorted(total, q) / 200 for q in (0.025, 0.975)]
    np.testing.assert_allclose([low, high], exact, atol=0.012)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Small data sets from one classifier, whose true accuracy is that on many images."""
    many = results(100_000, 3, seed=99)
    truth = statistics(many, np.ones((1, 100_000)))
    covered = dict.fromkeys((("top1",), ("macro", "f1"), ("balanced_accuracy",)), 0)
    for seed in range(100):
        found = intervals(results(60, 3, seed))
        for metric in covered:
            low, high = found[metric[0]] if len(metric) == 1 else found["macro"]["f1"]
            covered[metric] += low <= truth[metric][0] <= high
    # 95 of 100 in the mean; under 85 happens once in 20,000 times if that is so.
    assert all(count >= 85 for count in covered.values()), covered


def test_copies_of_few_patients_tell_no_more_than_the_patients():
    one = results(40, 2)
    copies = make_results(np.repeat(one.log_probabilities, 10, 0), np.repeat(one.labels, 10), one.classes)
    groups = [f"P{i // 10}" for i in range(400)]

    def width(bounds):
        return bounds[1] - bounds[0]

    alone, naive, grouped = (
        intervals(given, names)["top1"] for given, names in ((one, None), (copies, None), (copies, groups))
    )
    assert width(grouped) == pytest.approx(width(alone), rel=0.15)
    assert width(naive) < 0.5 * width(alone)


def test_all_right_is_not_certainty():
    given = results(50, 3, skill=100)
    found = intervals(given)
    low, high = found["top1"]
    assert high == 1
    assert low == pytest.approx(50 / (50 + 1.959964**2))  # Wilson's interval of 50 out of 50
    count = int((given.labels == 1).sum())
    assert found["per_class"]["b"]["recall"][0] == pytest.approx(count / (count + 1.959964**2))
    assert found["macro"]["f1"] is None  # every resample has the same
    groups = ["x", "y"] * 25
    assert intervals(given, groups)["top1"][0] == pytest.approx(2 / (2 + 1.959964**2))


def test_a_class_without_images_has_no_interval():
    given = make_results(results(30, 3).log_probabilities, np.arange(30) % 2, CLASSES[:3])
    found = intervals(given)
    assert found["per_class"]["c"]["recall"] is None
    assert found["macro"]["recall"] is not None


@pytest.mark.parametrize(("share", "count"), [(0.3, 20), (0.0, 7), (1.0, 7), (0.95, 100)])
def test_wilson_solves_its_equation(share, count):
    """Its ends are the shares from which what was seen is 1.96 standard errors away."""
    for end in wilson(share, count):
        if 0 < end < 1:
            error = math.sqrt(end * (1 - end) / count)
            assert abs(share - end) == pytest.approx(1.959964 * error, rel=1e-5, abs=1e-6)
        else:
            assert end == pytest.approx(share, abs=1e-9)
    assert wilson(0.5, 0) is None


def test_percentiles_leave_out_what_is_no_number():
    assert percentiles(np.array([np.nan, *range(101)])) == pytest.approx([2.5, 97.5])
    assert percentiles(np.array([np.nan, np.nan])) is None
    assert percentiles(np.ones(9)) is None
