"""Weights from any source as a whole model, and from one kind of file to another."""

from pathlib import Path

from resnext_jax.errors import BadInput
from resnext_jax.models import ResNet, abstract_model
from resnext_jax.runs import read_spec
from resnext_jax.weights.create import locate_weights
from resnext_jax.weights.files import head_size, input_channels, read_weights, write_weights
from resnext_jax.weights.named import is_name
from resnext_jax.weights.state_dict import StateDict, load_torch_state_dict, looks_like, to_torch_state_dict


def identify(source: str | Path, model: str | None = None) -> tuple[str, ResNet]:
    """Read weights whose variant, classes and input channels they tell themselves.

    Args:
        source: a file, a run directory, or torchvision's name of weights.
        model: name of the variant; None: the run's, or the one that names and shapes fit.

    Returns:
        Name of the variant, and the model with the weights, in training form.

    Raises:
        FileNotFoundError: no source.
        ConnectionError: a download failed.
        ValueError: a kind of file that is not known, weights of another variant, of several or of none, or
            a name of weights without a model.
    """
    if is_name(str(source)) and model is None:
        raise BadInput(f"{source}: name the model whose weights they are with --model")
    path = locate_weights(source, model or "")
    state_dict = read_weights(path)
    if model is None:
        model = read_spec(path).name if path.is_dir() else _only_variant(path, state_dict)
    filled = abstract_model(model, num_classes=head_size(state_dict), in_channels=input_channels(state_dict))
    load_torch_state_dict(filled, state_dict)
    return model, filled


def convert(source: str | Path, destination: Path, *, model: str | None = None) -> str:
    """Convert weights to a file, checking every name and shape on the way.

    Args:
        source: as `identify` takes.
        destination: a file, as `write_weights` takes.
        model: name of the variant; None: what the source tells.

    Returns:
        Name of the variant.

    Raises:
        FileNotFoundError: no source.
        ConnectionError: a download failed.
        ValueError: as `identify` and `write_weights` raise.
        OSError: no space left, or no permission.
    """
    name, filled = identify(source, model)
    write_weights(destination, to_torch_state_dict(filled))
    return name


def _only_variant(source: Path, state_dict: StateDict) -> str:
    names = looks_like(state_dict)
    if len(names) != 1:
        found = f"fits {', '.join(names)}" if names else "fits no known variant"
        raise BadInput(f"{source}: {found}; name one with --model")
    return names[0]
