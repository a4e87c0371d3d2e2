"""Downloads that are resumed, checked by hash, and either whole or not there."""

import errno
import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from resnext_jax.errors import BadInput

_CHUNK = 1 << 20
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def download(url: str, path: Path, *, sha256_prefix: str, timeout: float = 30.0) -> Path:
    """Fetch a file unless it is there, going on where an earlier attempt was cut.

    The content grows under `<path>.partial` and gets its name when its hash is right. Processes that share
    the directory take turns, so that only the first fetches.

    Args:
        url: http or https.
        path: where to keep it; the directory is made.
        sha256_prefix: beginning of the content's SHA-256, hexadecimal.
        timeout: seconds without an answer or data after which to give up.

    Returns:
        `path`.

    Raises:
        ConnectionError: offline, refused by the server, cut or too slow; what came is kept to be resumed.
        ValueError: the content has another hash; nothing is kept.
        OSError: no space left (nothing is kept), or no permission.
    """
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with _turn(path.parent):
        if not path.is_file():
            try:
                _fetch(url, partial, timeout)
            except (OSError, http.client.HTTPException) as error:
                raise _explained(error, url, path, partial, timeout) from None
            _check_hash(url, partial, sha256_prefix)
            partial.replace(path)
    return path


@contextmanager
def _turn(directory: Path) -> Iterator[None]:
    try:
        import fcntl  # Unix only; elsewhere two processes may fetch the same
    except ImportError:
        yield
        return
    with (directory / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(url: str, partial: Path, timeout: float) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with _open(request, partial, timeout) as response:
        resumed = response.status == http.client.PARTIAL_CONTENT
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        with partial.open("ab" if resumed else "wb") as file, _progress(url, have, total) as advance:
            while chunk := response.read1(_CHUNK):
                file.write(chunk)
                advance(len(chunk))
    size = partial.stat().st_size
    if total is not None and size != total:
        raise ConnectionError(f"the connection was cut after {size:,} of {total:,} bytes")


def _open(request: urllib.request.Request, partial: Path, timeout: float) -> http.client.HTTPResponse:
    try:
        return urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        # What is there is as long as the file, or longer: start anew.
        partial.unlink()
        return urllib.request.urlopen(request.full_url, timeout=timeout)


@contextmanager
def _progress(url: str, have: int, total: int | None) -> Iterator:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(url.rpartition("/")[2], total=total, completed=have)
        yield lambda count: progress.advance(task, count)


def _explained(error: Exception, url: str, path: Path, partial: Path, timeout: float) -> OSError:
    """The error in one line, with what to do."""
    if getattr(error, "errno", None) in _NO_SPACE:
        partial.unlink(missing_ok=True)
        return OSError(f"no space left for {path}; free some, or set RESNEXT_JAX_CACHE to another place")
    if isinstance(error, PermissionError):
        return error
    reason = getattr(error, "reason", error)
    if isinstance(error, urllib.error.HTTPError):
        reason = f"the server answered {error.code} {error.reason}"
    elif isinstance(reason, TimeoutError):
        reason = f"nothing came for {timeout:g} s"
    elif isinstance(reason, OSError) and reason.strerror:
        reason = reason.strerror
    kept = partial.stat().st_size if partial.exists() else 0
    resume = (
        f"{kept:,} bytes are kept, run it again to go on" if kept else f"or put the file at {path} yourself"
    )
    return ConnectionError(f"cannot download {url}: {reason}; {resume}")


def _check_hash(url: str, partial: Path, prefix: str) -> None:
    with partial.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(prefix):
        partial.unlink()
        raise BadInput(
            f"{url}: its SHA-256 begins {digest[: len(prefix)]}, not {prefix}: damaged or replaced; "
            "nothing was kept, try again"
        )
