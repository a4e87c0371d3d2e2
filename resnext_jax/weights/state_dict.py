"""State dicts in torch's names and layout, to and from our models, by rule.

A torch name is the dotted path of our variable with its last part renamed, and a torch array is ours with its
axes in another order. There is no table of names, so every model of `resnext_jax.models` is covered.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from resnext_jax.errors import BadInput
from resnext_jax.models import VARIANTS, ResNet, ResNetConfig, abstract_model
from resnext_jax.weights.find import find_state_dict

log = logging.getLogger(__name__)

StateDict = dict[str, np.ndarray]
Head = Literal["strict", "new"]

_LEAF = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# Convolutions: ours [H, W, I, O], torch's [O, I, H, W]; linear layers: ours [I, O], torch's [O, I].
_TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
_FROM_TORCH = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
_LISTED = 8  # names that a report gives of each kind


def load_torch_state_dict(model: ResNet, state_dict: Mapping[str, Any], *, head: Head = "strict") -> None:
    """Fill a model with the arrays of a state dict in torch's names and layout.

    Every array of the state dict is used and every variable of the model is filled, or nothing is changed.
    Wrappers, prefixes and counters are removed as `find_state_dict` does; float16, bfloat16 and float64
    become float32. The log says so.

    Args:
        model: filled in place; may be abstract.
        state_dict: arrays of numpy, jax or torch by torch's names.
        head: "strict" fills `fc` too; "new" leaves the model's own, whatever the state dict has there.

    Raises:
        ValueError: names or shapes differ; the message counts all differences, names the first of each kind
            and says which variant the state dict looks like.
    """
    if head not in ("strict", "new"):
        raise BadInput(f"head={head!r}: expected 'strict' or 'new'")
    arrays = clean_state_dict(state_dict)
    variables = {_torch_name(path): (path, var) for path, var in nnx.to_flat_state(nnx.state(model))}
    if head == "new":
        arrays, variables = _without_head(arrays), _without_head(variables)
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


def to_torch_state_dict(model: ResNet) -> StateDict:
    """A model's parameters and running statistics in torch's names and layout, float32, copied to the host.

    `torchvision.models.<name>().load_state_dict` takes it with strict=True, as tensors.
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


def clean_state_dict(state_dict: Mapping[str, Any], *, average: bool = True) -> StateDict:
    """Find a state dict in what a script saved, strip prefixes, and make every array float32 numpy.

    Args:
        state_dict: as `find_state_dict` takes.
        average: take averaged weights if they lie beside the raw ones.

    Raises:
        BadInput: no arrays, or arrays that are not dense ones of floating point numbers.
    """
    arrays: StateDict = {}
    casts: dict[str, list[str]] = {}
    bad = []
    for name, value in find_state_dict(state_dict, average=average).items():
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
    """Variants whose names and shapes a clean state dict has, but for the head and the input channels."""
    shapes = {name: array.shape for name, array in state_dict.items()}
    return [name for name, config in VARIANTS.items() if _may_be(config, shapes) and _fits(name, shapes)]


def _may_be(config: ResNetConfig, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Quick test, without building the model: blocks of each stage, groups and width of the first block."""
    stages = range(1, len(config.layers) + 2)
    blocks = [
        sum(name.startswith(f"layer{i}.") and name.endswith(".conv1.weight") for name in shapes)
        for i in stages
    ]
    width = config.groups * config.width_per_group
    first = shapes.get("layer1.0.conv2.weight", ())[:2]
    return blocks == [*config.layers, 0] and first == (width, config.width_per_group)


def _fits(name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    expected = torch_shapes(abstract_model(name))
    # [outputs, inputs, height, width]
    expected["conv1.weight"] = (64, *shapes.get("conv1.weight", ())[1:2], *expected["conv1.weight"][2:])
    return _without_head(expected) == _without_head(shapes)


def torch_shapes(model: ResNet) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array of a model's state dict; the model may be abstract."""
    return {_torch_name(path): _torch_shape(var.shape) for path, var in nnx.to_flat_state(nnx.state(model))}


def _torch_name(path: Iterable[Any]) -> str:
    *modules, leaf = map(str, path)
    return ".".join([*modules, _LEAF[leaf]])


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in _TO_TORCH[len(shape)])


def _without_head(named: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in named.items() if not name.startswith("fc.")}


def _float32(value: Any) -> tuple[np.ndarray | None, str]:
    """The value as a float32 array, or None, and the name of the type that it had."""
    if hasattr(value, "is_floating_point"):  # a torch tensor; numpy has no bfloat16, so torch casts
        dtype, layout = (str(kind).removeprefix("torch.") for kind in (value.dtype, value.layout))
        if layout != "strided" or value.is_meta:
            return None, f"{layout if layout != 'strided' else 'empty'} {dtype}"
        return (value.detach().cpu().float().numpy() if value.is_floating_point() else None), dtype
    dtype = getattr(value, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        return None, str(dtype or type(value).__name__)
    return np.asarray(value).astype(np.float32, copy=False), str(dtype)


def _check(arrays: StateDict, expected: dict[str, tuple[int, ...]], model: ResNet) -> None:
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
        hint = "the number of classes differs; --new-head (head='new') replaces the head"
    elif not unexpected and not wrong and all(name.startswith("fc.") for name in missing):
        hint = "it has no head; --new-head (head='new') makes one"
    elif not missing and not unexpected and list(wrong) == ["conv1.weight"]:
        hint = "the number of input channels differs (in_channels)"
    else:
        hint = f"it looks like {' or '.join(looks_like(arrays)) or 'no variant that is known here'}"
    ours = next((name for name, config in VARIANTS.items() if config == model.config), "the model")
    raise BadInput(f"state dict does not fit {ours}: {'; '.join(found)}; {hint}")


def _join(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
