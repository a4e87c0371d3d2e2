"""What does the training loop cost over the bare compiled step, and two processes over one with two devices?

    python experiments/benchmarks/overhead.py
    python experiments/benchmarks/overhead.py --model resnext14_32x4d --batch-size 16

Hardware:  2 CPU cores that nothing else uses; some minutes. Batch and image size make a step of about 50 ms.
Expected:  the loop takes less than 3 % more than the bare step; two processes with one device each take at
           most 15 % more than one process with two.

Times are those of a step in the fastest of some epochs, all in one process and taking turns: of the bare
step, on one batch over and over; of the loop, which reads batches and metrics; of `fit`, in which the epoch
before is being saved meanwhile. A save takes the same time after an epoch of any length; on CPU it takes it
from the cores that compute, so it is given by itself.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro


@dataclass(frozen=True)
class Overhead:
    """Print both ratios."""

    model: str = "resnext14_32x4d"
    """A name of `resnext-jax models`."""
    image_size: int = 48
    """Side of the images, in pixels."""
    batch_size: int = 16
    """Images in a step."""
    epochs: int = 6
    """Epochs of each run, of which the fastest but the first counts."""

    @property
    def fields(self) -> dict[str, Any]:
        """The run, as fields of a configuration."""
        names = ("model", "image_size", "batch_size", "epochs")
        limits = {"train_limit": 512, "val_limit": 64}
        return {"data": "demo", "flip": True} | limits | {name: getattr(self, name) for name in names}

    @property
    def flags(self) -> list[str]:
        """The run, as flags."""
        words = [
            f"--{name.replace('_', '-')}={value}" for name, value in self.fields.items() if name != "flip"
        ]
        return [*words, "--flip", "--sync-bn"]


def step_seconds(history: list[dict[str, float]]) -> float:
    """Time of a step in the fastest epoch but the first."""
    from resnext_jax.training.trainer import PARTS

    steps = history[0]["step"]
    return min(sum(row[f"{part}_seconds"] for part in PARTS) for row in history[1:]) / steps


def measure_one(options: Overhead, folder: Path) -> dict[str, float]:
    """Seconds of a bare step, one in the loop, and one in `fit`; seconds that a save takes from an epoch."""
    import jax

    import resnext_jax as rj
    from resnext_jax.console import Console
    from resnext_jax.data import train_batches
    from resnext_jax.devices import DataParallel
    from resnext_jax.training.setup import prepare
    from resnext_jax.training.step import step_sums
    from resnext_jax.training.trainer import Trainer

    config = rj.TrainConfig(**options.fields, out=folder / "fit", devices=1)
    parallel = DataParallel(1)
    setup, state = prepare(config, 1, Console(quiet=True))
    trainer = Trainer(setup, jax.tree.map(lambda leaf: leaf.copy(), state), parallel)
    trainer.start()
    batch = next(train_batches(setup.train_images, batch_size=options.batch_size, seed=0))
    state, sums = map(parallel.replicate, (state, step_sums(len(setup.spec.classes))))
    batch = parallel.split(batch)
    step = parallel.compile_train_step(setup.train_step, state, sums, batch)
    times: dict[str, list[float]] = {"bare": [], "loop": []}
    for _ in range(options.epochs):
        start = time.perf_counter()
        for _ in range(setup.steps_per_epoch):
            state, sums = step(state, sums, batch)
        jax.block_until_ready(state)
        times["bare"].append(time.perf_counter() - start)
        for _ in trainer.epoch():
            pass
        times["loop"].append(trainer.epoch_seconds)
        trainer.end_epoch({}, 1.0)
    found = {name: min(seconds) / setup.steps_per_epoch for name, seconds in times.items()}
    del trainer, state
    found["fit"] = step_seconds(rj.fit(config, quiet=True).history)
    return found | {"save": (found["fit"] - found["loop"]) * setup.steps_per_epoch}


def laid_out(options: Overhead, processes: int, out: Path) -> float:
    """Seconds of a step of two devices in all, by so many processes."""
    command = [sys.executable, "-m", "resnext_jax.cli"]
    if processes > 1:
        command += ["launch", "--processes", str(processes)]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={2 // processes}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    words = [*command, "train", *options.flags, "--out", str(out)]
    subprocess.run(words, check=True, env=environment, stdout=subprocess.DEVNULL)
    rows = (out / "history.jsonl").read_text().splitlines()
    return step_seconds([json.loads(row) for row in rows])


def main(options: Overhead) -> None:
    """Measure and print."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    with tempfile.TemporaryDirectory() as folder:
        found = measure_one(options, Path(folder))
        bare, loop, fit = (found[name] for name in ("bare", "loop", "fit"))
        print(f"bare step {1e3 * bare:.2f} ms, in the loop {1e3 * loop:.2f} ms: {loop / bare - 1:+.1%}")
        print(f"in fit {1e3 * fit:.2f} ms: a save takes {found['save']:.2f} s from an epoch", flush=True)
        two, one = (laid_out(options, processes, Path(folder) / f"{processes}") for processes in (2, 1))
    print(f"2 processes x 1 device {1e3 * two:.2f} ms a step, 1 x 2 {1e3 * one:.2f} ms: {two / one - 1:+.1%}")


if __name__ == "__main__":
    main(tyro.cli(Overhead, description=__doc__))
