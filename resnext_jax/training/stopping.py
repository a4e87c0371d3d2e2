"""Stopping on request: a signal is noted, and the loop ends at the next step, after saving."""

import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Interrupted(Exception):
    """A run was stopped by a signal, after saving.

    Args:
        signum: the signal.
        message: where it stopped and how to go on.
    """

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


class StopRequest:
    """Notes SIGINT and SIGTERM while it is entered; the second SIGINT interrupts at once, as usual."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        # Only the main thread may set handlers; a `fit` in another thread is stopped by its caller. In a run
        # of many processes SIGTERM belongs to JAX, which lets all of them stop at the same step.
        if threading.current_thread() is threading.main_thread():
            mine = (signal.SIGINT, signal.SIGTERM) if jax.process_count() == 1 else ()
            self._previous = {signum: signal.signal(signum, self._note) for signum in mine}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum == signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum

    def requested(self, step: int) -> bool:
        """Whether to stop after this step, the same answer in every process."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self.signum = signal.SIGTERM
        return self.signum is not None
