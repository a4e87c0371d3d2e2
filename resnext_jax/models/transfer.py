"""Transfer learning: which parameters are trained, and batch norms that are not."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from resnext_jax.errors import BadInput
from resnext_jax.models.network import Network
from resnext_jax.models.norm import BatchNorm

BACKBONE = "backbone"
"""Stands for every layer but the head `fc`."""

Tree = dict[str, Any]


def trainable_mask(params: Tree, frozen: Sequence[str]) -> Tree:
    """Which parameters are trained.

    Args:
        params: parameters, nested by attribute, as in {"layer1": {"0": {"conv1": {"kernel": ...}}}}.
        frozen: prefixes of dotted names, cut at dots: "conv1", "layer1", "layer4.2", "layer4.2.bn3.scale",
            or several between commas, "conv1,bn1,layer1"; "backbone" is everything but `fc`.

    Returns:
        The same tree with True for what is trained and False for what is frozen.

    Raises:
        ValueError: a prefix that names nothing, or nothing left to train.

    Example:
        >>> mask = trainable_mask({"conv1": {"kernel": 0}, "fc": {"kernel": 0, "bias": 0}}, ("backbone",))
        >>> mask
        {'conv1': {'kernel': False}, 'fc': {'bias': True, 'kernel': True}}
    """
    paths = [_names(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for prefix in _prefixes(frozen):
        if not any(_is_frozen(path, [prefix]) for path in paths):
            raise BadInput(
                f"freeze={prefix!r}: no parameter is called so; expected {BACKBONE!r} (all but fc) or the "
                f"beginning of a name, cut at a dot: {', '.join(params)}, layer1.0.conv1, ..."
            )
    if all(_is_frozen(path, frozen) for path in paths):
        raise BadInput(f"freeze={','.join(frozen)!r}: nothing is left to train")
    return jax.tree_util.tree_map_with_path(lambda path, _: not _is_frozen(_names(path), frozen), params)


def freeze_norms(model: Network, frozen: Sequence[str]) -> None:
    """Put the batch norms under the prefixes in evaluation form, with the layers that are frozen.

    They then normalise with their running statistics and do not move them, also in training. To be called
    after `model.train()`, which would undo it.

    Args:
        model: changed in place.
        frozen: as in `trainable_mask`.

    Example:
        >>> from resnext_jax.models import build_model
        >>> model = build_model("resnet18")
        >>> model.train()
        >>> freeze_norms(model, ("conv1,bn1",))
        >>> model.bn1.use_running_average, model.layer1[0].bn1.use_running_average
        (True, False)
    """
    for path, module in nnx.iter_modules(model):
        if isinstance(module, BatchNorm) and _is_frozen([str(part) for part in path], frozen):
            module.use_running_average = True


def _names(path: tuple[Any, ...]) -> list[str]:
    return [str(entry.key) for entry in path]


def _is_frozen(path: list[str], frozen: Sequence[str]) -> bool:
    name = ".".join(path) + "."
    return any(
        path[0] != "fc" if prefix == BACKBONE else name.startswith(f"{prefix}.")
        for prefix in _prefixes(frozen)
    )


def _prefixes(frozen: Sequence[str]) -> list[str]:
    return [prefix for part in frozen for prefix in part.split(",")]
