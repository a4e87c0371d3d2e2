"""Cross-entropy as training minimises it: with smoothed or mixed labels, and with weights of the classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from resnext_jax.errors import BadInput


@dataclass(frozen=True)
class Loss:
    """Loss of each example.

    Args:
        num_classes: K.
        label_smoothing: share of each label that is spread evenly over all classes (Szegedy et al. 2016).
        class_weights: factor of an example's loss by its class, K of them, as Keras' class_weight; the mean
            over a batch divides by its number of examples, not by their weights.

    Example:
        >>> loss = Loss(num_classes=2, class_weights=(1.0, 3.0))
        >>> loss(jnp.zeros((2, 2)), loss.targets(jnp.array([0, 1])))
        Array([0.693..., 2.079...], dtype=float32)
    """

    num_classes: int
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None

    def targets(self, labels: jax.Array) -> jax.Array:
        """Labels int [N] as distributions over the classes, float32 [N, K], before smoothing."""
        return jax.nn.one_hot(labels, self.num_classes)

    def __call__(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
        """Cross-entropy of each example, float32 [N], of logits and targets [N, K]."""
        smoothed = optax.smooth_labels(targets, self.label_smoothing)
        losses = optax.softmax_cross_entropy(logits.astype(jnp.float32), smoothed)
        return losses if self.class_weights is None else losses * (targets @ jnp.array(self.class_weights))


def balanced_weights(labels: np.ndarray, num_classes: int) -> tuple[float, ...]:
    """Weights of classes in inverse proportion to their number of examples; 1 in the mean over all examples.

    A class without examples gets the weight of a class with one.
    """
    counts = np.maximum(np.bincount(labels, minlength=num_classes), 1)
    return tuple((len(labels) / (num_classes * counts)).tolist())


def class_weights(
    wanted: str | Sequence[float] | None, labels: np.ndarray, classes: Sequence[str]
) -> tuple[float, ...] | None:
    """The weights that a configuration asks for.

    Args:
        wanted: None, "balanced", or a weight for each class.
        labels: of the training images.
        classes: their names.

    Raises:
        ValueError: another number of weights than of classes.
    """
    if wanted is None:
        return None
    if isinstance(wanted, str):  # "balanced"
        return balanced_weights(labels, len(classes))
    if len(wanted) != len(classes):
        raise BadInput(
            f"class_weights={' '.join(map(str, wanted))}: {len(wanted)} weights; expected one for each of "
            f"the {len(classes)} classes, in this order: {', '.join(classes)}"
        )
    return tuple(wanted)
