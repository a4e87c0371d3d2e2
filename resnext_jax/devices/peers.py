"""Watching the other processes of a run: if one dies, hangs or can't be reached, the others end in time."""

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import jax

PEER_LOST = 4
"""Exit code of a process that ends because another one of its run is gone."""

BEATS = 10  # within the timeout: one that is late does not count as a death
PEERS = "resnext_jax/peers"  # where process i keeps i/beat, and the first one also 0/lost

_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)
_handlers: list[Any] = []  # what C code calls must not be collected
_timeout: list[float] = []  # of the watch, once it has begun
_watches: list[threading.Thread] = []
_ended = threading.Event()


def watch_peers(client: Any, index: int, count: int, coordinator: str, timeout: float) -> None:
    """End this process with `PEER_LOST` and one line if another one dies, hangs or can't be reached.

    Every process counts up a value of its own in the service by which they found each other. The first one,
    where that service runs, looks at all values, and tells the others which one stands still; they look at
    the first one's.

    Args:
        client: of the service.
        index: of this process.
        count: of processes.
        coordinator: address of the service, host:port.
        timeout: seconds without a sign of life after which a process counts as lost.
    """
    _timeout[:] = [timeout]
    if index > 0:
        _end_when_aborted(lambda: "" if reachable(coordinator) else "process 0 of the run is gone")
    _watches.append(threading.Thread(target=_watch, args=(client, index, count, timeout), daemon=True))
    _watches[-1].start()


def end_watch() -> None:
    """Wait for the other processes to end, too, and only then end the watch.

    The interpreter ends threads where they are, and inside of JAX that aborts the process.
    """
    jax.distributed.shutdown()
    _ended.set()
    for watch in _watches:
        watch.join(timeout=10)


def end_without(who: str) -> NoReturn:
    """Print who is gone, and end this process without waiting for anything.

    Args:
        who: the beginning of the line, such as "process 1 of the run is gone".
    """
    print(f"error: {who}; start all again with --resume", file=sys.stderr, flush=True)
    os._exit(PEER_LOST)


@contextmanager
def waiting_for_verdict() -> Iterator[None]:
    """Where an operation over several processes fails inside, find out whether one of them is gone.

    If so, this process ends as `watch_peers` says; otherwise the error goes on.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError:
        if _timeout and jax.process_count() > 1:
            time.sleep(1.5 * _timeout[0])
        raise


@contextmanager
def ending_when_aborted(who: Callable[[], str]) -> Iterator[None]:
    """If JAX aborts this process inside, print one line and end with `PEER_LOST` in the place of a core dump.

    Args:
        who: gives the beginning of the line.
    """
    handler = _end_when_aborted(who)
    try:
        yield
    finally:
        _libc_signal(handler)


def reachable(address: str) -> bool:
    """Whether anything listens at host:port."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def _watch(client: Any, index: int, count: int, timeout: float) -> None:
    start, pause = time.monotonic(), timeout / BEATS
    seen: dict[int, tuple[str, float]] = dict.fromkeys(range(1, count) if index == 0 else [0], ("", start))
    beat = 0
    while not _ended.wait(pause if beat else 0):
        beat += 1
        values = _exchange(client, index, beat)
        if index > 0 and (lost := values.get(f"{PEERS}/0/lost")):
            end_without(f"process {lost} of the run is gone")
        now = time.monotonic()
        for peer, (value, since) in seen.items():
            newest = values.get(f"{PEERS}/{peer}/beat", value)
            if newest != value:
                seen[peer] = (newest, now)
            elif now - since > timeout:
                if index == 0:
                    _tell(client, peer)
                    time.sleep(2 * pause)  # the others hear of it as long as this process lives
                end_without(f"process {peer} of the run gave no sign of life for {timeout:g} s")


def _exchange(client: Any, index: int, beat: int) -> dict[str, str]:
    """Give a sign of life, and read the others'; nothing if the service does not answer."""
    try:
        client.key_value_set(f"{PEERS}/{index}/beat", str(beat), allow_overwrite=True)
        return dict(client.key_value_dir_get(PEERS if index == 0 else f"{PEERS}/0"))
    except jax.errors.JaxRuntimeError:
        return {}


def _tell(client: Any, peer: int) -> None:
    try:
        client.key_value_set(f"{PEERS}/0/lost", str(peer), allow_overwrite=True)
    except jax.errors.JaxRuntimeError:
        return


def _end_when_aborted(who: Callable[[], str]) -> Any:
    """JAX aborts a process as soon as the first one is gone, from a thread of its own.

    A handler of Python's would not do: it runs in the main thread, which may be waiting for the others.

    Args:
        who: gives the beginning of the line; "" for an abort that no other process caused.

    Returns:
        The handler before.
    """

    def handle(signum: int) -> None:
        if line := who():
            end_without(line)

    _handlers.append(_HANDLER(handle))
    return _libc_signal(ctypes.cast(_handlers[-1], ctypes.c_void_p).value)


def _libc_signal(handler: int | None) -> int | None:
    """Set the handler of SIGABRT in C; returns the one before. Windows has another way to abort."""
    if os.name == "nt":
        return None
    function = ctypes.CDLL(None).signal
    function.argtypes, function.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    return function(int(signal.SIGABRT), handler)
