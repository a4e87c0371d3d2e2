"""Checksums of a checkpoint's files, written before it gets its name and verified before it is read."""

import json
import zlib
from pathlib import Path

from resnext_jax.errors import BadInput
from resnext_jax.runs.history import write_json

SEAL = "checksums.json"


class Damaged(BadInput):
    """A checkpoint that cannot be read whole."""


def seal(folder: Path) -> None:
    """Note size and CRC-32 of every file of a checkpoint's items."""
    files = sorted(path for path in folder.glob("*/**/*") if path.is_file())
    write_json(folder / SEAL, {path.relative_to(folder).as_posix(): _signature(path) for path in files})


def verify(folder: Path, *items: str) -> None:
    """Check the files of some items against the seal. A checkpoint without one, of an old version, passes.

    Args:
        folder: the checkpoint.
        items: names of folders in it; one that the checkpoint does not have passes.

    Raises:
        Damaged: a file is missing or changed, the seal cannot be read, or something in an item is no file,
            such as a pipe, which would be read for ever.
    """
    for path in (path for item in items for path in (folder / item).rglob("*")):
        if not path.is_file() and (path.is_symlink() or not path.is_dir()):
            raise Damaged(f"{path}: damaged, it is no file")
    try:
        noted = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        wanted = {name: tuple(values) for name, values in noted.items() if name.split("/")[0] in items}
    except FileNotFoundError:
        return
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise _damaged(folder / SEAL, error) from None
    for name, values in wanted.items():
        try:
            whole = tuple(_signature(folder / name)) == values
        except OSError as error:
            raise _damaged(folder / name, error) from None
        if not whole:
            raise Damaged(f"{folder / name}: damaged, its checksum is wrong")


def _signature(path: Path) -> list[int]:
    size = crc = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return [size, crc]


def _damaged(path: Path, error: Exception) -> Damaged:
    if isinstance(error, PermissionError):
        raise error
    return Damaged(f"{path}: damaged ({getattr(error, 'strerror', None) or error})")
