"""What the pipeline knows of a data set: an indexable source per split, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypedDict

import numpy as np


class Record(TypedDict):
    """One example as a source hands it out."""

    image: bytes | np.ndarray  # an encoded file, or uint8 [h, w, 3]
    label: int  # index into the source's classes
    key: str  # names the example in errors and tables: a relative path, an id


class Source(Protocol):
    """Indexable images. Records are read on demand; labels, keys and sizes are known before any is read."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the labels."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """int32 [N]."""
        ...

    @property
    def keys(self) -> Sequence[str]:
        """The records' keys, length N."""
        ...

    @property
    def sizes(self) -> np.ndarray:
        """int64 [N], bytes of each image as it is stored; 0 if that is not known without reading it."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Read record `index`. Raises OSError or ValueError if it cannot be read."""
        ...


class NamedSource(Source, Protocol):
    """A source whose images have names that say how they belong together."""

    @property
    def names(self) -> Sequence[str]:
        """What a regular expression for groups is matched against, length N."""
        ...

    @property
    def groups(self) -> Sequence[str] | None:
        """The group of each image, length N, if the data say it themselves."""
        ...


class Subset:
    """Some records of a source, in the order of their indices."""

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
        return [keys[int(i)] for i in self.indices]

    @property
    def sizes(self) -> np.ndarray:
        return self.source.sizes[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:
        return self.source[int(self.indices[index])]


class Relabelled:
    """A source whose labels count the classes of a model.

    Args:
        source: of some of the classes.
        classes: of the model, in the order of its outputs.

    Raises:
        ValueError: the source has another class.
    """

    def __init__(self, source: Source, classes: Sequence[str]):
        self.source, self.classes = source, tuple(classes)
        self._label_of = np.array([self.classes.index(name) for name in source.classes], np.int32)

    @property
    def labels(self) -> np.ndarray:
        return self._label_of[self.source.labels]

    @property
    def keys(self) -> Sequence[str]:
        return self.source.keys

    @property
    def sizes(self) -> np.ndarray:
        return self.source.sizes

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        record = self.source[index]
        label = int(self._label_of[record["label"]])
        return {"image": record["image"], "label": label, "key": record["key"]}


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

    @property
    def sizes(self) -> np.ndarray:
        return np.concatenate([source.sizes for source in self.sources])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Record:
        which = int(np.searchsorted(self._ends, index, side="right"))
        return self.sources[which][index - int(self._ends[which]) + len(self.sources[which])]
