"""What the pipeline knows of a data set: an indexable source per split, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypedDict

import numpy as np

from resnext_jax.errors import BadInput

SPLITS = ("train", "val", "test")


class Record(TypedDict):
    """One example as a source hands it out."""

    image: bytes | np.ndarray  # an encoded file, or uint8 [h, w, 3]
    label: int  # index into the source's classes
    key: str  # names the example in errors and tables: a relative path, an id


class Source(Protocol):
    """An indexable split. Records are read on demand; labels and keys are known without decoding."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the labels."""

    @property
    def labels(self) -> np.ndarray:
        """int32 [N]."""

    @property
    def keys(self) -> Sequence[str]:
        """The records' keys, length N."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Read record `index`. Raises OSError or ValueError where it cannot be read."""


class Subset:
    """Some records of a source, or of several sources of the same classes one after the other."""

    def __init__(self, source: Source, indices: Sequence[int] | np.ndarray):
        self.source = source
        self.indices = np.asarray(indices, dtype=np.int64)
        self.classes = source.classes

    @property
    def labels(self) -> np.ndarray:
        return self.source.labels[self.indices]

    @property
    def keys(self) -> Sequence[str]:
        keys = self.source.keys
        return [keys[i] for i in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:
        return self.source[int(self.indices[index])]


class Concatenation:
    """Several sources of the same classes, one after the other."""

    def __init__(self, sources: Sequence[Source]):
        self.sources = tuple(sources)
        self.classes = self.sources[0].classes
        self._ends = np.cumsum([len(source) for source in self.sources])

    @property
    def labels(self) -> np.ndarray:
        return np.concatenate([source.labels for source in self.sources])

    @property
    def keys(self) -> Sequence[str]:
        return [key for source in self.sources for key in source.keys]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Record:
        which = int(np.searchsorted(self._ends, index, side="right"))
        return self.sources[which][index - int(self._ends[which]) + len(self.sources[which])]


@dataclass(frozen=True)
class Dataset:
    """A data set opened: its classes and its splits. A split that it lacks is None.

    Args:
        name: what the user called it, for messages.
        classes: class names, in the order of the labels.
        train: training images.
        val: validation images.
        test: test images; may be the very source that `val` is, where the data set validates on its test
            split.
    """

    name: str
    classes: tuple[str, ...]
    train: Source | None = None
    val: Source | None = None
    test: Source | None = None

    def split(self, name: str) -> Source:
        """One split by name, or every image of the data set as `all`.

        Raises:
            ValueError: the data set has no such split.
        """
        present = {split: source for split in SPLITS if (source := getattr(self, split)) is not None}
        if name == "all":
            distinct = list({id(source): source for source in present.values()}.values())
            return distinct[0] if len(distinct) == 1 else Concatenation(distinct)
        if name not in present:
            raise BadInput(f"{self.name} has no {name} split: expected one of {', '.join(present)} or all")
        return present[name]
