"""What a classifier gets right and wrong, class by class, and what its probabilities are worth."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from resnext_jax.errors import BadInput


def classification_report(
    log_probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str], positive: str | None = None
) -> dict[str, Any]:
    """Metrics of the predictions for some images.

    Args:
        log_probabilities: float [N, K].
        labels: int [N].
        classes: the K class names.
        positive: of two classes, the one to be detected; None: the second.

    Returns:
        Plain JSON values: `ece` (see `calibration_error`); `macro`, the mean over the classes of `per_class`,
        which has the `precision`, `recall`, `f1` and `support` of each (0 where a quotient is 0 / 0);
        `confusion`, a row of counts for each true class. Of two classes also `positive`, `sensitivity`,
        `specificity` and `roc_auc`.

    Raises:
        ValueError: `positive` is none of two classes.
    """
    if positive is not None and (len(classes) != 2 or positive not in classes):
        raise BadInput(f"positive={positive!r}: expected one of two classes; there are {', '.join(classes)}")
    probabilities = np.exp(log_probabilities.astype(np.float64))
    predicted = probabilities.argmax(axis=1)
    confusion = confusion_matrix(labels, predicted, len(classes))
    scores = _scores(confusion)
    report = {
        "ece": calibration_error(probabilities.max(axis=1), predicted == labels),
        "macro": {name: float(values.mean()) for name, values in scores.items()},
        "per_class": {
            name: {metric: float(values[i]) for metric, values in scores.items()}
            | {"support": int(confusion[i].sum())}
            for i, name in enumerate(classes)
        },
        "confusion": confusion.tolist(),
    }
    if len(classes) == 2:
        index = 1 if positive is None else list(classes).index(positive)
        margins = log_probabilities[:, index] - log_probabilities[:, 1 - index]
        report |= {
            "positive": classes[index],
            "sensitivity": float(scores["recall"][index]),
            "specificity": float(scores["recall"][1 - index]),
            "roc_auc": roc_auc(labels == index, margins),
        }
    return report


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """How often each class (row) was taken for each (column); int [K, K] of two int [N]."""
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def _scores(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of each class; 0 where a quotient is 0 / 0."""
    right, predicted, actual = np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1)
    return {
        "precision": right / np.maximum(predicted, 1),
        "recall": right / np.maximum(actual, 1),
        "f1": 2 * right / np.maximum(predicted + actual, 1),
    }


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


def roc_auc(positive: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve: how likely a positive scores above a negative, a tie counting half.

    Args:
        positive: bool [N].
        scores: float [N].

    Returns:
        0 to 1; NaN where one of the two kinds is missing.
    """
    negatives = int((~positive).sum())
    positives = len(positive) - negatives
    if not positives or not negatives:
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # from 1; of equal scores, their mean
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))
