"""Building a model by name, with fresh or with given weights."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

from resnext_jax.data import Preprocessing
from resnext_jax.errors import BadInput
from resnext_jax.models import ResNet, abstract_model, build_model, linear_head
from resnext_jax.runs import read_spec
from resnext_jax.storage import cache_directory, download
from resnext_jax.weights.files import head_size, read_weights
from resnext_jax.weights.named import is_name, named_weights
from resnext_jax.weights.state_dict import Head, load_torch_state_dict


def create_model(
    name: str,
    *,
    num_classes: int | None = 1000,
    weights: str | Path | None = None,
    head: Head = "strict",
    in_channels: int = 3,
    dtype: jnp.dtype = jnp.float32,
    rngs: nnx.Rngs | None = None,
    **options: Any,
) -> ResNet:
    """Build a model by name.

    Args:
        name: a name of `list_models()`.
        num_classes: outputs of the head; None: as many as the weights have.
        weights: a file (.safetensors, .pth), a run directory, or torchvision's name ("IMAGENET1K_V1",
            "IMAGENET1K_V2", "DEFAULT": downloaded once, see `download_weights`); None: initialised as
            torchvision does.
        head: with weights, "strict" takes their head too, "new" initialises another one.
        in_channels: channels of the images.
        dtype: compute type (float32 or bfloat16); parameters are float32.
        rngs: random streams; None is `nnx.Rngs(0)`.
        options: further arguments of `ResNet`.

    Returns:
        The model, in training form: call `model.eval()` before predicting. Its `preprocessing` says how
        images are prepared for its weights, where these have a name or are a run's.

    Raises:
        ValueError: unknown names, weights that do not fit, a damaged file.
        FileNotFoundError: no such file or run.
        ConnectionError: the download failed.
    """
    rngs = nnx.Rngs(0) if rngs is None else rngs
    options |= {"in_channels": in_channels, "dtype": dtype}
    if weights is None:
        if num_classes is None:
            raise BadInput("num_classes=None: without weights the number of classes must be given")
        return build_model(name, rngs=rngs, num_classes=num_classes, **options)
    state_dict = read_weights(locate_weights(weights, name))
    if num_classes is None:
        num_classes = head_size(state_dict)
    model = abstract_model(name, num_classes=num_classes, **options)
    load_torch_state_dict(model, state_dict, head=head)
    if is_name(str(weights)) or Path(weights).is_dir():
        model.preprocessing = preprocessing(weights, name)
    if head == "new":
        model.fc = linear_head(model.fc.in_features, num_classes, dtype=dtype, rngs=rngs)
    return model


def locate_weights(weights: str | Path, model: str) -> Path:
    """Path of weights, which are downloaded where they are a name.

    Args:
        weights: as in `create_model`.
        model: name of the variant.

    Raises:
        ValueError: the model has no weights of that name, or the download has a wrong hash.
        ConnectionError: the download failed.
    """
    return download_weights(weights, model) if is_name(str(weights)) else Path(weights)


def download_weights(weights: str, model: str) -> Path:
    """Fetch torchvision's weights to the cache, unless they are there.

    The cache is `weights/` below `RESNEXT_JAX_CACHE` (see `resnext_jax.storage.cache`).

    Args:
        weights: "IMAGENET1K_V1", "IMAGENET1K_V2" or "DEFAULT".
        model: name of the variant.

    Raises:
        ValueError: the model has no weights of that name, or the content has a wrong hash.
        ConnectionError: offline, refused by the server, cut or too slow.
        OSError: no space left, or no permission.
    """
    entry = named_weights(weights, model)
    return download(entry.url, cache_directory("weights") / entry.file, sha256_prefix=entry.sha256_prefix)


def preprocessing(weights: str | Path, model: str | None = None) -> Preprocessing:
    """How images are prepared for weights.

    Args:
        weights: torchvision's name of weights, or a run directory.
        model: name of the variant; needed with a name of weights.

    Returns:
        For a name, torchvision's `weights.transforms()`; for a run, what it was trained with.

    Raises:
        ValueError: the model has no weights of that name, or `weights` is a file, which does not say it.
        FileNotFoundError: no such run.
    """
    if is_name(str(weights)):
        if model is None:
            raise BadInput(f"weights={weights!r}: name the model whose weights they are")
        return named_weights(str(weights), model).preprocessing
    if Path(weights).is_file():
        raise BadInput(
            f"{weights}: a file of weights does not say how images are prepared; use Preprocessing(...)"
        )
    return read_spec(Path(weights)).preprocessing
