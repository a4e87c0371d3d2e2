"""Weights from any source as a whole model, and from one kind of file to another."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from resnext_jax.errors import BadInput
from resnext_jax.models import Architecture, Network, abstract_model, get_config
from resnext_jax.weights.create import told_variant
from resnext_jax.weights.descriptions import Description
from resnext_jax.weights.files import SAFETENSORS, FloatType, WeightsFile, head_size, read_file, write_weights
from resnext_jax.weights.source import open_weights
from resnext_jax.weights.state_dict import (
    StateDict,
    input_channels,
    load_torch_state_dict,
    looks_like,
    to_torch_state_dict,
)

log = logging.getLogger(__name__)

LICENSE = "license"
"""Under this name safetensors files tell a licence in their metadata."""


@dataclass(frozen=True)
class Identified:
    """Weights of any source, of which the variant is known.

    Args:
        name: of the variant.
        architecture: the variant, or the factory registered under the name.
        model: with the weights, in training form; its head is abstract if the weights have none.
        has_head: whether the weights have a head.
        description: what is known of them.
        file: what was read.
    """

    name: str
    architecture: Architecture
    model: Network
    has_head: bool
    description: Description
    file: WeightsFile

    @property
    def state_dict(self) -> StateDict:
        """Checked against the variant, in torch's names and layout; without a head if there is none."""
        if self.has_head:
            return to_torch_state_dict(self.model)
        return {name: array for name, array in self.file.state_dict.items() if not name.startswith("fc.")}


def identify(weights: str | Path, model: str | None = None, *, ema: bool = True) -> Identified:
    """Read weights whose variant, classes and input channels they tell themselves.

    The variant is what a config.json or a checkpoint's `arch` says, else the one that names and shapes fit.
    If they fit several, the plainest is taken, and the log says so.

    Args:
        weights: as in `create_model`.
        model: name of the variant; None: what the weights tell.
        ema: if there are averaged weights beside the raw ones, take the averaged.

    Raises:
        FileNotFoundError: no such file or run.
        ConnectionError: a download failed.
        BadInput: a kind of file that is not known, weights of another variant or of none, or `ema=False`
            although there are no averaged weights.

    Example:
        >>> state_dict = rj.to_torch_state_dict(rj.create_model("test_resnet", num_classes=5))
        >>> write_weights(Path("a.safetensors"), state_dict)
        >>> found = identify("a.safetensors")
        >>> found.name, found.model.fc.out_features
        ('test_resnet', 5)
    """
    source = open_weights(weights, model)
    file = read_file(source.locate(), ema=ema)
    if not ema and not file.has_average:
        raise BadInput(f"ema=False with {weights}: it has one set of weights, no average; leave it out")
    told = told_variant(weights, source, file)
    if model is None:
        variant = _fitting_variant(weights, file.state_dict) if told is None else told
    else:
        variant = model
        if told is not None and get_config(told) != get_config(model):
            log.warning("%s: says it is of %s; it is taken for %s, as asked for", weights, told, model)
    classes = head_size(file.state_dict)
    filled = abstract_model(variant, num_classes=classes or 1, in_channels=_channels(file.state_dict))
    load_torch_state_dict(filled, file.state_dict, head="strict" if classes else "new")
    name = variant if isinstance(variant, str) else source.description.model or "resnet"
    license = source.description.license or file.metadata.get(LICENSE)
    architecture = get_config(variant)
    description = replace(source.description, model=name, config=architecture, license=license)
    return Identified(name, architecture, filled, classes is not None, description, file)


def convert(
    source: str | Path,
    destination: Path,
    *,
    model: str | None = None,
    ema: bool = True,
    dtype: FloatType = "float32",
) -> str:
    """Convert weights to a file, checking every name and shape on the way.

    Args:
        source: weights as `create_model` takes them.
        destination: a file, as `write_weights` takes.
        model: name of the variant; None: what the source tells.
        ema: if there are averaged weights beside the raw ones, take the averaged.
        dtype: type of the numbers in the file.

    Returns:
        Name of the variant.

    Raises:
        FileNotFoundError: no source.
        ConnectionError: a download failed.
        BadInput: as `identify` and `write_weights` raise.
        OSError: no space left, or no permission.

    Example:
        >>> write_weights(Path("a.safetensors"), rj.to_torch_state_dict(rj.create_model("test_resnet")))
        >>> convert("a.safetensors", Path("half.safetensors"), dtype="float16")
        'test_resnet'
    """
    found = identify(source, model, ema=ema)
    kept = found.file.metadata if destination.suffix == SAFETENSORS else {}
    write_weights(destination, found.state_dict, dtype=dtype, metadata=kept)
    lost = ["preprocessing"] if found.description.preprocessing else []
    lost += ["class names"] if found.description.classes else []
    lost += ["licence"] if found.description.license and LICENSE not in kept else []
    lost += [name for name in found.file.metadata if name not in {*kept, LICENSE}]
    if lost:
        log.info("%s: weights alone; what the source says of %s stays behind", destination, ", ".join(lost))
    return found.name


def _channels(state_dict: StateDict) -> int:
    return input_channels({name: array.shape for name, array in state_dict.items()})


def _fitting_variant(source: str | Path, state_dict: StateDict) -> str | Architecture:
    names = looks_like(state_dict)
    if not names:
        raise BadInput(
            f"{source}: fits no known variant; name the nearest one, model=NAME, to see what differs"
        )
    if len(names) > 1:
        log.warning(
            "%s: names and shapes fit %s alike; taken for %s, name another by model=NAME",
            source,
            ", ".join(names),
            names[0],
        )
    return names[0]
