"""Files of weights: safetensors, torch, and the checkpoints of run directories."""

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from resnext_jax.errors import BadInput, MissingPackage
from resnext_jax.runs import read_best
from resnext_jax.storage import write_whole
from resnext_jax.weights.state_dict import StateDict, clean_state_dict, from_trees
from resnext_jax.weights.torch_zip import RefusedName, read_torch_zip

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".pt.tar")
SAFETENSORS = ".safetensors"
_KINDS = f"{SAFETENSORS}, {', '.join(TORCH_SUFFIXES)} or a run directory"


def read_weights(path: Path, *, average: bool = True) -> StateDict:
    """State dict of a file or of a run directory's best checkpoint: torch's names and layout, float32.

    Args:
        path: a file (.safetensors, .pth, .pt, .bin, .ckpt, .pth.tar) or a run directory.
        average: take averaged weights if they lie beside the raw ones in a training script's checkpoint.

    Raises:
        FileNotFoundError: nothing is there, or a directory without a checkpoint.
        ValueError: another kind of file, a damaged one, or one that holds more than arrays.
    """
    if path.is_dir():
        _, model, _ = read_best(path)
        return from_trees(model["params"], model["batch_stats"])
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file or directory; expected weights as {_KINDS}")
    if path.suffix != SAFETENSORS and not path.name.endswith(TORCH_SUFFIXES):
        raise BadInput(f"{path}: unknown kind of file; expected {_KINDS}")
    _check_content(path)
    raw = _read_safetensors(path) if path.suffix == SAFETENSORS else _read_torch(path)
    try:
        return clean_state_dict(raw, average=average)
    except ValueError as error:
        raise BadInput(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def write_weights(path: Path, state_dict: StateDict) -> None:
    """Write a state dict, whole or not at all.

    Args:
        path: .safetensors, or .pth, .pt, .bin (with torch installed).
        state_dict: arrays by name.

    Raises:
        ValueError: another suffix, or torch is missing.
        OSError: no space left, or no permission.
    """
    if path.suffix == SAFETENSORS:
        # The metadata is what timm and transformers look for.
        data = safetensors.numpy.save(state_dict, metadata={"format": "pt"})
    elif path.suffix in TORCH_SUFFIXES:
        torch = _torch(path)
        buffer = BytesIO()
        torch.save({name: torch.from_numpy(array) for name, array in state_dict.items()}, buffer)
        data = buffer.getvalue()
    else:
        raise BadInput(
            f"{path}: cannot write weights there; expected {SAFETENSORS} or {', '.join(TORCH_SUFFIXES)}"
        )
    write_whole(path, data)


def head_size(state_dict: StateDict) -> int:
    """Number of classes of a state dict.

    Raises:
        ValueError: it has no head.
    """
    if "fc.weight" not in state_dict:
        raise BadInput(
            "the weights have no head (fc.weight); to train one on them, give num_classes=N and head='new' "
            "(train --new-head)"
        )
    return len(state_dict["fc.weight"])


def input_channels(state_dict: StateDict) -> int:
    """Channels of the images that a state dict is for; 3 where its first convolution is not to be found."""
    kernel = state_dict.get("conv1.weight")
    return 3 if kernel is None or kernel.ndim != 4 else kernel.shape[1]


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise BadInput(f"{path}: damaged, incomplete or not safetensors: {error}") from None
    except AttributeError as error:  # numpy has no such type
        raise BadInput(f"{path}: holds arrays of a type that is not read: {error.name}") from None


def _read_torch(path: Path) -> Any:
    try:
        return read_torch_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    except RefusedName as refused:
        raise BadInput(
            f"{path}: refused, nothing was run: it refers to {refused}, and only arrays are read; "
            "where you trust it, load it in PyTorch and save its state_dict() alone"
        ) from None


def _read_legacy(path: Path) -> Any:
    """A file of torch before 1.6, by torch's own restricted reader."""
    with path.open("rb") as file:
        if not file.read(2).startswith(b"\x80"):
            raise BadInput(f"{path}: damaged, or not a file of torch.save")
    torch = _torch(path)
    plain = [
        argparse.Namespace,
        np.dtype,
        np.dtypes.Float64DType,
        np.dtypes.Float32DType,
        np._core.multiarray.scalar,
    ]
    try:
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(plain):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise BadInput(f"{path}: damaged, or not a file of torch.save") from None
        raise RefusedName(found[1]) from None
    except PermissionError:
        raise
    except Exception as error:  # damage makes the unpickler raise errors of many kinds
        reason = str(error).split(".")[0] if isinstance(error, (RuntimeError, OSError)) else ""
        raise BadInput(f"{path}: damaged or incomplete: {reason or 'its parts do not fit'}") from None


def _check_content(path: Path) -> None:
    """Refuse what is often found in the place of weights."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(b"version https://git-lfs"):
        raise BadInput(
            f"{path}: a Git LFS pointer, not the weights themselves; fetch them with `git lfs pull`"
        )
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise BadInput(
            f"{path}: a web page, not weights; download the file again, signed in if it needs that"
        )


def _torch(path: Path) -> ModuleType:
    try:
        import torch
    except ImportError:
        raise MissingPackage(
            f"{path}: {path.suffix} files need PyTorch: pip install 'resnext-jax[torch]', "
            f"or use a {SAFETENSORS} file"
        ) from None
    return torch
