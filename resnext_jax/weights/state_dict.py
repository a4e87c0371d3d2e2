"""State dicts in torch's names and layout, to and from our models, by rule.

A torch name is the dotted path of our variable with its last part renamed, and a torch array is ours with its
axes in another order. There is no table of names, so every model of `resnext_jax.models` is covered.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from resnext_jax.errors import BadInput
from resnext_jax.models import VARIANTS, Network, ResNetConfig, abstract_model
from resnext_jax.weights.checkpoint import find_network
from resnext_jax.weights.stored import Unreadable

log = logging.getLogger(__name__)

StateDict = dict[str, np.ndarray]
Head = Literal["strict", "new"]

_LEAF = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# Convolutions: ours [H, W, I, O] or [W, I, O], torch's [O, I, H, W] or [O, I, W]; linear layers: ours [I, O],
# torch's [O, I].
_TO_TORCH = {4: (3, 2, 0, 1), 3: (2, 1, 0), 2: (1, 0), 1: (0,)}
_FROM_TORCH = {4: (2, 3, 1, 0), 3: (2, 1, 0), 2: (1, 0), 1: (0,)}
_LISTED = 8  # names that a report gives of each kind


def load_torch_state_dict(
    model: Network, state_dict: Mapping[str, Any], *, head: Head = "strict", ema: bool = True
) -> None:
    """Fill a model with the arrays of a state dict in torch's names and layout.

    Every array of the network is used and every variable of the model is filled, or nothing is changed.
    `num_batches_tracked` is ignored. The network is found in dictionaries of training scripts as well, under
    any prefix, and every type of floating point number becomes float32. The log says so.

    Args:
        model: filled in place; may be abstract.
        state_dict: arrays of numpy, jax or torch by torch's names.
        head: "strict" fills `fc` too; "new" leaves the model's own, whatever the state dict has there.
        ema: if there are averaged weights beside the raw ones, take the averaged.

    Raises:
        BadInput: names or shapes differ; the message counts all differences, names the first of each kind
            and says which variant the state dict looks like.

    Example:
        >>> first, second = (rj.create_model("test_resnet", num_classes=3, rngs=nnx.Rngs(i)) for i in (0, 1))
        >>> rj.load_torch_state_dict(first, rj.to_torch_state_dict(second))
        >>> bool((first.fc.kernel[...] == second.fc.kernel[...]).all())
        True
    """
    if head not in ("strict", "new"):
        raise BadInput(f"head={head!r}: expected 'strict' or 'new'")
    arrays = clean_state_dict(state_dict, ema=ema)
    variables = {_torch_name(path): (path, var) for path, var in nnx.to_flat_state(nnx.state(model))}
    if head == "new":
        arrays, variables = _backbone(arrays, variables), _without_head(variables)
    shapes = {name: _torch_shape(var.shape) for name, (_, var) in variables.items()}
    _check(arrays, shapes, model)
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        log.warning("not finite (NaN or infinity): %s", _join(bad))
    filled = {
        path: var.replace(jnp.asarray(arrays[name].transpose(_FROM_TORCH[arrays[name].ndim])))
        for name, (path, var) in variables.items()
    }
    nnx.update(model, nnx.from_flat_state(filled))


def to_torch_state_dict(model: Network) -> StateDict:
    """A model's parameters and running statistics in torch's names and layout, float32, copied to the host.

    `torchvision.models.<name>().load_state_dict` takes it with strict=True, as tensors.

    Example:
        >>> state_dict = rj.to_torch_state_dict(rj.create_model("test_resnet", num_classes=3))
        >>> state_dict["layer4.0.conv1.weight"].shape, state_dict["fc.bias"].shape
        ((96, 192, 3, 3), (3,))
    """
    params, batch_stats = nnx.state(model, nnx.Param), nnx.state(model, nnx.BatchStat)
    return from_trees(nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats))


def from_trees(*trees: Mapping[Any, Any]) -> StateDict:
    """State dict of nested dictionaries of arrays in our names and layout (parameters, batch statistics)."""
    named = {}
    for tree in trees:
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            array = np.asarray(leaf)
            name = _torch_name([entry.key for entry in path])
            named[name] = np.array(array.transpose(_TO_TORCH[array.ndim]), order="C")
    return dict(sorted(named.items()))


def clean_state_dict(content: Mapping[str, Any], *, ema: bool = True) -> StateDict:
    """The network in a checkpoint, as float32 arrays of numpy by torchvision's names, without counters.

    Args:
        content: a state dict, or a checkpoint that holds one; see `checkpoint.find_network`.
        ema: if there are averaged weights beside the raw ones, take the averaged.

    Raises:
        BadInput: no arrays, several networks, or values that are not dense arrays of floating point numbers.
    """
    arrays, casts, bad = {}, {}, []
    for name, value in find_network(content, ema=ema).items():
        if name.endswith("num_batches_tracked"):
            continue
        array, dtype = _float32(value)
        if array is None:
            bad.append(f"{name} ({dtype})")
            continue
        if dtype != "float32":
            casts.setdefault(dtype, []).append(name)
        arrays[name] = array
    if bad:
        raise BadInput(f"state dict: not a dense array of floating point numbers: {_join(bad)}")
    for dtype, names in casts.items():
        log.info("state dict: %d arrays cast from %s to float32", len(names), dtype)
    return arrays


def looks_like(state_dict: StateDict) -> list[str]:
    """Variants whose names and shapes a clean state dict has, but for the head and the input channels.

    There may be several: anti-aliasing, activation functions and epsilons have no arrays. They come in the
    table's order, where the plainest is first.

    Example:
        >>> looks_like(rj.to_torch_state_dict(rj.create_model("test_resnet")))[0]
        'test_resnet'
    """
    shapes = {name: array.shape for name, array in state_dict.items()}
    return [name for name, config in VARIANTS.items() if _may_be(config, shapes) and _fits(config, shapes)]


def _may_be(config: ResNetConfig, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Quick test, without building the model: blocks, the first of them, the stem's and attention's kind."""
    stages = range(1, len(config.layers) + 2)
    blocks = [
        sum(name.startswith(f"layer{i}.") and name.endswith(".conv1.weight") for name in shapes)
        for i in stages
    ]
    first, second, *_ = config.channels(0, 0)
    attention = {"layer1.0.se.fc1.weight": "se", "layer1.0.se.conv.weight": "eca"}
    return (
        blocks == [*config.layers, 0]
        and shapes.get("layer1.0.conv2.weight", ())[:2] == (second, first // config.groups)
        and ("conv1.0.weight" in shapes) == (config.stem in ("deep", "tiered"))
        and next((kind for name, kind in attention.items() if name in shapes), None) == config.attention
    )


def _fits(config: ResNetConfig, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return _without_head(_variant_shapes(config, input_channels(shapes))) == _without_head(shapes)


@lru_cache
def _variant_shapes(config: ResNetConfig, in_channels: int) -> dict[str, tuple[int, ...]]:
    return torch_shapes(abstract_model(config, in_channels=in_channels))


def input_channels(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Channels of the images that a state dict is for; 3 if its first convolution is not to be found.

    Args:
        shapes: of its arrays, by torch's names.
    """
    first = shapes.get("conv1.weight") or shapes.get("conv1.0.weight") or ()
    return first[1] if len(first) == 4 and first[1] > 0 else 3


def torch_shapes(model: Network) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array of a model's state dict; the model may be abstract."""
    return {_torch_name(path): _torch_shape(var.shape) for path, var in nnx.to_flat_state(nnx.state(model))}


def _torch_name(path: Iterable[Any]) -> str:
    *modules, leaf = map(str, path)
    return ".".join([*modules, _LEAF[leaf]])


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in _TO_TORCH[len(shape)])


def _backbone(arrays: StateDict, variables: Mapping[str, Any]) -> StateDict:
    """The arrays without those of any kind of head."""
    parts = {name.partition(".")[0] for name in variables} - {"fc"}
    kept = {
        name: array
        for name, array in arrays.items()
        if name.partition(".")[0] in parts or re.match(r"(layer|conv|bn)\d", name)
    }
    if left := [name for name in arrays if name not in kept and not name.startswith("fc.")]:
        log.info("state dict: %d arrays of other heads are left out: %s", len(left), _join(left))
    return kept or arrays


def _without_head(named: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in named.items() if not name.startswith("fc.")}


def _float32(value: Any) -> tuple[np.ndarray | None, str]:
    """The value as a float32 array, or None, and the name of the type that it had."""
    if isinstance(value, Unreadable):
        return None, value.kind
    if hasattr(value, "is_floating_point"):  # a torch tensor; numpy has no bfloat16, so torch casts
        dtype, layout = (str(kind).removeprefix("torch.") for kind in (value.dtype, value.layout))
        if layout != "strided" or value.is_meta:
            return None, f"{layout if layout != 'strided' else 'empty'} {dtype}"
        return (value.detach().cpu().float().numpy() if value.is_floating_point() else None), dtype
    dtype = getattr(value, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        return None, str(dtype or type(value).__name__)
    return np.asarray(value).astype(np.float32, copy=False), str(dtype)


def _check(arrays: StateDict, expected: dict[str, tuple[int, ...]], model: Network) -> None:
    """One report of all that does not fit."""
    missing = [f"{name} {list(expected[name])}" for name in expected if name not in arrays]
    unexpected = [f"{name} {list(arrays[name].shape)}" for name in arrays if name not in expected]
    wrong = {
        name: f"{name} expected {list(shape)}, found {list(arrays[name].shape)}"
        for name, shape in expected.items()
        if name in arrays and arrays[name].shape != shape
    }
    kinds = {"missing": missing, "unexpected": unexpected, "wrong shape": list(wrong.values())}
    found = [f"{len(names)} {kind}: {_join(names)}" for kind, names in kinds.items() if names]
    if not found:
        return
    if not missing and not unexpected and all(name.startswith("fc.") for name in wrong):
        hint = "the number of classes differs; new_head=True (head='new' in Python) replaces the head"
    elif not unexpected and not wrong and all(name.startswith("fc.") for name in missing):
        hint = "it has no head; new_head=True (head='new' in Python) makes one"
    elif not missing and not unexpected and list(wrong) == ["conv1.weight"]:
        hint = "the number of input channels differs (in_channels)"
    else:
        hint = f"it looks like {' or '.join(looks_like(arrays)) or 'no variant that is known here'}"
    ours = next(
        (name for name, config in VARIANTS.items() if config == getattr(model, "config", None)), "the model"
    )
    raise BadInput(f"state dict does not fit {ours}: {'; '.join(found)}; {hint}")


def _join(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
