"""The lock of a run directory: one process works on it at a time, and the lock dies with that process."""

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from resnext_jax.errors import BadInput

LOCK = ".resnext_jax.lock"
"""Holds who works on the directory, or did last; it marks the directory as a run's from the beginning."""

_FAR = 1 << 30  # Windows locks bytes, and nobody else may read them: one behind the content

logger = logging.getLogger(__name__)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory.

    Raises:
        BadInput: another process holds it; the message names host and process.
        OSError: the directory cannot be written to.
    """
    with _open(directory / LOCK) as file:
        file.truncate(0)
        json.dump({"host": socket.gethostname(), "process": os.getpid(), "since": time.ctime()}, file)
        file.flush()
        yield


def _open(path: Path) -> IO[str]:
    """The lock file, with the lock taken."""
    while True:
        # Not through a link: what that leads to would be emptied.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        file = os.fdopen(os.open(path, flags, 0o666), "a+", encoding="utf-8")
        if not _acquire(file, path):
            with file:
                raise BadInput(
                    f"out={path.parent}: in use by {_holder(file)}; wait for it, or choose another"
                )
        # Who held it may have removed the file in the meantime: then the lock is of no use.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def _acquire(file: IO[str], path: Path) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        file.seek(_FAR)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        logger.warning("%s: no lock (%s); see to it that nobody else writes there", path, error.strerror)
    return True


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        who = json.load(file)
        return f"process {who['process']} on {who['host']} since {who['since']}"
    except (ValueError, KeyError, TypeError, OSError, RecursionError):
        return "another process"
