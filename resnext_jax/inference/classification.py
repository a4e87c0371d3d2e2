"""What a classifier gets right and wrong, class by class, and what its probabilities are worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from resnext_jax.errors import BadInput

Metric = tuple[str, ...]
"""Where a metric stands in a report: ("top1",), ("per_class", "ring", "recall")."""


@dataclass(frozen=True)
class Results:
    """What is known of each image after classifying it.

    Args:
        log_probabilities: float [N, K].
        labels: int [N].
        classes: the K class names.
        positive: of two classes, the index of the one to be detected; None if there are more.
    """

    log_probabilities: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    positive: int | None

    @property
    def predicted(self) -> np.ndarray:
        """int [N]."""
        return self.log_probabilities.argmax(axis=1)

    @property
    def losses(self) -> np.ndarray:
        """Cross-entropy of each image, float64 [N]."""
        return -np.take_along_axis(self.log_probabilities, self.labels[:, None], 1)[:, 0].astype(np.float64)

    @property
    def margins(self) -> np.ndarray:
        """How much more probable the positive class is than the other, float [N]."""
        assert self.positive is not None
        return self.log_probabilities[:, self.positive] - self.log_probabilities[:, 1 - self.positive]


def statistics(results: Results, weights: np.ndarray) -> dict[Metric, np.ndarray]:
    """The metrics of many samples of the images at once.

    Args:
        results: of N images.
        weights: how often each image is in each sample, [B, N].

    Returns:
        float64 [B] of each metric; NaN if a sample has no image that it is about. Means over the
        classes are over those that a sample has.
    """
    labels, predicted, count = results.labels, results.predicted, len(results.classes)
    right = predicted == labels
    total = weights.sum(axis=1)
    actual = _sum_by(labels, weights, count)
    hits = _sum_by(labels, weights * right, count)
    guesses = _sum_by(predicted, weights, count)
    missing = actual == 0
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hits / actual
        precision = np.where(missing, np.nan, hits / np.maximum(guesses, 1))
        f1 = np.where(missing, np.nan, 2 * hits / (guesses + actual))
        found: dict[Metric, np.ndarray] = {
            ("loss",): weights @ results.losses / total,
            ("top1",): weights @ right / total,
            ("balanced_accuracy",): _mean(recall),
        }
        for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
            found["macro", name] = _mean(values)
            for i, label in enumerate(results.classes):
                found["per_class", label, name] = values[:, i]
        if count > 5:
            order = np.argsort(-results.log_probabilities, axis=1, kind="stable")[:, :5]
            found[("top5",)] = weights @ (order == labels[:, None]).any(axis=1) / total
        if results.positive is not None:
            found[("sensitivity",)] = recall[:, results.positive]
            found[("specificity",)] = recall[:, 1 - results.positive]
            areas = weighted_areas(labels == results.positive, results.margins, weights)
            found[("roc_auc",)], found[("pr_auc",)] = areas
    return found


def weighted_areas(
    positive: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Areas under the ROC curve and under the precision-recall curve, of many samples.

    The first is the probability that a positive scores above a negative, a tie counting half. The second is
    the average precision: over the thresholds, precision times the gain in recall, without interpolation.

    Args:
        positive: bool [N].
        scores: float [N].
        weights: how often each example is in each sample, [B, N].

    Returns:
        float64 [B] each; NaN for a sample that lacks one of the two kinds.
    """
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))  # of equal scores, the first
    hits = np.add.reduceat((weights * positive)[:, order], starts, axis=1, dtype=np.float64)
    alarms = np.add.reduceat((weights * ~positive)[:, order], starts, axis=1, dtype=np.float64)
    all_hits, all_alarms = hits.sum(axis=1), alarms.sum(axis=1)
    until = hits.cumsum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        # Each negative with the positives above it, and half of those beside it.
        roc = ((until - hits / 2) * alarms).sum(axis=1) / (all_hits * all_alarms)
        precision = until / np.maximum(until + alarms.cumsum(axis=1), 1)
        average = (precision * hits).sum(axis=1) / all_hits
    return roc, np.where(all_alarms > 0, average, np.nan)


def make_results(
    log_probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str], positive: str | None = None
) -> Results:
    """Results of images.

    Args:
        log_probabilities: float [N, K].
        labels: int [N].
        classes: the K class names.
        positive: of two classes, the one to be detected; None: the second.

    Raises:
        BadInput: `positive` is none of two classes.

    Example:
        >>> results = make_results(np.log([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 0]), ("cat", "dog"))
        >>> results.predicted.tolist()
        [0, 1]
    """
    if positive is not None and (len(classes) != 2 or positive not in classes):
        raise BadInput(f"positive={positive!r}: expected one of two classes; there are {', '.join(classes)}")
    index = None
    if len(classes) == 2:
        index = 1 if positive is None else list(classes).index(positive)
    return Results(log_probabilities, labels, tuple(classes), index)


def classification_report(results: Results) -> dict[str, Any]:
    """Metrics of the predictions for some images.

    Returns:
        Plain JSON values: `ece` (see `calibration_error`); `balanced_accuracy`, the mean recall of the
        classes; `per_class` with the `precision`, `recall`, `f1` and `support` of each (0 where a quotient is
        0 / 0); `macro`, their means over the classes that the images have; `confusion`, a row of counts for
        each true class; `roc_auc` and `pr_auc` (average precision), with two classes those of the positive
        one, with more the mean over the classes, each against the rest. With two classes also `positive`,
        `sensitivity` and `specificity`.

    Example:
        >>> results = make_results(np.log([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 1]), ("cat", "dog"))
        >>> report = classification_report(results)
        >>> report["balanced_accuracy"], report["confusion"]
        (1.0, [[1, 0], [0, 1]])
    """
    labels, predicted, classes = results.labels, results.predicted, results.classes
    found = {metric: value[0] for metric, value in statistics(results, np.ones((1, len(labels)))).items()}
    confusion = confusion_matrix(labels, predicted, len(classes))
    scores = ("precision", "recall", "f1")
    report: dict[str, Any] = {
        "ece": calibration_error(np.exp(results.log_probabilities.max(axis=1)), predicted == labels),
        "balanced_accuracy": float(found[("balanced_accuracy",)]),
        "macro": {score: float(found["macro", score]) for score in scores},
        "per_class": {
            name: {score: float(np.nan_to_num(found["per_class", name, score])) for score in scores}
            | {"support": int(confusion[i].sum())}
            for i, name in enumerate(classes)
        },
        "confusion": confusion.tolist(),
    }
    if results.positive is None:
        areas = [
            weighted_areas(labels == i, results.log_probabilities[:, i], np.ones((1, len(labels))))
            for i in range(len(classes))
        ]
        report["roc_auc"], report["pr_auc"] = (float(_mean(values)) for values in np.array(areas)[..., 0].T)
    else:
        report["positive"] = classes[results.positive]
        for name in ("sensitivity", "specificity", "roc_auc", "pr_auc"):
            report[name] = float(found[(name,)])
    return report


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """How often each class (row) was taken for each (column); int [K, K] of two int [N].

    Example:
        >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
        array([[1, 1],
               [0, 1]])
    """
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def calibration_error(confidences: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of the predicted class (Guo et al. 2017).

    The mean distance between confidence and accuracy, over bins of equal width, weighted by their examples.

    Args:
        confidences: probability of each predicted class, float [N].
        correct: whether it is the true one, bool [N].
        bins: how many, from 0 to 1; each holds its upper edge.
    """
    bin_of = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=confidences - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidences))


def _sum_by(labels: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    """The weights of each class's images, float64 [B, K] of [B, N]."""
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    sums = np.zeros((len(weights), count))
    sums[:, present] = np.add.reduceat(weights[:, order], starts, axis=1, dtype=np.float64)
    return sums


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over the classes that a sample has, [B] of [B, K]; NaN if it has none."""
    count = np.isfinite(values).sum(axis=-1)
    return np.where(count, np.nansum(values, axis=-1) / np.maximum(count, 1), np.nan)
