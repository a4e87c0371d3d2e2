"""What the names in a pickle of torch stand for: arrays and plain values, never code of the file."""

import re
from pathlib import PurePosixPath
from typing import Any

import ml_dtypes
import numpy as np

from resnext_jax.weights.pickles import Call, Damaged, Stateful
from resnext_jax.weights.stored import Storage, StoredArray, Unreadable

# Names of torch's types, and of the storages that are named after them.
_TYPES: dict[str, Any] = {
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint8": "u1",
    "uint16": "u2",
    "uint32": "u4",
    "uint64": "u8",
    "bool": "?",
    "complex64": "c8",
    "complex128": "c16",
}
_STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
}


class _NumpyType(Stateful):
    """A `numpy.dtype` in the making: the type, then its byte order."""

    def __init__(self, kind: Any, *_: Any):
        if not isinstance(kind, str) or not re.fullmatch(r"[<>=|]?(b1|[iu][1248]|f[248]|c8|c16)", kind):
            raise Damaged(f"NumPy values of the type {kind!r}")
        self.dtype = np.dtype(kind)

    def set_state(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _NumpyArray(Stateful):
    """A `numpy.ndarray` in the making; `__array__` and its kin come with its state."""

    def __init__(self, *_: Any):
        self.array = np.empty(0, np.float32)

    def set_state(self, state: Any) -> None:
        _, shape, kind, by_columns, data = state
        if not isinstance(kind, _NumpyType) or not isinstance(data, bytes):
            raise Damaged("a NumPy array of objects")
        flat = np.frombuffer(data, kind.dtype)
        self.array = flat.reshape(shape, order="F" if by_columns else "C")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @property
    def ndim(self) -> int:
        return self.array.ndim

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return self.array.astype(dtype or self.dtype.newbyteorder("="), copy=bool(copy))


class _Attributes(dict[str, Any], Stateful):
    """An object whose attributes are all that it has, such as an `argparse.Namespace`."""

    def set_state(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise Damaged("attributes that are no dictionary")
        self.update(state)


def _numpy_scalar(kind: Any, data: Any) -> Any:
    if not isinstance(kind, _NumpyType) or not isinstance(data, bytes):
        raise Damaged("a NumPy scalar of an object")
    return np.frombuffer(data, kind.dtype, count=1)[0].item()


def _encode(text: Any, encoding: Any) -> bytes:
    # How Python 3 writes bytes in pickles that Python 2 can read.
    if encoding != "latin1" or not isinstance(text, str):
        raise Damaged("text of another encoding than expected")
    return text.encode("latin1")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> StoredArray | Unreadable:
    if not isinstance(storage, Storage):
        raise Damaged("a tensor without a storage")
    metadata = more[2] if len(more) > 2 else None  # after requires_grad and backward hooks
    if metadata:
        return Unreadable("conjugate or negative view")
    return StoredArray(storage, offset, tuple(size), tuple(stride))


def _tensor_of_type(
    storage: Any, offset: Any, size: Any, stride: Any, gradient: Any, hooks: Any, dtype: Any, *more: Any
) -> StoredArray | Unreadable:
    """A tensor whose storage has no type of its own, but bytes."""
    if not isinstance(storage, Storage) or not isinstance(dtype, np.dtype):
        raise Damaged("a tensor without a storage")
    count, rest = divmod(storage.count * storage.dtype.itemsize, dtype.itemsize)
    if rest:
        raise Damaged(f"{storage.count} bytes are no whole number of {dtype}")
    order = storage.dtype.byteorder
    typed = Storage(dtype.newbyteorder(order if order in "<>" else "="), count, storage.read)
    return _tensor(typed, offset, size, stride, gradient, hooks, *more)


def _first(value: Any, *_: Any) -> Any:
    return value


def _unreadable(kind: str) -> Call:
    return Call(lambda *_: Unreadable(kind))


def _device(*parts: Any) -> str:
    return ":".join(_texts(parts))


def _path(*parts: Any) -> str:
    return str(PurePosixPath(*_texts(parts)))


def _texts(parts: tuple[Any, ...]) -> list[str]:
    if not all(isinstance(part, str | int) for part in parts):
        raise Damaged("a path or a device of something else than text")
    return [str(part) for part in parts]


NAMES: dict[str, Any] = {
    "torch._utils._rebuild_tensor": Call(_tensor),
    "torch._utils._rebuild_tensor_v2": Call(_tensor),
    "torch._utils._rebuild_tensor_v3": Call(_tensor_of_type),
    "torch._utils._rebuild_parameter": Call(_first),
    "torch._utils._rebuild_parameter_with_state": Call(_first),
    "torch._utils._rebuild_sparse_tensor": _unreadable("sparse"),
    "torch._utils._rebuild_qtensor": _unreadable("quantised"),
    "torch._utils._rebuild_meta_tensor_no_storage": _unreadable("without values"),
    "torch.serialization._get_layout": _unreadable("layout"),
    "torch.Size": Call(lambda size=(): tuple(size)),
    "torch.device": Call(_device),
    "torch.storage.UntypedStorage": np.dtype("u1"),
    "torch.UntypedStorage": np.dtype("u1"),
    "collections.OrderedDict": Call(lambda *items: {}),
    "collections.defaultdict": Call(lambda *_: {}),
    "collections.Counter": Call(lambda counts=None: dict(counts or {})),
    "collections.deque": Call(lambda items=(), *_: list(items)),
    "argparse.Namespace": Call(_Attributes),
    "types.SimpleNamespace": Call(_Attributes),
    "decimal.Decimal": Call(_first),
    "_codecs.encode": Call(_encode),
} | {f"torch.{name}": np.dtype(kind) for name, kind in _TYPES.items()}
NAMES |= {f"torch.{name}Storage": np.dtype(_TYPES[kind]) for name, kind in _STORAGES.items()}
NAMES |= {
    f"{module}.{name}": value
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    for name, value in {"scalar": Call(_numpy_scalar), "_reconstruct": Call(_NumpyArray)}.items()
}
NAMES |= {"numpy.dtype": Call(_NumpyType), "numpy.ndarray": "ndarray"}
NAMES |= {
    f"{module}.{name}": value
    for module in ("builtins", "__builtin__")
    for name, value in {
        "set": Call(lambda items=(): list(items)),
        "frozenset": Call(lambda items=(): list(items)),
        "bytearray": Call(lambda *_: b""),
        "complex": Call(complex),
        "dict": Call(lambda *_: {}),
        "list": Call(lambda *_: []),
        "int": Call(lambda *_: 0),
        "float": Call(lambda *_: 0.0),
    }.items()
}
# When something was saved is said beside weights, but used nowhere here.
NAMES |= {
    f"datetime.{name}": Call(lambda *_: None)
    for name in ("datetime", "date", "time", "timedelta", "timezone")
}
NAMES |= {
    f"{module}.{name}Path": Call(_path)
    for module in ("pathlib", "pathlib._local")
    for name in ("Posix", "Windows", "PurePosix", "PureWindows")
}
