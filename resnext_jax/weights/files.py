"""Files of weights: read by what they hold, whatever they are called; written whole or not at all."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from resnext_jax.errors import BadInput, MissingPackage
from resnext_jax.runs import has_average, read_best
from resnext_jax.storage import write_whole
from resnext_jax.weights.checkpoint import averages_beside, told_architecture
from resnext_jax.weights.pickles import Damaged
from resnext_jax.weights.state_dict import StateDict, clean_state_dict, from_trees
from resnext_jax.weights.torch_files import read_torch

TORCH_SUFFIXES = (".pth", ".pt", ".bin")
SAFETENSORS = ".safetensors"
_KINDS = (
    f"{SAFETENSORS}, a file of torch.save ({', '.join(TORCH_SUFFIXES)}, .pth.tar, .ckpt) or a run directory"
)
_SNIFFED = 512  # bytes
# Arrays of a file may share their numbers, but not so often that a small file fills the memory.
_MOST_TIMES_ITS_SIZE, _ALWAYS_ALLOWED = 16, 1 << 20

FloatType = Literal["float32", "float16", "bfloat16"]
_TYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class WeightsFile:
    """What a file or a run directory holds.

    Args:
        state_dict: torch's names and layout, float32.
        architecture: what it calls its network; None if it does not.
        metadata: texts that a safetensors file has beside its arrays.
        has_average: whether there are averaged weights beside raw ones, of which one set was read.
    """

    state_dict: StateDict
    architecture: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    has_average: bool = False


def read_weights(path: Path, *, ema: bool = True) -> StateDict:
    """State dict of a file or of a run directory's best checkpoint: torch's names and layout, float32.

    Args:
        path: a file of safetensors or of torch.save, or a run directory.
        ema: if there are averaged weights beside the raw ones, take the averaged.

    Raises:
        FileNotFoundError: nothing is there, or a directory without a checkpoint.
        BadInput: another kind of file, a damaged one, or one that could run code.

    Example:
        >>> write_weights(Path("half.safetensors"), {"fc.bias": np.ones(3, np.float32)}, dtype="float16")
        >>> read_weights(Path("half.safetensors"))
        {'fc.bias': array([1., 1., 1.], dtype=float32)}
    """
    return read_file(path, ema=ema).state_dict


def read_file(path: Path, *, ema: bool = True) -> WeightsFile:
    """As `read_weights`, with what else the file says."""
    if path.is_dir():
        _, model, _ = read_best(path, ema=ema)
        return WeightsFile(from_trees(model["params"], model["batch_stats"]), has_average=has_average(path))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file or directory; expected weights as {_KINDS}")
    content, metadata = _reader(path)(path)
    try:
        _check_size(path, content)
        arrays = clean_state_dict(content, ema=ema)
    except Damaged as error:
        raise BadInput(f"{path}: damaged or incomplete: {error}") from None
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    return WeightsFile(arrays, told_architecture(content), metadata, averages_beside(content))


def write_weights(
    path: Path,
    state_dict: StateDict,
    *,
    dtype: FloatType = "float32",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a state dict, whole or not at all.

    Args:
        path: .safetensors, or .pth, .pt, .bin (with torch installed).
        state_dict: arrays by name.
        dtype: type of the floating point numbers in the file.
        metadata: texts to be kept in a safetensors file.

    Raises:
        BadInput: another suffix, torch is missing, or numbers that float16 has not.
        OSError: no space left, or no permission.

    Example:
        >>> write_weights(Path("a.safetensors"), {"fc.bias": np.zeros(3, np.float32)})
        >>> read_weights(Path("a.safetensors"))["fc.bias"].shape
        (3,)
    """
    if dtype not in get_args(FloatType):
        raise BadInput(f"dtype={dtype!r}: expected one of {', '.join(get_args(FloatType))}")
    arrays = {name: _cast(name, array, dtype) for name, array in state_dict.items()}
    if path.suffix == SAFETENSORS:
        # The format is what timm and transformers look for.
        data = safetensors.numpy.save(arrays, metadata={**(metadata or {}), "format": "pt"})
    elif path.suffix in TORCH_SUFFIXES:
        torch = _torch(path)
        buffer = BytesIO()
        torch.save({name: _tensor(torch, array) for name, array in arrays.items()}, buffer)
        data = buffer.getvalue()
    else:
        raise BadInput(
            f"{path}: cannot write weights there; expected {SAFETENSORS} or {', '.join(TORCH_SUFFIXES)}"
        )
    write_whole(path, data)


def head_size(state_dict: StateDict) -> int | None:
    """Number of classes of a state dict; None if it has no head."""
    return len(state_dict["fc.weight"]) if "fc.weight" in state_dict else None


Content = tuple[Any, Mapping[str, str]]


def _reader(path: Path) -> Callable[[Path], Content]:
    """What reads a file, by its first bytes; files of other kinds are told for what they are."""
    with path.open("rb") as file:
        start = file.read(_SNIFFED)
    text = start.lstrip().lower()
    if not start:
        raise BadInput(f"{path}: damaged or incomplete: the file is empty")
    if start.startswith(b"version https://git-lfs"):
        raise BadInput(f"{path}: a Git LFS pointer, not the weights; fetch them with `git lfs pull`")
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise BadInput(f"{path}: a web page, not weights: the download went wrong; fetch the file itself")
    if start.startswith(b"\x89HDF"):
        raise BadInput(f"{path}: an HDF5 file, such as Keras writes; expected {_KINDS}")
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")) or start[257:262] == b"ustar":
        raise BadInput(f"{path}: an archive; unpack it and give a file of weights in it")
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return _read_torch
    if start[8:9] == b"{" or path.suffix == SAFETENSORS:
        return _read_safetensors
    if path.suffix in TORCH_SUFFIXES:
        return _read_torch
    raise BadInput(f"{path}: unknown kind of file; expected {_KINDS}")


def _read_torch(path: Path) -> Content:
    return read_torch(path), {}


def _read_safetensors(path: Path) -> Content:
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = {name: text for name, text in (file.metadata() or {}).items() if name != "format"}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise BadInput(f"{path}: damaged, incomplete or not safetensors: {error}") from None
    except AttributeError as error:  # numpy has no such type
        raise BadInput(f"{path}: holds arrays of a type that is not read: {error.name}") from None


def _check_size(path: Path, content: Any) -> None:
    """Check that the file does not ask for far more memory than it has bytes."""
    size = 0
    seen, open_ = set(), [content]
    while open_:
        value = open_.pop()
        if isinstance(value, Mapping) and id(value) not in seen:
            seen.add(id(value))
            open_ += value.values()
        else:
            size += 4 * math.prod(getattr(value, "shape", (0,)))
    if size > _MOST_TIMES_ITS_SIZE * path.stat().st_size + _ALWAYS_ALLOWED:
        raise Damaged(f"its arrays would take {size:,} bytes, the file has {path.stat().st_size:,}")


def _cast(name: str, array: np.ndarray, dtype: FloatType) -> np.ndarray:
    if dtype == "float32" or array.dtype != np.float32:
        return array
    with np.errstate(over="ignore"):
        cast = array.astype(_TYPES[dtype])
    if np.isinf(cast.astype(np.float32)).any() and not np.isinf(array).any():
        raise BadInput(f"dtype={dtype!r}: {name} has numbers up to {np.abs(array).max():g}; use 'bfloat16'")
    return cast


def _tensor(torch: ModuleType, array: np.ndarray) -> Any:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _torch(path: Path) -> ModuleType:
    try:
        import torch
    except ImportError:
        raise MissingPackage(
            f"{path}: to write {path.suffix} files install PyTorch: pip install 'resnext-jax[torch]', or "
            f"write {SAFETENSORS}, which PyTorch's users read too"
        ) from None
    return torch
