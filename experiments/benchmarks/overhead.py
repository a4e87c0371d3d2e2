"""What does the training loop cost over the bare compiled step, and two processes over one with two devices?

    python experiments/benchmarks/overhead.py
    python experiments/benchmarks/overhead.py --model resnext14_32x4d --batch-size 16

Hardware:  2 CPU cores that nothing else uses; some minutes. Batch and image size make a step of about 50 ms.
Expected:  the loop takes less than 3 % more than the bare step; two processes with one device each take at
           most 15 % more than one process with two.

Times are those of a step in the fastest of some epochs: the loop's as its history gives them (waiting for
data, dispatch, devices), the bare step's in the same process, on one batch over and over.
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
    image_size: int = 32
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


def loop_and_bare_step(options: Overhead, folder: Path) -> tuple[float, float]:
    """Seconds of a step in `fit`, and of the bare compiled step."""
    import jax

    import resnext_jax as rj
    from resnext_jax.console import Console
    from resnext_jax.data import train_batches
    from resnext_jax.devices import DataParallel
    from resnext_jax.training.setup import prepare
    from resnext_jax.training.step import step_sums

    config = rj.TrainConfig(**options.fields, out=folder / "loop", devices=1)
    loop = step_seconds(rj.fit(config, quiet=True).history)

    parallel = DataParallel(1)
    setup, state = prepare(config, 1, Console(quiet=True))
    batch = next(train_batches(setup.train_images, batch_size=options.batch_size, seed=0))
    state, sums = map(parallel.replicate, (state, step_sums(len(setup.spec.classes))))
    batch = parallel.split(batch)
    step = parallel.compile_train_step(setup.train_step, state, sums, batch)
    turns = []
    for _ in range(options.epochs):
        start = time.perf_counter()
        for _ in range(setup.steps_per_epoch):
            state, sums = step(state, sums, batch)
        jax.block_until_ready(state)
        turns.append((time.perf_counter() - start) / setup.steps_per_epoch)
    return loop, min(turns)


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
        loop, bare = loop_and_bare_step(options, Path(folder))
        print(f"fit {1e3 * loop:.2f} ms a step, bare step {1e3 * bare:.2f} ms: {loop / bare - 1:+.1%}")
        two, one = (laid_out(options, processes, Path(folder) / f"{processes}") for processes in (2, 1))
    print(f"2 processes x 1 device {1e3 * two:.2f} ms a step, 1 x 2 {1e3 * one:.2f} ms: {two / one - 1:+.1%}")


if __name__ == "__main__":
    main(tyro.cli(Overhead, description=__doc__))
