"""How long does a save keep the steps waiting, and how long does a run take to end when a signal asks it to?

Run:       python experiments/benchmarks/saving.py
Hardware:  2 CPU cores, 8 GiB, 4 GB on the disk; about 5 minutes, most of which compile.
Expected:  of resnext101_32x8d with Adam (88.8 million parameters, 1.07 GB a checkpoint) a save keeps the
           steps waiting for less than a second, and SIGTERM ends the process in less than 5 s and the step
           under way: clusters kill 30 s after it.
"""

import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import tyro

from resnext_jax.runs import Checkpoints
from resnext_jax.training import Interrupted, TrainConfig, fit
from resnext_jax.training.trainer import Trainer


@dataclass(frozen=True)
class Saving:
    """Train on the demo set, save now and then, and end by SIGTERM at moments that are far from any save."""

    model: str = "resnext101_32x8d"
    """Name of the network."""
    optimizer: str = "adam"
    """Of the run."""
    image_size: int = 32
    """Side of the images, in pixels: it changes the step's time alone."""
    batch_size: int = 4
    """Images in a step."""
    save_minutes: float = 0.5
    """Time from one save to the next."""
    saves: int = 3
    """Saves to wait for before each signal."""
    signals: int = 3
    """How often a run is ended and goes on."""
    out: Path | None = None
    """Folder for the run, on the disk that is to be measured (default: a temporary one)."""

    def __call__(self) -> None:
        with tempfile.TemporaryDirectory(dir=self.out) as folder:
            ends = [self._end(Path(folder) / "run", resume=number > 0) for number in range(self.signals)]
        print(f"{self.model} with {self.optimizer}, {self.image_size} px, batches of {self.batch_size}:")
        for name in ("a step", "a save keeps the steps waiting for", "SIGTERM to the end"):
            values = [value for end in ends for value in end[name]]
            print(
                f"  {name}: {statistics.median(values):.2f} s (median), {max(values):.2f} s (most), "
                f"{len(values)} times"
            )

    def _end(self, out: Path, *, resume: bool) -> dict[str, list[float]]:
        """Times of one process that is ended by SIGTERM, in seconds."""
        spawn = multiprocessing.get_context("spawn")
        here, there = spawn.Pipe(duplex=False)
        config = TrainConfig(
            data="demo",
            model=self.model,
            optimizer=self.optimizer,
            image_size=self.image_size,
            batch_size=self.batch_size,
            save_minutes=self.save_minutes,
            lr=1e-5,
            epochs=1000,
            out=out,
            resume=resume,
        )
        process = spawn.Process(target=_train, args=(config, there))
        process.start()
        there.close()
        times: dict[str, list[float]] = {"a step": [], "a save keeps the steps waiting for": []}
        names = list(times)
        while len(times[names[1]]) < self.saves:
            kind, seconds = here.recv()
            times[kind].append(seconds)
        # The last checkpoint is written to its end before the signal comes, as it is nearly always.
        until = time.monotonic() + 20 * self.save_minutes
        while time.monotonic() < until:
            if here.poll(0.1):
                here.recv()
        sent = time.monotonic()
        os.kill(process.pid or 0, signal.SIGTERM)
        process.join()
        times["SIGTERM to the end"] = [time.monotonic() - sent]
        if process.exitcode:
            raise SystemExit(f"the run ended with {process.exitcode}")
        return times


def _train(config: TrainConfig, told: Connection) -> None:
    """Train in this process, and tell how long each save and each step took."""

    def timed(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            start = time.monotonic()
            try:
                return function(*arguments, **options)
            finally:
                told.send((kind, time.monotonic() - start))

        return call

    Checkpoints.save = timed("a save keeps the steps waiting for", Checkpoints.save)
    epoch = Trainer.epoch

    def steps(trainer: Trainer) -> Any:
        start = time.monotonic()
        for done in epoch(trainer):
            trainer.settle()  # a step's own time, not that of the steps under way
            told.send(("a step", time.monotonic() - start))
            yield done
            start = time.monotonic()

    Trainer.epoch = steps
    with suppress(Interrupted):
        fit(config, quiet=True)


if __name__ == "__main__":
    tyro.cli(Saving)()
