"""Predictions of images whose classes are known, and their metrics."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from resnext_jax.data import Images
from resnext_jax.inference.bootstrap import intervals
from resnext_jax.inference.classification import Results, classification_report, make_results
from resnext_jax.inference.metrics import mean_metrics


@dataclass(frozen=True)
class LabelledPredictions:
    """Predictions of images whose classes are known; made by `Predictor.predict_split`.

    Args:
        images: the images, with labels and keys.
        log_probabilities: float32 [N, K].
        classes: the K class names.
        groups: the group of each image (a patient), if there are groups.
    """

    images: Images
    log_probabilities: np.ndarray
    classes: tuple[str, ...]
    groups: Sequence[str] | None = None

    @property
    def labels(self) -> np.ndarray:
        """int32 [N]."""
        return self.images.labels

    @property
    def keys(self) -> list[str]:
        """The images' names, length N."""
        return self.images.keys

    def results(self, positive: str | None = None) -> Results:
        """What metrics are computed of; `positive` as in `metrics`."""
        return make_results(self.log_probabilities, self.labels, self.classes, positive)

    def metrics(self, positive: str | None = None) -> dict[str, Any]:
        """Metrics and their confidence intervals.

        Args:
            positive: of two classes, the one to be detected; None: the second.

        Returns:
            `images` and `groups` (their numbers; None if images stand alone), `loss`, `top1`, with more than
            five classes `top5`, all that `classification_report` has, and `intervals`, see there.

        Raises:
            BadInput: `positive` is none of two classes.
        """
        results = self.results(positive)
        counts = {"images": len(self.images), "groups": self.groups and len(set(self.groups))}
        report = classification_report(results)
        return (
            counts
            | mean_metrics(self.log_probabilities, self.labels)
            | report
            | {"intervals": intervals(results, self.groups)}
        )

    def mistakes(self, most: int) -> np.ndarray:
        """Images of which the model is surest and wrong, int [n], the surest first.

        If there are groups, first the surest of each: the rest are often copies of them.
        """
        predicted = self.log_probabilities.argmax(axis=1)
        wrong = np.flatnonzero(predicted != self.labels)
        order = wrong[np.argsort(-self.log_probabilities[wrong].max(axis=1), kind="stable")]
        if self.groups is not None:
            order = order[np.argsort(turns([self.groups[i] for i in order]), kind="stable")]
        return order[:most]


def turns(names: Sequence[Any]) -> np.ndarray:
    """How many equal names come before each, int [N]: sorted by it, all names take turns."""
    seen: Counter[Any] = Counter()
    found = np.empty(len(names), int)
    for i, name in enumerate(names):
        found[i] = seen[name]
        seen[name] += 1
    return found


def class_metrics(
    log_probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> dict[str, float]:
    """Metrics in which every class counts the same: what is noted of an epoch beside `mean_metrics`.

    Args:
        log_probabilities: float32 [N, K].
        labels: int [N].
        classes: the K class names.

    Returns:
        `balanced_accuracy`, `macro_f1` and `roc_auc`, as `classification_report` has them.
    """
    report = classification_report(make_results(log_probabilities, labels, classes))
    names = ("balanced_accuracy", "roc_auc")
    return {name: report[name] for name in names} | {"macro_f1": report["macro"]["f1"]}
