"""Published files: downloaded once, checked against their size and SHA-256."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 30  # without any byte


@dataclass(frozen=True)
class PublishedFile:
    """A file on the web whose content is known.

    Args:
        url: where it is.
        size: in bytes.
        sha256: of its content, in hexadecimal.
        name: what to call it here.
    """

    url: str
    size: int
    sha256: str
    name: str


def download(file: PublishedFile, folder: Path) -> Path:
    """Download a file, unless it lies there already, and check it. Shows progress on standard error.

    Returns:
        Its path, `folder / file.name`, which exists only with the right content.

    Raises:
        ConnectionError: it cannot be reached, or the connection broke.
        ValueError: the server sent something else.
    """
    path = folder / file.name
    if path.exists():
        check(path, file)
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{file.name}.{os.getpid()}.part"
    try:
        _fetch(file, part)
        check(part, file)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def check(path: Path, file: PublishedFile) -> None:
    """Compare a local file with what is published.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: its size or SHA-256 differs.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: expected {file.name} from {file.url}")
    size = path.stat().st_size
    if size != file.size:
        raise ValueError(f"{path} is not {file.url}: it has {size} bytes, expected {file.size}")
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != file.sha256:
        raise ValueError(f"{path} is not {file.url}: its SHA-256 is {digest}, expected {file.sha256}")


def _fetch(file: PublishedFile, part: Path) -> None:
    columns = (
        TextColumn(file.name),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    try:
        with (
            urllib.request.urlopen(file.url, timeout=_TIMEOUT_S) as response,
            part.open("wb") as out,
            Progress(*columns, console=Console(stderr=True)) as progress,
        ):
            task = progress.add_task(file.name, total=file.size)
            received = 0
            while chunk := response.read(_CHUNK_BYTES):
                out.write(chunk)
                received += len(chunk)
                progress.update(task, completed=received)
    except urllib.error.HTTPError as error:
        raise ConnectionError(
            f"cannot download {file.url}: the server answers {error.code} {error.reason}"
        ) from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise ConnectionError(f"cannot download {file.url}: {reason}") from error
    if received < file.size:
        raise ConnectionError(
            f"cannot download {file.url}: the connection broke after {received} of {file.size} bytes"
        )
