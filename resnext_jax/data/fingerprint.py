"""Which images a run was trained on: enough to tell, when it goes on, that they are still the same."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resnext_jax.data.sources import Source
from resnext_jax.errors import BadInput, listed
from resnext_jax.storage import write_whole

IMAGES_FILE = "images.csv.gz"
"""The table of images in a run directory."""


class _Image(NamedTuple):
    """A row of the table, as text; "" for what is not known."""

    image: str
    label: str
    split: str
    size: str
    crc32: str


# What is compared beside the names, and how a difference is told.
_ASPECTS = {"label": "of another class", "split": "in another split", "size": "of another size in bytes"}
_ASPECTS |= {"crc32": "of another content"}


@dataclass(frozen=True)
class Fingerprint:
    """Names, labels, sizes, splits and, if they are known, checksums of some images.

    The folder that the images lie in is no part of it: they may move.

    Args:
        summary: how many images each split has, and digests of the names and of each aspect beside them; as
            JSON values.
        table: a row for each image, in the order of their names; CSV, compressed.
    """

    summary: dict[str, Any]
    table: bytes

    @classmethod
    def of(
        cls, splits: Mapping[str, Source], checksums: Mapping[str, np.ndarray | None] | None = None
    ) -> Fingerprint:
        """Of the images of some splits.

        Args:
            splits: the sources, by name.
            checksums: uint32 [N] of each split, 0 where unknown.
        """
        rows = sorted(
            row for name, source in splits.items() for row in _rows(name, source, (checksums or {}).get(name))
        )
        digests: dict[str, str | None] = {"names": _digest((row.image,) for row in rows)}
        digests |= {name: _digest((row.image, getattr(row, name)) for row in rows) for name in _ASPECTS}
        if not all(row.crc32 for row in rows):
            digests["crc32"] = None
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(_Image._fields)
        table.writerows(rows)
        counts = dict(Counter(row.split for row in rows))
        return cls(
            {"images": counts, "digests": digests}, gzip.compress(text.getvalue().encode(), 6, mtime=0)
        )

    def write(self, directory: Path) -> None:
        """Write the table to a run directory."""
        write_whole(directory / IMAGES_FILE, self.table)

    def differences(self, saved: Mapping[str, Any], directory: Path) -> list[str]:
        """What is not as it was, with the first images that it is about.

        Args:
            saved: the summary as it was.
            directory: the run directory with the table as it was; if it cannot be read, no image is named.
        """
        now, then = self.summary["digests"], saved["digests"]
        changed = {name for name in now if now[name] and then[name] and now[name] != then[name]}
        if not changed:
            return []
        try:
            before = _parse((directory / IMAGES_FILE).read_bytes())
        except (OSError, EOFError, ValueError, TypeError, zlib.error, csv.Error):
            return [f"other {name}s" if name != "names" else "other names" for name in now if name in changed]
        after = _parse(self.table)
        told = {
            "gone": [name for name in before if name not in after],
            "new": [name for name in after if name not in before],
        }
        for aspect, words in _ASPECTS.items():
            pairs = {
                name: (getattr(before[name], aspect), getattr(after[name], aspect))
                for name in before.keys() & after
            }
            told[words] = [
                f"{name} ({a} -> {b})" for name, (a, b) in sorted(pairs.items()) if a and b and a != b
            ]
        return [f"{words}: {len(names)}, {listed(names, 3)}" for words, names in told.items() if names]


def check_same_images(now: Fingerprint, saved: Mapping[str, Any], data: str, directory: Path) -> None:
    """Refuse other images than those of a run.

    Args:
        now: the images that there are.
        saved: summary of the run's.
        data: where the images are, for the message.
        directory: of the run.

    Raises:
        BadInput: names, labels, splits, sizes or contents differ; the message names the first images.
    """
    if differences := now.differences(saved, directory):
        raise BadInput(
            f"data={data}: not the images that the run in {directory} was trained on "
            f"({'; '.join(differences)})"
        )


def _rows(split: str, source: Source, checksums: np.ndarray | None) -> Iterable[_Image]:
    checksums = np.zeros(len(source), np.uint32) if checksums is None else checksums
    columns = (source.keys, source.labels.tolist(), source.sizes.tolist(), checksums.tolist())
    for key, label, size, checksum in zip(*columns, strict=True):
        # One form of every accent: file systems disagree about it.
        name = unicodedata.normalize("NFC", key).encode("utf-8", "surrogateescape")
        yield _Image(
            name.decode("utf-8", "backslashreplace"),
            source.classes[label],
            split,
            str(size) if size else "",
            f"{checksum:08x}" if checksum else "",
        )


def _digest(rows: Iterable[tuple[str, ...]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update("\0".join(row).encode() + b"\0\0")
    return digest.hexdigest()


def _parse(table: bytes) -> dict[str, _Image]:
    header, *rows = csv.reader(io.StringIO(gzip.decompress(table).decode(), newline=""))
    if tuple(header) != _Image._fields:
        raise ValueError("other columns than expected")
    return {row[0]: _Image(*row) for row in rows}
