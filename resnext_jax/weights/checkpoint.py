"""The network in a training script's checkpoint, found by its arrays, under torchvision's names.

Scripts nest a state dict under keys of their own choice, beside optimisers, averaged weights and settings,
and put prefixes before its names. No list of such words is needed to find it: a ResNet is where a first
convolution and a first block have one prefix in common.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from resnext_jax.errors import BadInput
from resnext_jax.weights.stored import Unreadable

log = logging.getLogger(__name__)

_AVERAGED = re.compile(r"(^|[._])(ema|avg|averaged?|averaging|swa|teacher)($|[._])")
# The slower of two networks in self-supervised checkpoints, of which the other is meant.
_SECOND = re.compile(r"(^|[._])(encoder_k|momentum_encoder|target_encoder|target)($|[._])")
_ARCHITECTURE_KEYS = ("arch", "architecture", "model", "model_name")
_LISTED = 3


@dataclass(frozen=True)
class Naming:
    """How names of a ResNet are formed in some library.

    Args:
        first: names of the first convolution.
        block: beginning of the first block's names.
        rename: a name to torchvision's.
    """

    first: tuple[str, ...]
    block: str
    rename: Callable[[str], str]


def _rename_children(name: str) -> str:
    """Of `nn.Sequential(*resnet.children())`, whose layers have numbers."""
    first, dot, rest = name.partition(".")
    places = {"0": "conv1", "1": "bn1", "9": "fc"} | {str(i + 3): f"layer{i}" for i in range(1, 5)}
    return places.get(first, first) + dot + rest


def _rename_transformers(name: str) -> str:
    """Of transformers' ResNetModel."""
    name = name.replace("embedder.embedder.", "stem.layer.0.")
    name = re.sub(r"encoder\.stages\.(\d+)\.layers\.", lambda stage: f"layer{int(stage[1]) + 1}.", name)
    name = re.sub(r"shortcut\.convolution", "downsample.0", name)
    name = re.sub(r"shortcut\.normalization", "downsample.1", name)
    name = re.sub(r"layer\.(\d+)\.convolution", lambda layer: f"conv{int(layer[1]) + 1}", name)
    name = re.sub(r"layer\.(\d+)\.normalization", lambda layer: f"bn{int(layer[1]) + 1}", name)
    return name.removeprefix("stem.")


NAMINGS = (
    Naming(("conv1.weight", "conv1.0.weight"), "layer1.0.", lambda name: name),
    Naming(("0.weight",), "4.0.conv1.", _rename_children),
    Naming(("embedder.embedder.convolution.weight",), "encoder.stages.0.layers.0.", _rename_transformers),
)


@dataclass(frozen=True)
class _Place:
    """A network: keys down to its state dict, the prefix of its names, how they are formed."""

    keys: tuple[str, ...]
    prefix: str
    naming: Naming
    arrays: Mapping[str, Any]

    @property
    def path(self) -> str:
        return ".".join([*self.keys, self.prefix]).rstrip(".")


def find_network(content: Any, *, ema: bool = True) -> dict[str, Any]:
    """The arrays of the network in a checkpoint, by torchvision's names. The log says what was done to them.

    Args:
        content: nested dictionaries with arrays of any library.
        ema: if there are averaged weights beside the raw ones, take the averaged, as timm does.

    Returns:
        Arrays (or `Unreadable`) by name. If no network was found, those of the dictionary that has most.

    Raises:
        BadInput: no arrays by name, several networks, or averaged weights alone although the raw are wanted.
    """
    if not isinstance(content, Mapping):
        raise BadInput(f"state dict: expected arrays by name, found a {type(content).__name__}")
    dictionaries = [(keys, arrays) for keys, arrays in _dictionaries(content) if arrays]
    if not dictionaries:
        raise BadInput("state dict: holds no arrays")
    places = _networks(content)
    if not places:
        keys, arrays = max(dictionaries, key=lambda found: len(found[1]))
        _say_keys(keys)
        return arrays
    place = _choose(places, ema)
    _say_keys(place.keys)
    inside = {n.removeprefix(place.prefix): v for n, v in place.arrays.items() if n.startswith(place.prefix)}
    outside = {name: value for name, value in place.arrays.items() if not name.startswith(place.prefix)}
    network = _with_head({place.naming.rename(name): value for name, value in inside.items()}, outside)
    if place.prefix:
        log.info("state dict: removed the prefix %r%s", place.prefix, "" if outside else " from every name")
    if place.naming is not NAMINGS[0]:
        log.info("state dict: its names, such as %r, are turned into torchvision's", next(iter(inside)))
    if left := [name for name, value in outside.items() if getattr(value, "shape", None) != ()]:
        log.info("state dict: left out %d arrays outside the network: %s", len(left), _join(left))
    return network


def averages_beside(content: Any) -> bool:
    """Whether a checkpoint has averaged weights beside the raw ones."""
    averaged, raw = _divided(_networks(content)) if isinstance(content, Mapping) else ([], [])
    return bool(averaged and raw)


def told_architecture(content: Any) -> str | None:
    """What a checkpoint calls its network: `arch` beside the weights, or in the arguments of the script."""
    if not isinstance(content, Mapping):
        return None
    places = [content, content.get("args"), content.get("hyper_parameters")]
    for place in places:
        for key in _ARCHITECTURE_KEYS if isinstance(place, Mapping) else ():
            if isinstance(place.get(key), str):
                return place[key]
    return None


def _dictionaries(content: Mapping[Any, Any]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Nested dictionaries, from the outside in, each as its arrays by name; each once, however often it is
    referred to."""
    seen: set[int] = set()
    level: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), content)]
    while level:
        inner = []
        for keys, dictionary in level:
            if id(dictionary) in seen:
                continue
            seen.add(id(dictionary))
            named = {name: value for name, value in dictionary.items() if isinstance(name, str)}
            yield keys, {name: value for name, value in named.items() if _is_array(value, name)}
            inner += [((*keys, name), value) for name, value in named.items() if isinstance(value, Mapping)]
        level = inner


def _is_array(value: Any, name: str) -> bool:
    if isinstance(value, Unreadable):
        return True
    # Scalars of a name without a dot are counters and scores beside the arrays, no part of a layer.
    return hasattr(value, "dtype") and (value.shape != () if "." not in name else hasattr(value, "shape"))


def _networks(content: Mapping[Any, Any]) -> list[_Place]:
    """Every network in a checkpoint that may be meant."""
    places = [place for keys, arrays in _dictionaries(content) for place in _places(keys, arrays)]
    first = [place for place in places if not _SECOND.search(place.path)]
    return first or places


def _divided(places: list[_Place]) -> tuple[list[_Place], list[_Place]]:
    """The averaged sets of weights, and the others."""
    averaged = [place for place in places if _AVERAGED.search(place.path)]
    return averaged, [place for place in places if place not in averaged]


def _places(keys: tuple[str, ...], arrays: Mapping[str, Any]) -> Iterator[_Place]:
    for naming in NAMINGS:
        blocks = {name.partition(naming.block)[0] for name in arrays if naming.block in name}
        firsts = {
            name.removesuffix(first) for first in naming.first for name in arrays if name.endswith(first)
        }
        for prefix in sorted(blocks & firsts):
            yield _Place(keys, prefix, naming, arrays)


def _choose(places: list[_Place], ema: bool) -> _Place:
    """The network that is meant, of all that a checkpoint has."""
    averaged, raw = _divided(places)
    if averaged and not raw and not ema:
        raise BadInput(
            f"state dict: ema=False: it holds averaged weights alone, {averaged[0].path!r}; leave it out"
        )
    if averaged and raw:
        chosen, other = (averaged, raw) if ema else (raw, averaged)
        log.info(
            "state dict: of two sets of weights the %s ones are taken, %r; ema=%s takes %r",
            "averaged" if ema else "raw",
            chosen[0].path,
            not ema,
            other[0].path or "the others",
        )
    else:
        chosen = averaged or raw
    if len(chosen) > 1:
        paths = [repr(place.path) for place in chosen]
        raise BadInput(
            f"state dict: holds several networks: {_join(paths)}; save the one that is meant alone"
        )
    return chosen[0]


def _with_head(network: dict[str, Any], outside: dict[str, Any]) -> dict[str, Any]:
    """The network with its head under the name `fc`, which is taken out of `outside` if it is there.

    Heads have names of many kinds (`fc.1` behind a dropout, `classifier`, `head.fc`), but all are the only
    linear layer of the last stage's features.
    """
    if "fc.weight" in network:
        return network
    features = _features(network)
    for arrays in (network, outside):
        heads = [name for name in arrays if name.endswith(".weight") and _is_head(name, arrays, features)]
        if len(heads) == 1:
            found = heads[0].removesuffix(".weight")
            log.info("state dict: its head %r is taken as 'fc'", found)
            head = {f"fc.{leaf}": arrays.pop(f"{found}.{leaf}") for leaf in ("weight", "bias")}
            return network | head
    return network


def _features(network: Mapping[str, Any]) -> int | None:
    """Channels of the last stage's output."""
    pattern = re.compile(r"layer(\d+)\.(\d+)\.conv(\d)\.weight")
    convolutions = [(tuple(map(int, m.groups())), name) for name in network if (m := pattern.fullmatch(name))]
    shape = getattr(network[max(convolutions)[1]], "shape", ()) if convolutions else ()
    return shape[0] if shape else None


def _is_head(name: str, arrays: Mapping[str, Any], features: int | None) -> bool:
    weight, bias = arrays[name], arrays.get(name.removesuffix("weight") + "bias")
    shapes = getattr(weight, "shape", ()), getattr(bias, "shape", ())
    return len(shapes[0]) == 2 and shapes[0][1] == features and shapes[1] == shapes[0][:1]


def _say_keys(keys: tuple[str, ...]) -> None:
    if keys:
        log.info("state dict: taken from under the key %r", ".".join(keys))


def _join(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
