"""Probabilities of images whose classes are not known."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnext_jax.errors import BadInput


@dataclass(frozen=True)
class Predictions:
    """Probabilities of some images.

    Args:
        keys: the images' names.
        images: uint8 [N, S, S, 3], as the network saw them.
        probabilities: float32 [N, K].
        classes: the K class names.

    Example:
        >>> pixels, probabilities = np.zeros((1, 8, 8, 3), np.uint8), np.array([[0.25, 0.75]], np.float32)
        >>> predictions = Predictions(["a.jpg"], pixels, probabilities, ("cat", "dog"))
        >>> predictions.top(), predictions.decided(threshold=0.9)
        ([[('dog', 0.75)]], [None])
    """

    keys: list[str]
    images: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]

    @classmethod
    def joined(cls, parts: Sequence["Predictions"]) -> "Predictions":
        """Predictions of several batches, at least one, as one."""
        return cls(
            [key for part in parts for key in part.keys],
            np.concatenate([part.images for part in parts]),
            np.concatenate([part.probabilities for part in parts]),
            parts[0].classes,
        )

    def some(self, indices: Sequence[int]) -> "Predictions":
        """Those of some of the images."""
        chosen = np.asarray(indices, int)
        keys = [self.keys[i] for i in chosen]
        return Predictions(keys, self.images[chosen], self.probabilities[chosen], self.classes)

    def top(self, k: int = 1) -> list[list[tuple[str, float]]]:
        """The k most probable classes of each image, with their probabilities."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        return [
            [(self.classes[label], float(row[label])) for label in labels]
            for row, labels in zip(self.probabilities, order, strict=True)
        ]

    def decided(self, threshold: float = 0.0) -> list[str | None]:
        """The most probable class of each image; None if its probability is below the threshold.

        Raises:
            BadInput: the threshold is no probability.
        """
        if not 0 <= threshold <= 1:
            raise BadInput(f"threshold={threshold}: expected a probability, from 0 to 1")
        return [name if probability >= threshold else None for [(name, probability)] in self.top()]

    def true_classes(self) -> list[str | None]:
        """The class of each image that lies in a folder called as a class; None of the others."""
        parents = (Path(key).parent.name for key in self.keys)
        return [parent if parent in self.classes else None for parent in parents]
