"""`resnext-jax launch`."""

import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from types import FrameType
from typing import Annotated

from tyro.conf import Positional, arg

from resnext_jax.errors import BadInput
from resnext_jax.fields import Config, Range

PROGRAM = (sys.executable, "-m", "resnext_jax.cli")
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@dataclass(frozen=True, kw_only=True)
class Launch(Config):
    """Train by several processes on this host, to try out what will run on many."""

    command: Positional[Annotated[tuple[str, ...], arg(metavar="train ...")]]
    """The command `train`, with its flags; --out among them."""
    processes: Annotated[int, Range(least=1)]
    """How many processes to start."""

    def check(self) -> None:
        super().check()
        if self.command[:1] != ("train",):
            raise BadInput("launch: expected the command to start, such as: train --data DATA --out RUN")

    def __call__(self) -> None:
        """Raises SystemExit with the exit code of the first process that fails."""
        started = [subprocess.Popen(words, start_new_session=True) for words in self._commands()]

        def pass_on(signum: int, frame: FrameType | None) -> None:
            # To a run of several processes SIGTERM says: save at the same step, and end.
            for process in started:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)

        for signum in SIGNALS:
            signal.signal(signum, pass_on)
        failed = 0
        codes: list[int | None] = [None]
        while None in codes:
            time.sleep(0.1)
            codes = [process.poll() for process in started]
            failed = failed or next((code for code in codes if code), 0)
        if failed:
            raise SystemExit(failed if failed > 0 else 128 - failed)

    def _commands(self) -> list[list[str]]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
        where = ["--distributed", "--coordinator", coordinator, "--processes", str(self.processes)]
        return [
            [*PROGRAM, *self.command, *where, "--process-id", str(index)] for index in range(self.processes)
        ]
