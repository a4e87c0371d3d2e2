"""How far metrics of few images can be trusted: confidence intervals by resampling the images."""

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from resnext_jax.inference.classification import Metric, Results, statistics

RESAMPLES = 1000
LEVEL = 0.95


def resample(count: int, groups: Sequence[str] | None = None, seed: int = 0) -> Iterator[np.ndarray]:
    """Samples of images, drawn with replacement, in parts.

    Args:
        count: N, the images.
        groups: the group of each image (a patient); groups are then drawn whole, as their images tell less
            than as many independent ones.
        seed: of the draws.

    Yields:
        How often each image is in each of some samples, float32 [B, N]; `RESAMPLES` samples in all.
    """
    rng = np.random.default_rng(seed)
    units, unit = (count, None) if groups is None else _number(groups)
    size = max(1, min(RESAMPLES, 2_000_000 // count))
    for start in range(0, RESAMPLES, size):
        rows = min(size, RESAMPLES - start)
        drawn = rng.integers(0, units, (rows, units)) + units * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units)
        yield (weights if unit is None else weights[:, unit]).astype(np.float32)


def intervals(results: Results, groups: Sequence[str] | None = None) -> dict[str, Any]:
    """95 % confidence intervals of the metrics, by the percentiles of `RESAMPLES` resamples.

    Resampling learns nothing from images that are all right or all wrong. Such a proportion (accuracy,
    recall, precision) gets Wilson's interval of as many images, or groups.

    Args:
        results: of N images.
        groups: as in `resample`.

    Returns:
        Nested as in the report: [low, high] for every metric, None if nothing can be said.

    Example:
        >>> from resnext_jax.inference import make_results
        >>> labels = np.arange(40) % 2
        >>> log_probabilities = np.log(np.where(np.arange(40)[:, None] < 30, [0.8, 0.2], [0.3, 0.7]))
        >>> low, high = intervals(make_results(log_probabilities, labels, ("cat", "dog")))["top1"]
        >>> low < 0.5 < high
        True
    """
    parts = [statistics(results, weights) for weights in resample(len(results.labels), groups)]
    whole = statistics(results, np.ones((1, len(results.labels)), np.float32))
    found: dict[str, Any] = {}
    for metric, [value] in whole.items():
        samples = np.concatenate([part[metric] for part in parts])
        bounds = percentiles(samples)
        if value in (0, 1) and (images := _images_of(metric, results)) is not None:
            kept = range(len(images)) if groups is None else [groups[int(i)] for i in np.flatnonzero(images)]
            bounds = wilson(float(value), int(images.sum()) if groups is None else len(set(kept)))
        place = found
        for name in metric[:-1]:
            place = place.setdefault(name, {})
        place[metric[-1]] = bounds
    return found


def differences(
    first: Results, second: Results, groups: Sequence[str] | None = None
) -> dict[Metric, tuple[float, list[float] | None]]:
    """How much better or worse a second model is on the same images, by a paired bootstrap.

    Both models are given the same resamples, so that what makes some images harder for both cancels.

    Args:
        first: of N images.
        second: of the same images, in the same order.
        groups: as in `resample`.

    Returns:
        For each metric of `statistics`: second minus first, and its 95 % interval; None if the difference is
        the same in all resamples.
    """
    count = len(first.labels)
    whole = np.ones((1, count), np.float32)
    parts = [(statistics(first, weights), statistics(second, weights)) for weights in resample(count, groups)]
    before, after = statistics(first, whole), statistics(second, whole)
    found = {}
    for metric in before:
        samples = np.concatenate([b[metric] - a[metric] for a, b in parts])
        found[metric] = (float(after[metric][0] - before[metric][0]), percentiles(samples))
    return found


def percentiles(samples: np.ndarray) -> list[float] | None:
    """The middle `LEVEL` of samples; None if they are all the same, or none is a number."""
    samples = samples[np.isfinite(samples)]
    if not len(samples) or samples.min() == samples.max():
        return None
    return np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()


def wilson(share: float, count: int) -> list[float] | None:
    """Wilson's score interval of a proportion (Wilson 1927), which is useful even for a proportion of 0 or 1.

    Example:
        >>> [round(bound, 3) for bound in wilson(1.0, 10)]
        [0.722, 1.0]
    """
    if not count:
        return None
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    middle = share + z**2 / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    low, high = ((middle + sign * spread) / (1 + z**2 / count) for sign in (-1, 1))
    return [max(low, 0.0), min(high, 1.0)]


def _images_of(metric: Metric, results: Results) -> np.ndarray | None:
    """Of a proportion, which images it is about, bool [N]; None of any other metric."""
    labels, predicted = results.labels, results.predicted
    match metric:
        case ("top1" | "top5",):
            return np.ones(len(labels), bool)
        case ("sensitivity",):
            return labels == results.positive
        case ("specificity",):
            return labels != results.positive
        case ("per_class", name, "recall"):
            return labels == results.classes.index(name)
        case ("per_class", name, "precision"):
            return predicted == results.classes.index(name)
    return None


def _number(groups: Sequence[str]) -> tuple[int, np.ndarray]:
    """How many groups there are, and the number of each image's."""
    names, unit = np.unique(np.asarray(groups), return_inverse=True)
    return len(names), unit
