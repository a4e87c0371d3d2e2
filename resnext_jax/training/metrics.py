"""Exact metrics: sums over the examples that count, divided once at the end."""

import jax
import jax.numpy as jnp
import optax

Sums = dict[str, jax.Array]


def metric_names(num_classes: int) -> tuple[str, ...]:
    """Metrics of a run; top-5 only where more than five classes give it a meaning."""
    return ("loss", "top1", "top5") if num_classes > 5 else ("loss", "top1")


def zero_sums(num_classes: int) -> Sums:
    """Sums of no examples."""
    return {name: jnp.zeros((), jnp.float32) for name in (*metric_names(num_classes), "count")}


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of each example, float32 [N], of logits [N, K] and labels int32 [N]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)


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
    """Mean of each metric, as Python floats; NaN where no example counted."""
    count = float(sums["count"])
    return {
        name: float(total) / count if count else float("nan")
        for name, total in sums.items()
        if name != "count"
    }
