"""Building a model by name, with fresh or with given weights."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import jax.numpy as jnp
from flax import nnx

from resnext_jax.data import Preprocessing
from resnext_jax.errors import BadInput
from resnext_jax.models import (
    VARIANTS,
    Architecture,
    FeatureExtractor,
    Network,
    ResNetConfig,
    abstract_model,
    build_model,
    get_config,
    linear_head,
)
from resnext_jax.weights.files import WeightsFile, head_size, read_file
from resnext_jax.weights.named import split_tag, timm_weights
from resnext_jax.weights.source import Source, open_weights
from resnext_jax.weights.state_dict import Head, load_torch_state_dict

log = logging.getLogger(__name__)

DEFAULT_CLASSES = 1000  # ImageNet-1k's


@overload
def create_model(
    name: str | Architecture, *, features_only: Literal[True], **options: Any
) -> FeatureExtractor: ...
@overload
def create_model(
    name: str | Architecture, *, features_only: Literal[False] = False, **options: Any
) -> Network: ...
def create_model(
    name: str | Architecture,
    *,
    num_classes: int | None = None,
    weights: str | Path | None = None,
    head: Head = "strict",
    ema: bool = True,
    preprocessing: Preprocessing | None = None,
    in_channels: int = 3,
    dtype: jnp.dtype = jnp.float32,
    rngs: nnx.Rngs | None = None,
    global_pool: str | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    **options: Any,
) -> Network | FeatureExtractor:
    """Build a model by name.

    Args:
        name: a name of `list_models()`, or timm's name with a tag ("resnext50_32x4d.a1h_in1k"), which stands
            for its weights; or a configuration of one's own.
        num_classes: outputs of the head; 0: no head, the model gives pooled features; None: as many as the
            weights have, 1000 without weights.
        weights: a file (of safetensors or torch.save), a run directory, torchvision's name ("IMAGENET1K_V1",
            "IMAGENET1K_V2", "DEFAULT"), a tag of timm's ("a1h_in1k"), a repository of the Hugging Face hub
            ("owner/name"), or a folder with config.json as such repositories have; None: initialised as
            torchvision does. `resnext-jax models --weights` lists names and tags.
        head: with weights, "strict" takes their head too, "new" initialises another one.
        ema: if there are averaged weights beside the raw ones, take the averaged.
        preprocessing: how images are prepared, for the model's attribute of that name; None: what the weights
            say, else assumed.
        in_channels: channels of the images.
        dtype: compute type (float32 or bfloat16); parameters are float32.
        rngs: random streams; None is `nnx.Rngs(0)`.
        global_pool: "avg", "max", "avgmax" or "catavgmax" in the place of the variant's own; "": no pooling
            (with num_classes=0), the model gives [N, H, W, C].
        features_only: give the feature maps of the stages instead of logits: see `FeatureExtractor`.
        out_indices: which maps, for `features_only`; None: all.
        options: further arguments of `ResNet` (zero_init_residual, drop_path, init, ...).

    Returns:
        The model, in training form: call `model.eval()` before predicting. With weights, its `preprocessing`
        says how images are prepared for them; if it is assumed, the log says so.

    Raises:
        BadInput: unknown names, weights that do not fit or are of another model, a damaged file.
        FileNotFoundError: no such file or run.
        ConnectionError: the download failed.

    Example:
        >>> model = create_model("resnext14_32x4d", num_classes=5)
        >>> model.fc.out_features
        5
    """
    if features_only:
        options |= {"weights": weights, "ema": ema, "preprocessing": preprocessing, "rngs": rngs}
        whole = {"in_channels": in_channels, "dtype": dtype, **options}
        return FeatureExtractor(create_model(name, num_classes=0, **whole), out_indices)
    if out_indices is not None:
        raise BadInput(f"out_indices={tuple(out_indices)}: it has no effect without features_only=True")
    rngs = nnx.Rngs(0) if rngs is None else rngs
    if isinstance(name, str):
        name, tag = split_tag(name)
        if tag is not None and weights not in (None, tag):
            raise BadInput(f"weights={weights}: the name {name}.{tag} stands for weights already")
        weights = tag or weights
    architecture = get_config(name)
    if global_pool is not None:
        if not isinstance(architecture, ResNetConfig):
            raise BadInput(
                f"global_pool={global_pool!r}: {name} is a network of one's own, which pools itself"
            )
        architecture = replace(architecture, global_pool=global_pool or None)
    options |= {"in_channels": in_channels, "dtype": dtype}
    if weights is None:
        classes = DEFAULT_CLASSES if num_classes is None else num_classes
        return build_model(architecture, rngs=rngs, num_classes=classes, **options)
    source = open_weights(weights, name if isinstance(name, str) else None)
    file = read_file(source.locate(), ema=ema)
    _check_architecture(name, weights, source, file)
    if num_classes is None:
        num_classes = head_size(file.state_dict) or DEFAULT_CLASSES
    model = abstract_model(architecture, num_classes=num_classes, **options)
    load_torch_state_dict(model, file.state_dict, head=head if num_classes else "new")
    model.preprocessing = preprocessing or source.description.preprocessing or Preprocessing()
    if preprocessing is None and source.description.preprocessing is None:
        log.warning("%s: does not say how images are prepared; assumed: %s", weights, model.preprocessing)
    if head == "new" and model.fc is not None:
        model.fc = linear_head(model.fc.in_features, num_classes, dtype=dtype, rngs=rngs)
    return model


def preprocessing(weights: str | Path, model: str | None = None) -> Preprocessing:
    """How images are prepared for weights; no weights are downloaded for it.

    Args:
        weights: as in `create_model`.
        model: name of the variant; needed with torchvision's names and with a tag alone.

    Raises:
        BadInput: the model has no weights of that name, or `weights` is a file that does not say it.
        FileNotFoundError: no such file or run.

    Example:
        >>> preprocessing("IMAGENET1K_V2", "resnext50_32x4d").resize_size
        232
    """
    found = open_weights(weights, model).description.preprocessing
    if found is None:
        raise BadInput(f"{weights}: does not say how images are prepared; use Preprocessing(...)")
    return found


def told_variant(weights: str | Path, source: Source, file: WeightsFile) -> str | Architecture | None:
    """The variant that weights say they are of, by name if it has one here; None if they do not say.

    Raises:
        BadInput: a model that is not known here.
    """
    if source.description.config is not None:
        known = source.description.model
        same = known in VARIANTS and get_config(known) == source.description.config
        return known if same else source.description.config
    told = file.architecture
    if told is None or told in VARIANTS:
        return told
    if told in timm_weights():
        raise BadInput(f"{weights}: weights of {told}, which is no model here")
    return None


def _check_architecture(
    name: str | Architecture, weights: str | Path, source: Source, file: WeightsFile
) -> None:
    """Check that weights are of the model that is asked for, or of one that computes the same.

    Shapes do not tell: those of resnet18 fit resnetblur18.
    """
    told = told_variant(weights, source, file)
    if told is None or get_config(told) == get_config(name):
        return
    theirs = told if isinstance(told, str) else source.description.model or "another architecture"
    message = f"{weights}: weights of {theirs}, not of {name}"
    if name in timm_weights():
        raise BadInput(f"{message}; use model={theirs}, or a state dict alone, in a file of its own")
    log.warning("%s, which has names and shapes in common with it", message)
