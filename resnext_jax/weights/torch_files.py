"""Files of torch.save without torch: the zip format, and the one before it (torch 1.5 and older).

Both hold a pickle, in which arrays are references to storages, and the storages as plain bytes. The pickle is
read as data (see `pickles`), and a storage only when an array of it is needed: of a training checkpoint the
optimiser's state, twice the weights, is never read.
"""

import io
import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from resnext_jax.errors import BadInput
from resnext_jax.weights.pickles import Damaged, Refused, read_pickle
from resnext_jax.weights.stored import Storage
from resnext_jax.weights.torch_values import NAMES

ByteOrder = Literal["<", ">"]

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_ENTRY = b"PK\3\4"  # the beginning of a zip entry
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip entry: the lengths of its name and of an extra field


def read_torch(path: Path) -> Any:
    """What was given to torch.save: dictionaries, lists, plain values, and arrays as `StoredArray`.

    An `argparse.Namespace` becomes the dictionary of its attributes, a path its text.

    Args:
        path: a file of torch.save, or a pickle of plain values and NumPy arrays.

    Raises:
        BadInput: damaged, or it names more than plain values and arrays. Nothing of the file is run.
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        read = _read_zip if file.read(len(_ENTRY)) == _ENTRY else _read_legacy
    try:
        return read(path)
    except Refused as refused:
        raise BadInput(_refusal(path, str(refused))) from None
    except Damaged as error:
        raise BadInput(f"{path}: damaged or incomplete: {error}") from None


def _refusal(path: Path, name: str) -> str:
    return (
        f"{path}: refused, nothing was run: it refers to {name}, and only arrays and plain values are read. "
        "If you trust it, load it in PyTorch and save its weights alone; of a whole model: "
        f"torch.save(torch.load({path.name!r}, weights_only=False).state_dict(), 'state_dict.pth')"
    )


# The zip format: <name>/data.pkl, <name>/data/<key> for each storage, <name>/byteorder.


def _read_zip(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
    except (zipfile.BadZipFile, ValueError, OverflowError, struct.error, NotImplementedError) as error:
        raise Damaged(str(error)) from None
    roots = [name.removesuffix("data.pkl") for name in entries if name.split("/")[1:] == ["data.pkl"]]
    _check_kind(path, entries, roots)
    root = roots[0]
    order: ByteOrder = "<"
    if f"{root}byteorder" in entries:
        said = _read_entry(path, entries[f"{root}byteorder"]).tobytes()
        if said not in (b"little", b"big"):
            raise Damaged("its byte order is neither little nor big")
        order = "<" if said == b"little" else ">"
    storages: dict[str, Storage] = {}

    def persistent(reference: Any) -> Storage:
        dtype, key, count = _storage_reference(reference, 5)
        entry = entries.get(f"{root}data/{key}")
        if entry is None:
            raise Damaged(f"storage {key} is missing")
        if entry.file_size != count * dtype.itemsize:
            raise Damaged(f"storage {key} has {entry.file_size} bytes, not {count} of {dtype}")
        if key not in storages:
            storages[key] = Storage(dtype.newbyteorder(order), count, partial(_read_entry, path, entry))
        return storages[key]

    pickle = io.BytesIO(_read_entry(path, entries[f"{root}data.pkl"]).tobytes())
    return read_pickle(pickle, NAMES, persistent)


def _check_kind(path: Path, entries: Mapping[str, zipfile.ZipInfo], roots: list[str]) -> None:
    """Tell torch's other zip files, and those of others."""
    parts = {name.partition("/")[2] for name in entries}
    if {"archive_format", "serialized_exported_program.json", "models/model.json"} & parts or (
        "serialized_exported_program.json" in entries
    ):
        what, how = (
            "torch.export",
            f"torch.save(dict(torch.export.load({path.name!r}).state_dict), 'weights.pth')",
        )
    elif "constants.pkl" in parts or any(part.startswith("code/") for part in parts):
        what, how = "TorchScript", f"torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pth')"
    elif len(roots) != 1:
        raise BadInput(f"{path}: a zip file, but not of torch.save: it holds {', '.join(list(entries)[:3])}")
    else:
        return
    raise BadInput(f"{path}: a program of {what}, not weights alone; save its weights in PyTorch: {how}")


def _read_entry(path: Path, entry: zipfile.ZipInfo) -> np.ndarray:
    """Bytes of an entry of a zip file, checked by their sum."""
    # torch.save compresses nothing. Compressed, a few bytes could stand for any number.
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise Damaged(f"{entry.filename} is compressed, which torch.save does not do")
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        header = file.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or header[: len(_ENTRY)] != _ENTRY:
            raise Damaged(f"{entry.filename} is not where the file says")
        name, extra = _LOCAL_HEADER.unpack(header)[-2:]
        file.seek(name + extra, io.SEEK_CUR)
        data = _read_bytes(file, entry.file_size, entry.filename)
    if zlib.crc32(data.data) != entry.CRC:
        raise Damaged(f"{entry.filename} has a wrong checksum")
    return data


def _read_bytes(file: BinaryIO, count: int, name: str) -> np.ndarray:
    """uint8 [count], of a file that has so many left."""
    if count > os.fstat(file.fileno()).st_size - file.tell():
        raise Damaged(f"{name} has {count} bytes, more than the file")
    return np.fromfile(file, np.uint8, count)


def _storage_reference(reference: Any, length: int) -> tuple[np.dtype, str, int]:
    """Type, key and count of what a pickle says in the place of a storage."""
    if not isinstance(reference, tuple) or len(reference) != length or reference[0] != "storage":
        raise Damaged("a reference to something that is no storage")
    dtype, key, _, count = reference[1:5]
    if not isinstance(dtype, np.dtype) or not isinstance(key, str) or type(count) is not int or count < 0:
        raise Damaged(f"storage {key!r} is not described as expected")
    return dtype, key, count


# The format before: pickles of a number, the version, the byte order, the object and the keys of its
# storages; then of each storage the count, as 8 bytes, and the numbers.


def _read_legacy(path: Path) -> Any:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        return _read_legacy_stream(path, stream)


def _read_legacy_stream(path: Path, stream: mmap.mmap) -> Any:
    storages: dict[str, Storage] = {}
    places: dict[str, int] = {}  # in bytes, known only after the pickles

    def persistent(reference: Any) -> Storage:
        dtype, key, count = _storage_reference(reference, 6)
        if reference[5] is not None:
            raise Damaged("a view of a storage, as the first versions of torch wrote")
        if key not in storages:
            storages[key] = Storage(dtype.newbyteorder(order), count, lambda: _read_place(path, key, size))
            size = count * dtype.itemsize
        return storages[key]

    def _read_place(path: Path, key: str, size: int) -> np.ndarray:
        with path.open("rb") as file:
            file.seek(places[key])
            return _read_bytes(file, size, f"storage {key}")

    order: ByteOrder = "<"
    first = read_pickle(stream, NAMES, persistent)
    if first != _LEGACY_MAGIC:
        return first  # a pickle of plain values and NumPy arrays
    version, system = (read_pickle(stream, {}, persistent) for _ in range(2))
    if version != _LEGACY_PROTOCOL or not isinstance(system, dict):
        raise Damaged("of an unknown version")
    if not system.get("little_endian", True):
        order = ">"
    content = read_pickle(stream, NAMES, persistent)
    keys = read_pickle(stream, {}, persistent)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Damaged("its storages are not listed as expected")
    for key in keys:
        count = int.from_bytes(stream.read(8), "little" if order == "<" else "big")
        if key not in storages or count != storages[key].count:
            raise Damaged(f"storage {key} has another size than its arrays say")
        places[key] = stream.tell()
        stream.seek(min(places[key] + count * storages[key].dtype.itemsize, len(stream)))
    if missing := storages.keys() - places.keys():
        raise Damaged(f"storage {min(missing)} is missing")
    return content
