"""Stopping on request: a signal is noted, and the loop ends at the next step or batch, after saving."""

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

# SIGHUP, which Windows does not have: the terminal was closed, or the connection lost.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupted(Exception):
    """A run was stopped by a signal, after saving.

    Args:
        signum: the signal.
        message: where it stopped.
        directory: of the run.
    """

    def __init__(self, signum: int, message: str, directory: Path):
        super().__init__(message)
        self.signum, self.directory = signum, directory


class StopRequest:
    """Notes a signal while it is entered. The second signal does what it would do without us: it ends the
    process, or raises KeyboardInterrupt.

    Enter it when there is something to save: until then signals end the process at once.
    """

    def __init__(self) -> None:
        self._signum: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        # Only the main thread may set handlers; a `fit` in another thread is stopped by its caller. In a run
        # of many processes SIGTERM belongs to JAX, which lets all of them stop at the same step.
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            for signum in SIGNALS:
                if signal.getsignal(signum) != signal.SIG_IGN:  # as nohup wants SIGHUP to be
                    self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    @property
    def signum(self) -> int:
        """The signal that came."""
        assert self._signum is not None
        return self._signum

    @property
    def came_here(self) -> bool:
        """Whether a signal came to the only process of the run, which may stop wherever it is."""
        return self._signum is not None and jax.process_count() == 1

    def requested(self, step: int) -> bool:
        """Whether to stop after this step, the same answer in every process."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self._signum = signal.SIGTERM
        return self._signum is not None

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self._signum is None:
            self._signum = signum
            return
        handler = self._previous[signum]
        if callable(handler):
            # A third one must not disturb the ending.
            signal.signal(signum, signal.SIG_IGN)
            handler(signum, frame)
        else:
            signal.signal(signum, handler)
            os.kill(os.getpid(), signum)
