"""A classifier as one file that runs without this package."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import export as jax_export

from resnext_jax.errors import BadInput, MissingPackage
from resnext_jax.inference.fold import fold_batch_norm
from resnext_jax.models import Network, parameter_count
from resnext_jax.runs import ModelSpec
from resnext_jax.storage import write_whole

FORMATS = (".jaxexport", ".onnx")
PLATFORMS = ("cpu", "cuda", "tpu")
MOST_BYTES = 2**31 - 2**20  # of parameters: both formats address 2 GiB, the program itself included

Classifier = Callable[[jax.Array], jax.Array]
"""uint8 [N, S, S, 3] to float32 [N, K]."""


def export_model(model: Network, spec: ModelSpec, file: Path) -> list[Path]:
    """Write a classifier to a file; the format is by its ending.

    Both formats take `images`, uint8 [N, S, S, 3] with any N, and give `probabilities`, float32 [N, K].
    Normalisation is inside, batch norms are folded into the convolutions. Making the square S x S from an
    image is left to the caller, as `spec.preprocessing` tells.

    Args:
        model: the network; it is left unchanged.
        spec: its classes and preprocessing.
        file: `.jaxexport`: an artifact of `jax.export` for CPU, CUDA and TPU, which JAX alone can run;
            classes and preprocessing are written beside it as `<file>.json`. `.onnx`: computes in float32;
            classes and preprocessing are in its metadata.

    Returns:
        The files written.

    Raises:
        BadInput: another ending, or more parameters than the formats hold.
        MissingPackage: flatbuffers or onnx is not installed.
    """
    check_format(file)
    if 4 * parameter_count(model) > MOST_BYTES:
        raise BadInput(f"{file}: {parameter_count(model):,} parameters are more than one file of 2 GiB holds")
    file.parent.mkdir(parents=True, exist_ok=True)
    write = _write_onnx if file.suffix.lower() == ".onnx" else _write_jax
    return write(fold_batch_norm(model, spec.preprocessing.image_size), spec, file)


def check_format(file: Path) -> None:
    """Check, before any work, that a model can be exported under this name.

    Raises:
        BadInput: an ending that is no format.
    """
    if file.suffix.lower() not in FORMATS:
        raise BadInput(f"{file}: expected an ending of {', '.join(FORMATS)}")


def describe(spec: ModelSpec) -> dict[str, Any]:
    """What a user of the file must know, as JSON values."""
    side = spec.preprocessing.image_size
    return {
        "model": spec.name,
        "input": f"images: uint8 [N, {side}, {side}, 3], upright RGB, resized and cropped as preprocessing "
        "says; they are normalised inside",
        "output": "probabilities: float32 [N, K], in the order of classes",
        "classes": list(spec.classes),
        "preprocessing": spec.preprocessing.to_dict(),
    }


def classifier(model: Network, spec: ModelSpec) -> Classifier:
    """Images as `spec.preprocessing` leaves them to logits."""
    return lambda images: model(spec.preprocessing.normalize(images))


def _write_jax(model: Network, spec: ModelSpec, file: Path) -> list[Path]:
    logits = classifier(model, spec)
    side = spec.preprocessing.image_size
    (count,) = jax_export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((count, side, side, 3), jnp.uint8)
    program = jax.jit(lambda images: jax.nn.softmax(logits(images)))
    with _without_locations():
        exported = jax_export.export(program, platforms=PLATFORMS)(images)
    try:
        content = exported.serialize()
    except ImportError as error:
        raise MissingPackage(f"{file}: {error}; pip install 'resnext-jax[export]'") from error
    beside = file.with_name(file.name + ".json")
    write_whole(file, bytes(content))
    write_whole(beside, json.dumps(describe(spec), indent=2, ensure_ascii=False) + "\n")
    return [file, beside]


@contextmanager
def _without_locations() -> Iterator[None]:
    """Keep the paths of this machine's source files out of exported programs."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def _write_onnx(model: Network, spec: ModelSpec, file: Path) -> list[Path]:
    try:
        from resnext_jax.inference.export_onnx import to_onnx
    except ImportError as error:
        raise MissingPackage(f"{file}: {error}; pip install 'resnext-jax[onnx]'") from error
    modules: list[Any] = [module for _, module in nnx.iter_modules(model)]
    for module in modules:  # folding made them copies of our own
        if hasattr(module, "dtype"):
            module.dtype = jnp.float32
    content = to_onnx(classifier(model, spec), spec.preprocessing.image_size, describe(spec))
    write_whole(file, content)
    return [file]
