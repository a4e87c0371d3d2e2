"""Reading files of `torch.save` without torch: arrays and plain values only, and nothing is run.

Since torch 1.6 such a file is a zip archive: a pickle that refers to storages, and a member of raw bytes for
each storage. The pickle is read by an unpickler that knows a short table of names (torch's rebuild functions,
OrderedDict, argparse.Namespace, NumPy scalars and arrays, paths) and gives each a stand-in of this module;
nothing is imported or looked up by name. Sizes are checked against the file before memory is taken.
"""

import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from resnext_jax.errors import BadInput

# Arrays may share storages (tied weights), so together they may be a few times the file.
MOST_EXPANSION = 8
MOST_PICKLE_BYTES = 256 * 2**20

DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint8": np.uint8,
    "bool": np.bool_,
}
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}


class RefusedName(Exception):
    """The pickle refers to something that is not in the table.

    Args:
        name: what it refers to.
    """


@dataclass(frozen=True)
class DType:
    """A torch type, by name."""

    name: str


@dataclass(frozen=True)
class Storage:
    """Raw bytes in the archive, not read yet."""

    archive: zipfile.ZipFile
    member: zipfile.ZipInfo
    dtype: DType


@dataclass(frozen=True, eq=False)
class StoredArray:
    """A torch tensor in a file: its bytes are read when NumPy asks for them.

    Args:
        storage: where they are.
        type_name: torch's name of the element type.
        offset: first element in the storage.
        shape, strides: in elements.
        big_endian: order of the bytes.
    """

    storage: Storage
    type_name: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    big_endian: bool

    @property
    def dtype(self) -> np.dtype:
        """NumPy's element type."""
        return np.dtype(DTYPES[self.type_name])

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        try:
            raw = self.storage.archive.read(self.storage.member)
        except zipfile.BadZipFile as error:
            raise BadInput(f"{self.storage.archive.filename}: damaged: {error}") from None
        flat = np.frombuffer(bytearray(raw), np.uint8).view(self.dtype)
        if self.big_endian:
            flat = flat.byteswap()
        strides = [stride * self.dtype.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides, writeable=False)
        return np.array(view, dtype=dtype, order="C")


class Namespace:
    """Stands for `argparse.Namespace`: the options of a training script, as plain values."""

    values: dict[str, Any]

    def __new__(cls) -> "Namespace":
        namespace = super().__new__(cls)
        namespace.values = {}
        return namespace


def read_torch_zip(path: Path) -> Any:
    """What `torch.save` wrote, with `StoredArray` in the place of tensors.

    Args:
        path: a zip archive.

    Returns:
        Nested dictionaries, lists, tuples, plain values, arrays.

    Raises:
        BadInput: no file of `torch.save`, a damaged one, or arrays larger than the file can hold.
        RefusedName: it holds more than arrays and plain values.

    Example:
        >>> read_torch_zip(Path("resnet18-f37072fd.pth"))["fc.bias"].shape  # doctest: +SKIP
        (1000,)
    """
    try:
        archive = zipfile.ZipFile(path)
        members = {info.filename: info for info in archive.infolist()}
        root = _root(path, members)
        for info in members.values():
            if info.compress_type != zipfile.ZIP_STORED:
                raise BadInput(f"{path}: {info.filename} is compressed, which torch.save never does: refused")
        if members[f"{root}data.pkl"].file_size > min(MOST_PICKLE_BYTES, path.stat().st_size):
            raise BadInput(f"{path}: damaged: its data.pkl is said to be larger than the file")
        order = archive.read(f"{root}byteorder") if f"{root}byteorder" in members else b"little"
        with archive.open(f"{root}data.pkl") as stream:
            reader = _Unpickler(stream, path, archive, root, members, order.strip() == b"big")
            content = reader.load()
    except (BadInput, RefusedName, PermissionError):
        raise
    except zipfile.BadZipFile as error:
        raise BadInput(f"{path}: damaged or incomplete: {' '.join(str(error).split())}") from None
    except Exception as error:  # damage makes unpicklers raise errors of many kinds
        raise BadInput(
            f"{path}: damaged or incomplete: its parts do not fit ({type(error).__name__})"
        ) from None
    return content


def _root(path: Path, members: dict[str, zipfile.ZipInfo]) -> str:
    """The folder that everything lies in; what else a zip file of torch's may be is told by its members."""
    names = list(members)
    if any(name.endswith("/constants.pkl") for name in names):
        raise BadInput(
            f"{path}: a TorchScript program, not weights; load it in PyTorch (torch.jit.load) and save its "
            "state_dict()"
        )
    if any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
        raise BadInput(
            f"{path}: a program of torch.export, not weights; load it in PyTorch (torch.export.load) and "
            "save its state_dict"
        )
    pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise BadInput(f"{path}: damaged, or not a file of torch.save: a zip archive without its data.pkl")
    return pickles[0].removesuffix("data.pkl")


class _Unpickler(pickle._Unpickler):  # the one in Python: its memory is bounded by the file
    def __init__(self, stream, path, archive, root, members, big_endian):
        super().__init__(stream)
        self.path, self.archive, self.root, self.members = path, archive, root, members
        self.big_endian = big_endian
        self.budget = MOST_EXPANSION * path.stat().st_size
        self.table = _table(self)

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return DType(_STORAGES[name])
        if module == "torch.storage" and name == "UntypedStorage":
            return DType("uint8")
        if module == "torch" and (name in DTYPES or name.startswith(("float8", "complex", "uint", "q"))):
            return DType(name)
        try:
            return self.table[module, name]
        except KeyError:
            raise RefusedName(f"{module}.{name}") from None

    def persistent_load(self, reference: Any) -> Storage:
        kind, dtype, key, _, count = reference
        member = self.members.get(f"{self.root}data/{key}")
        if kind != "storage" or not isinstance(dtype, DType) or member is None:
            raise BadInput(f"{self.path}: damaged or incomplete: storage {key} is missing")
        if dtype.name in DTYPES and member.file_size != count * np.dtype(DTYPES[dtype.name]).itemsize:
            raise BadInput(
                f"{self.path}: damaged: storage {key} has {member.file_size:,} bytes where {count:,} numbers "
                f"of {dtype.name} should be"
            )
        if member.file_size > self.path.stat().st_size:
            raise BadInput(f"{self.path}: damaged: storage {key} is said to be larger than the file")
        return Storage(self.archive, member, dtype)

    def tensor(self, storage, offset, shape, strides, *_: Any, dtype: DType | None = None) -> StoredArray:
        dtype = dtype or storage.dtype
        if dtype.name not in DTYPES:
            raise BadInput(f"{self.path}: holds arrays of a type that is not read: {dtype.name}")
        array = StoredArray(storage, dtype.name, offset, tuple(shape), tuple(strides), self.big_endian)
        numbers = (offset, *array.shape, *array.strides)
        held = storage.member.file_size // array.dtype.itemsize
        last = offset + sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True))
        whole = all(isinstance(n, int) and n >= 0 for n in numbers)
        if not whole or math.prod(array.shape) > held or (0 not in array.shape and last >= held):
            raise BadInput(f"{self.path}: damaged or hostile: an array of {array.shape} in {held:,} numbers")
        self.budget -= array.nbytes
        if self.budget < 0:
            raise BadInput(
                f"{self.path}: refused: its arrays are over {MOST_EXPANSION} times the file's size"
            )
        return array

    # BUILD fills an object's attributes by what the pickle says: here, those of stand-ins alone.
    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Namespace) and isinstance(state, dict):
            target.values.update(state)
        elif isinstance(target, _NumpyArray):
            self.stack[-1] = target.filled(self.path, state)
        elif isinstance(target, _NumpyType):
            if state[1] == ">":
                raise RefusedName("a NumPy type of big-endian numbers")
        elif not isinstance(target, (OrderedDict, Storage, StoredArray)):
            raise RefusedName(f"the state of a {type(target).__name__}")

    dispatch: ClassVar = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}


@dataclass(frozen=True)
class _NumpyType:
    """Stands for `numpy.dtype`."""

    name: str

    def dtype(self) -> np.dtype:
        dtype = np.dtype(self.name)
        if dtype.kind not in "fiub":
            raise RefusedName(f"numpy.dtype({self.name!r})")
        return dtype


class _NumpyArray:
    """Stands for a NumPy array until its content is known."""

    def filled(self, path: Path, state: Any) -> np.ndarray:
        _, shape, dtype, fortran, data = state
        if not isinstance(data, bytes) or math.prod(shape) * dtype.dtype().itemsize != len(data):
            raise BadInput(f"{path}: damaged or hostile: a NumPy array of {shape} in {len(data):,} bytes")
        return np.frombuffer(data, dtype.dtype()).reshape(shape, order="F" if fortran else "C")


def _table(reader: _Unpickler) -> dict[tuple[str, str], Callable[..., Any]]:
    """Every name that a pickle may refer to, and what stands for it."""

    def scalar(dtype: _NumpyType, data: bytes) -> Any:
        return np.frombuffer(data, dtype.dtype(), count=1)[0].item()

    def encode(text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise RefusedName(f"_codecs.encode to {encoding}")
        return text.encode("latin1")

    def tensor_v3(storage, offset, shape, strides, requires_grad, hooks, dtype, *_: Any) -> StoredArray:
        return reader.tensor(storage, offset, shape, strides, dtype=dtype)

    def path(*parts: str) -> str:
        return str(PurePosixPath(*map(str, parts)))

    table: dict[tuple[str, str], Callable[..., Any]] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor"): reader.tensor,
        ("torch._utils", "_rebuild_tensor_v2"): reader.tensor,
        ("torch._utils", "_rebuild_tensor_v3"): tensor_v3,
        ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        ("torch._utils", "_rebuild_parameter_with_state"): lambda tensor, *_: tensor,
        ("torch", "Size"): tuple,
        ("torch", "device"): lambda kind, *_: kind,
        ("argparse", "Namespace"): Namespace,
        ("_codecs", "encode"): encode,
        ("numpy", "dtype"): lambda name, *_: _NumpyType(name),
        ("numpy", "ndarray"): _NumpyArray,
        ("pathlib", "PosixPath"): path,
        ("pathlib", "PurePosixPath"): path,
        ("pathlib", "WindowsPath"): path,
    }
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        table[module, "scalar"] = scalar
        table[module, "_reconstruct"] = lambda *_: _NumpyArray()
    for name in ("Float32DType", "Float64DType", "Int64DType", "Int32DType", "BoolDType"):
        kind = name.removesuffix("DType").lower()
        table["numpy.dtypes", name] = lambda kind=kind: _NumpyType(kind)
    return table
