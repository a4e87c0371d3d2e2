"""Image files found by what a table calls them."""

from __future__ import annotations

import contextlib
import os
import stat
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath

from resnext_jax.data.images import image_suffixes
from resnext_jax.data.walk import Folder


class ImageFiles:
    """The images below a folder, found by path or by name, with or without their suffix.

    Args:
        root: the folder; it is walked only for what does not lie where its path says.
    """

    def __init__(self, root: Path):
        self.root = root

    def find(self, value: str) -> list[tuple[str, int]]:
        """Path and bytes of the files that a cell may mean; one, if it is clear."""
        if not value or "\0" in value:
            return []
        path = PurePosixPath(value.replace("\\", "/"))
        with contextlib.suppress(OSError):
            status = os.stat(self.root / path)
            if stat.S_ISREG(status.st_mode):
                return [(path.as_posix(), status.st_size)]
        return _in_folders_of(path, self._by_name.get(path.name, ()))

    def find_alike(self, value: str) -> list[tuple[str, int]]:
        """As `find`, by name without case, suffix and leading zeros, which spreadsheets drop."""
        path = PurePosixPath(value.replace("\\", "/"))
        return _in_folders_of(path, self._by_plain_name.get(_plain(path.name), ())) if path.name else []

    @cached_property
    def _images(self) -> list[tuple[str, int]]:
        return Folder(self.root).images

    @cached_property
    def _by_name(self) -> dict[str, list[tuple[str, int]]]:
        found = defaultdict(list)
        for key, size in self._images:
            name = PurePosixPath(key).name
            for called in {name, os.path.splitext(name)[0]}:
                found[called].append((key, size))
        return found

    @cached_property
    def _by_plain_name(self) -> dict[str, list[tuple[str, int]]]:
        found = defaultdict(list)
        for key, size in self._images:
            found[_plain(PurePosixPath(key).name)].append((key, size))
        return found


def _plain(name: str) -> str:
    """A file name without case, the suffix of an image, and leading zeros."""
    name = name.casefold()
    stem, suffix = os.path.splitext(name)
    return (stem if suffix in image_suffixes() else name).lstrip("0")


def _in_folders_of(path: PurePosixPath, images: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """The images that lie in the folders of a path.

    These may begin further up or down: /home/me/images/1.jpg, images/1.jpg, 1.jpg.
    """
    return [
        (key, size)
        for key, size in images
        if all(a == b for a, b in zip(_folders(PurePosixPath(key)), _folders(path), strict=False))
    ]


def _folders(path: PurePosixPath) -> Iterable[str]:
    """The folders that a file lies in, the nearest first."""
    return (parent.name for parent in path.parents if parent.name)
