"""How long does a save keep the steps waiting, and how long does a run take to end when a signal asks it to?

Run:       python experiments/benchmarks/saving.py
Hardware:  2 CPU cores, 8 GiB of memory, 4 GB of disk; about 8 minutes.
Expected:  of resnext101_32x8d with Adam (88.8 million parameters, 1.07 GB a checkpoint) a save keeps the
           steps waiting for 0.7 s, and SIGTERM ends the process in 2.5 s of a processor; clusters kill 30 s
           after it. Measured while others used the processors, too: the clock shows more.
"""

import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import tyro

from resnext_jax.runs import Checkpoints
from resnext_jax.training import Interrupted, TrainConfig, fit
from resnext_jax.training.stopping import StopRequest
from resnext_jax.training.trainer import Trainer

STEP, SAVE, END = "a step", "a save keeps the steps waiting for", "SIGTERM to the end"
Times = tuple[float, float]  # seconds of the clock, and of all processors


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
        for kind in (STEP, SAVE, END):
            wall, processor = zip(*(times for end in ends for times in end[kind]), strict=True)
            print(
                f"  {kind}: {statistics.median(wall):.2f} s (median), {max(wall):.2f} s (most), "
                f"{statistics.median(processor):.2f} s of a processor, {len(wall)} times"
            )

    def _end(self, out: Path, *, resume: bool) -> dict[str, list[Times]]:
        """Times of one process that is ended by SIGTERM, by kind."""
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
        times: dict[str, list[Times]] = {STEP: [], SAVE: [], END: []}
        asked, sent, last_save = False, 0.0, 0.0
        with suppress(EOFError):  # it has ended
            while True:
                kind, wall, processor = here.recv()
                times[kind].append((wall, processor))
                if kind == SAVE:
                    last_save = time.monotonic()
                # In the middle between two saves: nearly always the last checkpoint is written by then.
                due = len(times[SAVE]) >= self.saves and time.monotonic() - last_save > 30 * self.save_minutes
                if due and not asked:
                    asked, sent = True, time.monotonic()
                    os.kill(process.pid or 0, signal.SIGTERM)
        process.join()
        if process.exitcode or not times[END]:
            raise SystemExit(f"the run ended with {process.exitcode}")
        times[SAVE].pop()  # the last one is part of the ending
        times[END] = [(time.monotonic() - sent, times[END][0][1])]
        return times


def _train(config: TrainConfig, told: Connection) -> None:
    """Train in this process, and tell how long each step, each save and the ending took."""
    asked: list[Times] = []
    epoch, save, note = Trainer.epoch, Checkpoints.save, StopRequest._note

    def steps(trainer: Trainer) -> Any:
        start = _now()
        for done in epoch(trainer):
            trainer.settle()  # a step's own time, not that of the steps under way
            told.send((STEP, *_since(start)))
            yield done
            start = _now()

    def saved(*arguments: Any, **options: Any) -> None:
        start = _now()
        save(*arguments, **options)
        told.send((SAVE, *_since(start)))

    def noted(*arguments: Any) -> None:
        asked.append(_now())
        note(*arguments)

    Trainer.epoch, Checkpoints.save, StopRequest._note = steps, saved, noted
    with suppress(Interrupted):
        fit(config, quiet=True)
    told.send((END, *_since(asked[0])))


def _now() -> Times:
    return time.monotonic(), time.process_time()


def _since(start: Times) -> Times:
    wall, processor = _now()
    return wall - start[0], processor - start[1]


if __name__ == "__main__":
    tyro.cli(Saving)()
