"""A trace of some steps of a run, by jax.profiler."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax


class StepTrace:
    """Traces steps from the second one on: the first waits for what is made once.

    Args:
        directory: where the trace is written.
        steps: how many to trace; None: none.

    Attributes:
        traced: steps that are in a finished trace.
    """

    def __init__(self, directory: Path, steps: int | None):
        self.directory, self._steps = directory, steps or 0
        self._made = self.traced = 0
        self._running = False

    def after_step(self, wait: Callable[[], Any]) -> None:
        """Begin after the first step; end after the last.

        Args:
            wait: returns once the devices have made the step; called after the last one only.
        """
        if not self._steps or self.traced:
            return
        if not self._running:
            jax.profiler.start_trace(self.directory)
            self._running = True
            return
        self._made += 1
        if self._made == self._steps:
            wait()
            self.end()

    def end(self) -> None:
        """End a trace that is under way."""
        if self._running:
            jax.profiler.stop_trace()
            self._running, self.traced = False, self._made
