"""Arrays of a file: described when the file is opened, read when they are needed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from resnext_jax.weights.pickles import Damaged

MOST_AXES = 64


@dataclass(frozen=True)
class Storage:
    """Numbers of one type, one after the other, that arrays are views of.

    Args:
        dtype: their type, with its byte order.
        count: how many there are.
        read: fetches their bytes, uint8 [count * itemsize].
    """

    dtype: np.dtype
    count: int
    read: Callable[[], np.ndarray]

    @cached_property
    def values(self) -> np.ndarray:
        """[count], read once, however many views there are."""
        data = self.read()
        if data.nbytes != self.count * self.dtype.itemsize:
            raise Damaged(f"{data.nbytes} bytes where {self.count} of {self.dtype} belong")
        return data.view(self.dtype)


@dataclass(frozen=True)
class StoredArray:
    """A view of a storage, as `torch.as_strided` makes it; `np.asarray` reads it.

    Args:
        storage: where the numbers are.
        offset: of the first one.
        shape: of the array.
        strides: in numbers, of each axis.

    Raises:
        Damaged: it reaches beyond the storage, or has more numbers than the storage.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        lengths = (self.offset, *self.shape, *self.strides)
        if not all(type(length) is int and length >= 0 for length in lengths):
            raise Damaged("sizes that are no positive whole numbers")
        if len(self.shape) != len(self.strides) or len(self.shape) > MOST_AXES:
            raise Damaged(f"{len(self.shape)} axes with {len(self.strides)} strides")
        size = math.prod(self.shape)
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        # More numbers than are stored: a file of a kilobyte could ask for any amount of memory.
        if size > self.storage.count or (size and last >= self.storage.count):
            raise Damaged(f"an array of {list(self.shape)} in a storage of {self.storage.count} numbers")

    @property
    def dtype(self) -> np.dtype:
        return self.storage.dtype.newbyteorder("=")

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        values = self.storage.values[self.offset :]
        strides = [stride * values.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(values, self.shape, strides)
        return view.astype(dtype or self.dtype, copy=bool(copy))


@dataclass(frozen=True)
class Unreadable:
    """Stands for a tensor that has no dense array: sparse, quantised, without values.

    Args:
        kind: which, in a word.
    """

    kind: str
