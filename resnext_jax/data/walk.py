"""Folders as they lie on disk, each read once: what other programs leave in them is not seen."""

from __future__ import annotations

import errno
import os
from collections import Counter, deque
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from resnext_jax.data.images import image_suffixes

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
"""Lower-case endings of the files that may list images and their labels."""

# Folders of network storage, file systems and unpackers; hidden ones begin with a dot.
_LITTER = frozenset(
    {
        "@eadir",
        "@tmp",
        "@recycle",
        "@recently-snapshot",
        "@__thumb",
        "#recycle",
        "#snapshot",
        "lost+found",
        "found.000",
        "__macosx",
        "$recycle.bin",
        "system volume information",
        "__pycache__",
    }
)


def at_home(path: str | Path) -> Path:
    """A path with the user's home in the place of `~`; one of a user who is not here stays as it is."""
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError):  # no such user; a name that no file can have
        return Path(path)


class Folder:
    """A folder: its sub-folders, its images, and what else is in it.

    Links to folders are followed, but never to a folder that lies around them.

    Args:
        path: the folder.
        around: the folders that lie around it, each as device and number, so that no link leads in a circle.
        is_link: whether the path is a link to the folder.

    Raises:
        OSError: the folder cannot be read; when its content is asked for.
    """

    def __init__(
        self, path: Path, around: frozenset[tuple[int, int]] = frozenset(), *, is_link: bool = False
    ):
        self.path = path
        self.is_link = is_link
        self._around = around

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def subfolders(self) -> list[Folder]:
        """Sub-folders, by name."""
        return self._content[0]

    @property
    def files(self) -> list[tuple[str, int]]:
        """Name and bytes of each image, by name; 0 bytes for what is no regular file."""
        return self._content[1]

    @property
    def others(self) -> Counter[str]:
        """How many files of each other suffix there are, those that are not hidden."""
        return self._content[2]

    @property
    def tables(self) -> list[Path]:
        """Tables that lie directly in the folder, by name."""
        return sorted(path for path in self.path.iterdir() if path.suffix.lower() in TABLE_SUFFIXES)

    def walk(self) -> Iterator[Folder]:
        """This folder and all below it, each once: by its own path rather than by a link."""
        seen: set[tuple[int, int]] = set()
        folders, linked = deque[Folder]([self]), deque[Folder]()
        while folders or linked:
            folder = folders.popleft() if folders else linked.popleft()
            if folder._identity in seen:
                continue
            seen.add(folder._identity)
            yield folder
            for below in folder.subfolders:
                (linked if below.is_link else folders).append(below)

    @cached_property
    def images(self) -> list[tuple[str, int]]:
        """Path relative to this folder and bytes of each image at any depth, sorted by code point."""
        found = []
        for folder in self.walk():
            within = folder.path.relative_to(self.path).as_posix()
            prefix = "" if within == "." else within + "/"
            found += [(prefix + name, size) for name, size in folder.files]
        return sorted(found)

    @cached_property
    def _identity(self) -> tuple[int, int]:
        status = self.path.stat()
        return status.st_dev, status.st_ino

    @cached_property
    def _content(self) -> tuple[list[Folder], list[tuple[str, int]], Counter[str]]:
        around = self._around | {self._identity}
        folders, files, others = [], [], Counter[str]()
        with os.scandir(self.path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                is_folder, size = _look(entry)
                if is_folder:
                    if entry.name.lower() not in _LITTER:
                        folders.append(Folder(self.path / entry.name, around, is_link=entry.is_symlink()))
                    continue
                suffix = os.path.splitext(entry.name)[1].lower()
                if suffix in image_suffixes():
                    files.append((entry.name, size))
                else:
                    others[suffix] += 1
        folders = [folder for folder in folders if not folder.is_link or folder._identity not in around]
        return sorted(folders, key=lambda folder: folder.name), sorted(files), others


def _look(entry: os.DirEntry[str]) -> tuple[bool, int]:
    """Whether it is a folder, and its bytes.

    0 for what cannot be read as an image: a pipe, a device, a link to nothing or to itself.
    """
    try:
        return entry.is_dir(), entry.stat().st_size if entry.is_file() else 0
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False, 0
