"""CIFAR-10 from its published binary archive, as TFDS's `cifar10` 3.0.2."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from resnext_jax.data.builders.archive_builder import ArchiveBuilder
from resnext_jax.errors import BadInput
from resnext_jax.storage import download

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
RECORD_BYTES = 1 + 3 * 32 * 32


class PublishedFile(NamedTuple):
    """A file on the web whose content is known: its address, bytes, hash and name."""

    url: str
    size: int
    sha256: str
    name: str


def published_archive() -> PublishedFile:
    """The archive, as the installed TFDS lists it."""
    listing = tfds.core.tfds_path("url_checksums/cifar10.txt").read_text()
    line = next(line for line in listing.splitlines() if "cifar-10-binary" in line)
    url, size, sha256, name = line.split("\t")
    return PublishedFile(url, int(size), sha256, name)


class Cifar10(ArchiveBuilder, skip_registration=True):
    """50,000 training and 10,000 test images of 32 x 32 pixels in 10 classes (Krizhevsky 2009)."""

    VERSION = tfds.core.Version("3.0.2")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(32, 32, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=CLASSES),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="CIFAR-10: 60,000 colour images of 32 x 32 pixels in 10 classes.",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        )

    @classmethod
    def find_archive(cls, given: Path | None, downloads: Path) -> Path:
        published = published_archive()
        if given is None:
            return download(published.url, downloads / published.name, sha256_prefix=published.sha256)
        _check(given, published)
        return given

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {split: self._generate_examples(split) for split in FILES}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        # Read from within the archive: nothing is unpacked to disk.
        index = 0
        with tarfile.open(self.archive) as archive:
            for name in FILES[split]:
                member = archive.extractfile(f"cifar-10-batches-bin/{name}")
                assert member is not None
                records = np.frombuffer(member.read(), np.uint8).reshape(-1, RECORD_BYTES)
                for record in records:
                    image = record[1:].reshape(3, 32, 32).transpose(1, 2, 0)
                    png = io.BytesIO()
                    Image.fromarray(image).save(png, "PNG")
                    png.seek(0)
                    example = {"id": f"{split}_{index:05d}", "image": png, "label": int(record[0])}
                    yield index, example
                    index += 1


def _check(path: Path, published: PublishedFile) -> None:
    if not path.is_file():
        raise FileNotFoundError(
            f"archive {path} does not exist: expected {published.name} from {published.url}"
        )
    size = path.stat().st_size
    if size != published.size:
        raise BadInput(f"{path} is not {published.url}: it has {size} bytes, expected {published.size}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != published.sha256:
        raise BadInput(f"{path} is not {published.url}: its SHA-256 is {digest}, expected {published.sha256}")
