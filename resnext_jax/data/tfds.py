"""Prepared TensorFlow Datasets directories, read without TensorFlow and without the code that built them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from resnext_jax.data.builders import BUILDERS, builder_class
from resnext_jax.data.dataset import Dataset
from resnext_jax.data.sources import Record
from resnext_jax.data.split import SPLIT_OF_NAME, Split
from resnext_jax.data.tfds_index import Index, Row, load_index
from resnext_jax.data.walk import at_home
from resnext_jax.errors import BadInput, MissingPackage

# Features that name an example, the first that a data set has.
_NAME_FEATURES = ("file_name", "filename", "image/filename", "id")
_CHUNK = 1000  # records read at once to learn their labels
_VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclass(frozen=True)
class TfdsName:
    """NAME[/CONFIG][:VERSION], as TFDS writes it."""

    name: str
    config: str | None
    version: str | None

    @classmethod
    def parse(cls, text: str) -> TfdsName:
        """Take a name apart.

        Raises:
            ValueError: it is not of this form.
        """
        match = re.fullmatch(r"(\w+)(?:/([\w.\-]+))?(?::(\d+\.\d+\.\d+))?", text)
        if match is None:
            raise BadInput(f"tfds:{text} names no data set: expected tfds:NAME[/CONFIG][:VERSION]")
        return cls(*match.groups())

    def __str__(self) -> str:
        return f"tfds:{self.name}" + (f"/{self.config}" if self.config else "")


class TfdsSource:
    """One split of a prepared data set.

    Args:
        builder: of `tfds.builder_from_directory`.
        split: the split's name in TFDS.
        image: name of the image feature.
        label: name of the label feature.
    """

    def __init__(self, builder: Any, split: str, image: str, label: str):
        tfds = import_tfds()
        features = builder.info.features
        self.split = split
        self.groups = None
        self._directory = Path(builder.data_dir)
        self.classes = tuple(features[label].names or map(str, range(features[label].num_classes)))
        self._image, self._label = image, label
        self._name = next((name for name in _NAME_FEATURES if name in features), None)
        # TFDS's own decoding ignores EXIF rotation, and is not needed for features that we do not read.
        skipped = {
            name: tfds.decode.SkipDecoding()
            for name, feature in features.items()
            if isinstance(feature, tfds.features.Image)
        }
        self._records = builder.as_data_source(split=split, decoders=skipped)
        if len(self):
            _ = (
                self[0],
                self[len(self) - 1],
            )  # a file that is missing or cut shows here, not after training began

    @cached_property
    def _index(self) -> Index:
        return load_index(self._directory, self.split, len(self), self._rows)

    def _rows(self) -> Iterator[Row]:
        # Without decoding: records are stored whole, images included.
        for start in range(0, len(self), _CHUNK):
            chunk = range(start, min(start + _CHUNK, len(self)))
            try:
                records = self._records.__getitems__(list(chunk))
            except RuntimeError as error:  # what array_record raises, whatever is wrong
                raise _damaged(self._directory, error) from error
            for i, record in zip(chunk, records, strict=True):
                yield int(record[self._label]), self._name_of(record, i), len(record[self._image])

    @property
    def labels(self) -> np.ndarray:
        return self._index.labels

    @property
    def names(self) -> Sequence[str]:
        """What `group_by` is matched against: file names or ids if the data set has them."""
        return self._index.names

    @property
    def sizes(self) -> np.ndarray:
        return self._index.sizes

    @property
    def keys(self) -> Sequence[str]:
        return [f"{self.split}/{name}" for name in self.names]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        try:
            record = self._records[index]
        except RuntimeError as error:  # what array_record raises, whatever is wrong
            raise OSError(f"{self.split}/{index}: {error}") from error
        return {
            "image": record[self._image],
            "label": int(record[self._label]),
            "key": f"{self.split}/{self._name_of(record, index)}",
        }

    def _name_of(self, record: dict[str, Any], index: int) -> str:
        return str(index) if self._name is None else record[self._name].decode("utf-8", "replace")


def open_tfds(name: str, rule: Split, data_dir: Path | None = None) -> Dataset:
    """Open a prepared data set.

    Args:
        name: `NAME[/CONFIG][:VERSION]`.
        rule: how it is divided, if it has a `train` split only.
        data_dir: holds `NAME[/CONFIG]/VERSION`; None: TFDS's own default.

    Raises:
        FileNotFoundError: it is not prepared, or in another version; says how to prepare it.
        ValueError: no image or label in it, its files are not array_record, or they are damaged.
    """
    wanted = TfdsName.parse(name)
    tfds = import_tfds()
    directory = _find(wanted, at_home(data_dir or tfds.core.constants.DATA_DIR))
    try:
        builder = tfds.builder_from_directory(directory)
    except Exception as error:  # JSON, protobuf and TFDS errors of all kinds
        raise _damaged(directory, error) from error
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise BadInput(
            f"{directory} holds {builder.info.file_format.value} files: expected array_record "
            "(tfds build NAME --file_format=array_record)"
        )
    features = builder.info.features
    image = _feature(directory, features, tfds.features.Image, "image")
    label = _feature(directory, features, tfds.features.ClassLabel, "label")
    try:
        sources = {
            SPLIT_OF_NAME[split]: TfdsSource(builder, split, image, label)
            for split in builder.info.splits
            if split in SPLIT_OF_NAME
        }
    except OSError as error:
        raise _damaged(directory, error) from error
    if not sources:
        raise BadInput(
            f"{directory} has no split that is used: it has {', '.join(builder.info.splits) or 'none'}, "
            f"expected some of {', '.join(SPLIT_OF_NAME)}"
        )
    return Dataset(str(wanted), next(iter(sources.values())).classes, sources, rule)


def import_tfds() -> ModuleType:
    """TensorFlow Datasets, imported only where a data set of it is named."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise MissingPackage(
            f"tfds: data sets need TensorFlow Datasets ({error}): pip install tensorflow-datasets "
            "array_record importlib_resources"
        ) from error
    return tfds


def _find(wanted: TfdsName, data_dir: Path) -> Path:
    """The directory of the wanted config and version: the newest if none is asked for, or built by us."""
    of_name = data_dir / wanted.name
    if wanted.config is None and not _versions(of_name):
        configs = [path.name for path in sorted(of_name.glob("*")) if _versions(path)]
        if len(configs) == 1:
            return _find(TfdsName(wanted.name, configs[0], wanted.version), data_dir)
        if configs:
            raise BadInput(
                f"{wanted} is prepared in several configs: name one, {wanted}/{{{','.join(configs)}}}"
            )
    directory = of_name / wanted.config if wanted.config else of_name
    present = _versions(directory)
    version = wanted.version
    if version is None and wanted.name in BUILDERS:
        version = str(builder_class(wanted.name).VERSION)
    if version is None and present:
        version = present[-1]
    if version in present:
        return directory / version

    how = "prepare it with TFDS: tfds build NAME --file_format=array_record"
    if wanted.name in BUILDERS:
        how = f"prepare it: prepare_tfds({str(wanted)!r}, {str(data_dir)!r})"
    what = f"is version {', '.join(present)}, not {version}" if present else "is not prepared"
    raise FileNotFoundError(f"{wanted} in {data_dir} {what}: {how}")


def _damaged(directory: Path, error: Exception) -> BadInput:
    reason = " ".join(str(error).split())
    return BadInput(f"{directory} is damaged: delete it and prepare it again ({reason})")


def _versions(directory: Path) -> list[str]:
    """Versions that lie complete in a directory, oldest first."""
    found = [path.parent.name for path in directory.glob("*/dataset_info.json")]
    return sorted(filter(_VERSION.fullmatch, found), key=lambda version: [int(n) for n in version.split(".")])


def _feature(directory: Path, features: Any, kind: type, name: str) -> str:
    """The feature of a kind: the one that is called as usual, or the only one."""
    found = [feature for feature in features if isinstance(features[feature], kind)]
    if name in found:
        return name
    if len(found) != 1:
        raise BadInput(
            f"{directory} has {len(found)} {kind.__name__} features and none called {name}: expected one "
            f"among {', '.join(sorted(features))}"
        )
    return found[0]
