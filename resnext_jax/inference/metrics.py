"""Exact metrics: sums over the examples that count, divided once at the end."""

import jax
import jax.numpy as jnp
import numpy as np

Sums = dict[str, jax.Array]


def metric_names(num_classes: int) -> tuple[str, ...]:
    """Metrics of a run; top-5 only with more than five classes."""
    return ("loss", "top1", "top5") if num_classes > 5 else ("loss", "top1")


def zero_sums(num_classes: int) -> Sums:
    """Sums of no examples."""
    return {name: jnp.zeros((), jnp.float32) for name in (*metric_names(num_classes), "count")}


def metric_sums(logits: jax.Array, losses: jax.Array, labels: jax.Array, mask: jax.Array) -> Sums:
    """Sums over the examples whose mask is set.

    Args:
        logits: [N, K].
        losses: float [N].
        labels: int [N].
        mask: bool [N]; False for padding.
    """
    # Rank of the true class: how many classes come before it. Ties go by order, as argmax does; negated, so
    # that a logit that is not a number comes before it too, and counts as an error.
    true = jnp.take_along_axis(logits, labels[:, None], axis=1)
    earlier = jnp.arange(logits.shape[1]) < labels[:, None]
    rank = jnp.sum(~(logits <= true) | ((logits == true) & earlier), axis=1)
    values = {"loss": losses, "top1": rank < 1, "top5": rank < 5, "count": mask}
    names = (*metric_names(logits.shape[1]), "count")
    return {name: jnp.sum(jnp.where(mask, values[name], 0).astype(jnp.float32)) for name in names}


def means(sums: dict[str, float]) -> dict[str, float]:
    """Mean of each metric, as Python floats; NaN if no example counted.

    Example:
        >>> means({"loss": 6.0, "top1": 3.0, "count": 4.0})
        {'loss': 1.5, 'top1': 0.75}
    """
    count = float(sums["count"])
    return {
        name: float(total) / count if count else float("nan")
        for name, total in sums.items()
        if name != "count"
    }


def mean_metrics(log_probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Cross-entropy, top-1 and, for more than five classes, top-5.

    Args:
        log_probabilities: float32 [N, K].
        labels: int [N].

    Example:
        >>> log_probabilities = np.log([[0.9, 0.1], [0.8, 0.2]])
        >>> metrics = mean_metrics(log_probabilities, np.array([0, 1]))
        >>> metrics["top1"], round(metrics["loss"], 3)
        (0.5, 0.857)
    """
    losses = -np.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
    arrays = (jnp.asarray(x) for x in (log_probabilities, losses, labels, np.ones(len(labels), bool)))
    return means(jax.device_get(metric_sums(*arrays)))
