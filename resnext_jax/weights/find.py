"""Finding the weights in what a training script saved: wrappers, averages, prefixes, heads, scalars.

Scripts wrap a state dict under many names, beside optimisers and options. The arrays tell it apart: it is the
mapping with the most of them. Everything that is chosen, renamed or left out is logged.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

from resnext_jax.errors import BadInput

log = logging.getLogger(__name__)

Arrays = dict[str, Any]

# Where scripts keep what is not the network's.
_ASIDE = re.compile(r"optim|.*sched|.*scaler|loss|callbacks|loops|hyper_parameters|args|amp", re.IGNORECASE)
_AVERAGE = re.compile(r"(?:^|_)(?:ema|averaged?|teacher|swa)(?:_|$)", re.IGNORECASE)
_DEEPEST = 4
# One of these begins the names of every ResNet; what stands before it is a prefix.
_FIRST = re.compile(r"^(.*?)(?:conv1\.(?:\d+\.)?weight)$")
_STAGE = re.compile(r"(?:^|\.)layer\d+\.")


def find_state_dict(content: Any, *, average: bool = True) -> Arrays:
    """The arrays of a network by name, out of anything that a training script saved.

    Args:
        content: nested mappings; arrays have a `shape`.
        average: take averaged weights if they lie beside the raw ones, as timm does; otherwise the raw ones.

    Returns:
        Arrays by torch's names, without prefixes; counters and scalars are left out.

    Raises:
        BadInput: no arrays by name.
    """
    if not isinstance(content, Mapping):
        raise BadInput(f"expected arrays by name, found a {type(content).__name__}")
    found = dict(_state_dicts(content))
    if not found:
        raise BadInput("holds no arrays by name")
    place = _choose(found, average=average)
    if place:
        log.info("state dict: taken from under the key %r", ".".join(place))
    arrays = _without_scalars(found[place])
    return _with_plain_head(_without_prefix(arrays))


def _state_dicts(content: Mapping, place: tuple[str, ...] = (), seen: set[int] | None = None):
    """Every mapping that has arrays by name, with the keys that lead to it."""
    seen = set() if seen is None else seen
    if id(content) in seen or len(place) > _DEEPEST:
        return
    seen.add(id(content))
    if any(_is_array(value) for value in content.values()):
        other = [repr(name) for name in content if not isinstance(name, str)]
        if other and not place:
            raise BadInput(f"expected arrays by name, found one called {other[0]}")
        if other:
            return
        yield place, content
    for key, value in content.items():
        if isinstance(value, Mapping) and isinstance(key, str) and not _ASIDE.match(key):
            yield from _state_dicts(value, (*place, key), seen)


def _choose(found: dict[tuple[str, ...], Mapping], *, average: bool) -> tuple[str, ...]:
    """The place of the mapping with the most arrays; of an averaged and a raw one, the one asked for."""
    counts = {place: sum(map(_is_array, arrays.values())) for place, arrays in found.items()}
    most = max(counts.values())
    # Averages carry a counter or lack one; half of the largest is another network.
    whole = [place for place, count in counts.items() if count >= 0.9 * most]
    averages = [place for place in whole if place and _AVERAGE.search(place[-1])]
    raw = [place for place in whole if place not in averages]
    chosen = (averages or raw) if average else (raw or averages)
    if averages and raw:
        kind, other = ("averaged", "raw") if average else ("raw", "averaged")
        log.info("state dict: the %s weights are taken, %r; the %s ones are left", kind, chosen[0][-1], other)
    return chosen[0]


def _is_array(value: Any) -> bool:
    return bool(getattr(value, "shape", ()))


def _without_scalars(arrays: Mapping[str, Any]) -> Arrays:
    kept = {name: value for name, value in arrays.items() if _is_array(value)}
    scalars = [name for name in arrays if name not in kept and not name.endswith("num_batches_tracked")]
    if scalars:
        log.info("state dict: ignored beside the arrays: %s", ", ".join(scalars[:8]))
    return kept


def _without_prefix(arrays: Arrays) -> Arrays:
    """Without what DataParallel, torch.compile, Lightning and wrapping modules put before every name."""
    prefixes = [found[1] for name in arrays if (found := _FIRST.match(name)) and not _STAGE.search(name)]
    if not prefixes or "" in prefixes:
        return arrays
    prefix = prefixes[0]  # the first network in the file, as in MoCo's encoder_q before encoder_k
    kept = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
    left = sorted({name.split(".")[0] for name in arrays if not name.startswith(prefix)})
    log.info("state dict: removed the prefix %r from %d names", prefix, len(kept))
    if left:
        log.info("state dict: left out, without that prefix: %s", ", ".join(left))
    return kept


def _with_plain_head(arrays: Arrays) -> Arrays:
    """A head in a Sequential (`fc.1.weight`, after a dropout) or under an older name as `fc.weight`."""
    named = re.compile(r"(fc\.\d+|last_linear)\.weight")
    heads = {found[1] for name in arrays if (found := named.fullmatch(name))}
    if len(heads) != 1 or "fc.weight" in arrays:
        return arrays
    head = heads.pop()
    log.info("state dict: the head %r is taken as 'fc'", head)
    return {re.sub(rf"^{re.escape(head)}\.", "fc.", name): value for name, value in arrays.items()}
