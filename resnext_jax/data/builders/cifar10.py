"""CIFAR-10 from its published binary archive, as TFDS's `cifar10` 3.0.2."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from resnext_jax.data.builders.archive_builder import ArchiveBuilder
from resnext_jax.data.download import PublishedFile, check, download

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
RECORD_BYTES = 1 + 3 * 32 * 32


def published_archive() -> PublishedFile:
    """Address, size and SHA-256 of the archive, as the installed TFDS lists them."""
    listing = tfds.core.tfds_path("url_checksums/cifar10.txt").read_text()
    line = next(line for line in listing.splitlines() if "cifar-10-binary" in line)
    url, size, sha256, name = line.split("\t")
    return PublishedFile(url=url, size=int(size), sha256=sha256, name=name)


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
        if given is None:
            return download(published_archive(), downloads)
        check(given, published_archive())
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
                    example = {"id": f"{split}_{index:05d}", "image": png, "label": int(record[0])}
                    yield index, example
                    index += 1
