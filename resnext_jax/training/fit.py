"""The training loop: a configuration in; a run directory with the best and the latest checkpoint out."""

import math
import shlex
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnext_jax.data import WaitTimer, prefetch_to_device, train_batches
from resnext_jax.training import run
from resnext_jax.training.checkpoint import Checkpoints
from resnext_jax.training.config import TrainConfig
from resnext_jax.training.console import Console, format_metrics
from resnext_jax.training.evaluation import Evaluator
from resnext_jax.training.metrics import Sums, means, zero_sums
from resnext_jax.training.optimizer import make_schedule
from resnext_jax.training.parallel import DataParallel
from resnext_jax.training.run import Row, Writer
from resnext_jax.training.runtime import enable_compilation_cache, join_processes, peak_memory_gib
from resnext_jax.training.setup import prepare
from resnext_jax.training.stopping import Interrupted, StopRequest, agreed

# Steps that the host may be ahead of the devices: enough to keep them busy, few enough to bound memory.
STEPS_AHEAD = 2


@dataclass(frozen=True)
class FitResult:
    """What a finished run leaves.

    Args:
        directory: the run directory.
        history: a row an epoch: epoch, step, lr, train_*, val_*, seconds, images_per_second.
        summary: the content of `summary.json`.
    """

    directory: Path
    history: list[Row]
    summary: dict[str, Any]


def fit(config: TrainConfig, *, writers: Sequence[Writer] = (), quiet: bool = False) -> FitResult:
    """Train a classifier, keeping the best and the latest state.

    Args:
        config: the run.
        writers: called after every epoch with the run directory and the history so far, beside the CSV and
            JSONL that are always written.
        quiet: print nothing.

    Returns:
        History and summary; the run directory holds everything else.

    Raises:
        ValueError: bad configuration or data; nothing was written.
        FileNotFoundError: missing data, weights or, with `resume`, run; nothing was written.
        FloatingPointError: the loss stopped being finite; the checkpoints from before are kept.
        Interrupted: SIGINT or SIGTERM came; the state was saved, and the message says how to go on.
    """
    config.check()
    if config.distributed:
        join_processes()
    enable_compilation_cache()
    parallel = DataParallel(config.devices)
    if config.resume:
        _check_resumable(config)
    elif jax.process_index() == 0:
        run.check_free(config.out, overwrite=config.overwrite)
    with StopRequest() as stop:
        loop = _Loop(config, parallel, Console(quiet or jax.process_index() > 0), writers, stop)
        return loop.run()


def _check_resumable(config: TrainConfig) -> None:
    if different := config.differences(run.read_info(config.out).config):
        raise ValueError(
            f"{config.out}: the run to resume has other settings ({'; '.join(different)}); leave them out, "
            "or start a new run"
        )


class _Loop:
    """The epochs of a run, and all that changes over them."""

    def __init__(
        self,
        config: TrainConfig,
        parallel: DataParallel,
        console: Console,
        writers: Sequence[Writer],
        stop: StopRequest,
    ):
        self.config, self.parallel, self.console, self.stop = config, parallel, console, stop
        self.writers = [run.write_history, *writers]
        self.primary = jax.process_index() == 0
        self.setup = prepare(config, parallel, console)
        self.schedule = make_schedule(config, self.setup.steps_per_epoch)
        self.evaluate = Evaluator(self.setup.eval_graphdef, self.setup.info.preprocessing, parallel)
        self.state = self.setup.state
        # Kept on the host: reading the step off the state would wait for the devices.
        self.step = 0
        self.history: list[Row] = []
        # Of the epoch under way: metric sums as a checkpoint holds them, and time spent on its steps.
        self.sums: dict[str, float] | None = None
        self.epoch_seconds = 0.0
        # Of this process.
        self.compile_seconds = 0.0
        self.step_seconds = 0.0
        self.wait_seconds = 0.0
        self.saved = time.monotonic()

    @property
    def epochs_done(self) -> int:
        return self.step // self.setup.steps_per_epoch

    def run(self) -> FitResult:
        config, setup = self.config, self.setup
        started = time.perf_counter()
        if config.resume:
            self._restore()
        if self.primary:
            if config.resume:
                run.write_config(config.out, setup.info)
            else:
                run.start(config.out, setup.info)
        batches = train_batches(
            setup.train_images,
            batch_size=config.batch_size,
            seed=config.seed,
            start_step=self.step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            local_devices=self.parallel.local_count,
        )
        self.batches = WaitTimer(prefetch_to_device(batches, self.parallel.split))
        self._announce()
        with Checkpoints(config.out, create=True) as self.checkpoints:
            while self.epochs_done < config.epochs:
                self._train_epoch()
                self._finish_epoch()
        summary = self._summary(time.perf_counter() - started)
        if self.primary:
            run.write_json(config.out / "summary.json", summary)
        return FitResult(config.out, self.history, summary)

    def _announce(self) -> None:
        setup = self.setup
        self.console.line(
            f"{self.config.model} on {self.config.data}: {len(setup.train_images)} training and "
            f"{len(setup.val_images)} validation images of {len(setup.info.classes)} classes, "
            f"{setup.steps_per_epoch} steps an epoch, "
            f"{self.parallel.global_count} x {self.parallel.devices[0].device_kind}"
        )
        if self.config.resume:
            self.console.line(f"resuming after {self.step} steps, in epoch {self.epochs_done + 1}")

    def _restore(self) -> None:
        """Take up the latest checkpoint."""
        images, classes = len(self.setup.train_images), list(self.setup.info.classes)
        with Checkpoints(self.config.out) as checkpoints:
            self.step = checkpoints.step_of("latest")
            meta = checkpoints.read_meta(self.step)
            if (meta["train_images"], meta["classes"]) != (images, classes):
                raise ValueError(
                    f"{self.config.out}: the run had {meta['train_images']} training images of "
                    f"{', '.join(meta['classes'])}; now there are {images} of {', '.join(classes)}"
                )
            self.state = self.parallel.replicate(checkpoints.read_state(self.step, self.state))
        self.history, self.sums, self.epoch_seconds = meta["history"], meta["sums"], meta["epoch_seconds"]

    def _save(self, metrics: Row | None) -> None:
        progress = {
            "train_images": len(self.setup.train_images),
            "history": self.history,
            "sums": self.sums,
            "epoch_seconds": self.epoch_seconds,
        }
        self.checkpoints.save(self.step, self.state, self.setup.info.to_dict() | progress, metrics)
        self.saved = time.monotonic()

    def _train_epoch(self) -> None:
        """Make the steps that the epoch still wants; its metric sums are in `self.sums` then."""
        sums = zero_sums(len(self.setup.info.classes))
        if self.sums is not None:
            sums = {name: jnp.float32(self.sums[name]) for name in sums}
        sums = self.parallel.replicate(sums)
        steps = self.setup.steps_per_epoch
        ahead: deque[Sums] = deque()
        waited = self.batches.seconds
        mark = time.perf_counter()
        with self.console.task(f"epoch {self.epochs_done + 1}/{self.config.epochs}", steps) as update:
            for done in range(self.step % steps + 1, steps + 1):
                batch = next(self.batches)
                if not self.compile_seconds:
                    self._compile(sums, batch)
                    waited, mark = self.batches.seconds, time.perf_counter()
                self.state, sums = self.train_step(self.state, sums, batch)
                self.step += 1
                ahead.append(sums)
                known = self._check_finite(ahead.popleft()) if len(ahead) > STEPS_AHEAD else None
                if done == steps:
                    self.sums = known = self._check_finite(sums)
                now = time.perf_counter()
                self.epoch_seconds += now - mark
                self.step_seconds += now - mark
                mark = now
                if known:
                    speed = known["count"] / self.epoch_seconds
                    update(done, f"{format_metrics(means(known))}  {speed:.0f} images/s")
                if done < steps:
                    self._save_within_epoch(sums)
        self.wait_seconds += self.batches.seconds - waited

    def _compile(self, sums: Sums, batch: Any) -> None:
        """Compile ahead of the first call, so that the time it takes is known."""
        start = time.perf_counter()
        self.train_step = self.parallel.compile_train_step(self.setup.train_step, self.state, sums, batch)
        self.compile_seconds = time.perf_counter() - start
        self.console.line(f"compiled the training step in {self.compile_seconds:.1f} s")

    def _check_finite(self, sums: Sums) -> dict[str, float]:
        """The sums on the host, once they are known."""
        host = {name: float(value) for name, value in jax.device_get(sums).items()}
        if not math.isfinite(host["loss"]):
            self._diverged(f"the training loss is {host['loss']}")
        return host

    def _check_state(self) -> None:
        """A loss can be finite behind parameters that are not: ReLU may turn NaN into 0."""
        leaves = jax.tree.leaves((self.state.params, self.state.batch_stats))
        if not all(np.isfinite(leaf.addressable_data(0)).all() for leaf in leaves):
            self._diverged("a parameter or batch statistic is not finite")

    def _diverged(self, what: str) -> None:
        raise FloatingPointError(
            f"{what} by step {self.step} of epoch {-(-self.step // self.setup.steps_per_epoch)}; "
            f"try a lower lr than {self.config.lr}; checkpoints from before are kept in {self.config.out}"
        )

    def _save_within_epoch(self, sums: Sums) -> None:
        stopping = self.stop.requested(self.step)
        due = agreed(time.monotonic() - self.saved > 60 * self.config.save_minutes, self.step)
        if stopping or due:
            self.sums = self._check_finite(sums)
            self._check_state()
            self._save(metrics=None)
        if stopping:
            self._interrupt()

    def _interrupt(self) -> None:
        raise Interrupted(
            self.stop.signum,
            f"saved after {self.step} steps, in epoch {self.epochs_done + 1} of {self.config.epochs}; "
            f"go on with: resnext-jax train --resume --out {shlex.quote(str(self.config.out))}",
        )

    def _finish_epoch(self) -> None:
        """Validate, write the history, save."""
        config, images = self.config, self.setup.val_images
        self._check_state()
        start = time.perf_counter()
        with self.console.task("validating", -(-len(images) // config.batch_size)) as update:
            val = self.evaluate(self.state, images, config.batch_size, update)
        row: Row = {"epoch": self.epochs_done, "step": self.step, "lr": float(self.schedule(self.step - 1))}
        row |= {f"train_{name}": value for name, value in means(self.sums).items()}
        row |= {f"val_{name}": value for name, value in val.items()}
        row["seconds"] = round(self.epoch_seconds + time.perf_counter() - start, 3)
        speed = config.batch_size * self.setup.steps_per_epoch / self.epoch_seconds
        row["images_per_second"] = round(speed, 1)
        self.history.append(row)
        self.sums, self.epoch_seconds = None, 0.0
        if self.primary:
            for write in self.writers:
                write(config.out, self.history)
        self._save(row)
        best = "  best" if run.best_row(self.history) is row else ""
        self.console.line(
            f"epoch {row['epoch']}/{config.epochs}  {format_metrics(row, 'train_')}  |  validation "
            f"{format_metrics(row, 'val_')}  |  {speed:.0f} images/s  {row['seconds']:.1f} s{best}"
        )
        if self.stop.requested(self.step) and self.epochs_done < config.epochs:
            self._interrupt()

    def _summary(self, seconds: float) -> dict[str, Any]:
        best = run.best_row(self.history)
        return {
            "best_epoch": best["epoch"],
            "best_val_top1": best["val_top1"],
            "best_val_loss": best["val_loss"],
            "epochs": self.epochs_done,
            "train_images": len(self.setup.train_images),
            "val_images": len(self.setup.val_images),
            # The rest is of the last process that worked on the run.
            "seconds": round(seconds, 1),
            "compile_seconds": round(self.compile_seconds, 1),
            "images_per_second": max(row["images_per_second"] for row in self.history),
            "data_wait_share": round(self.wait_seconds / self.step_seconds, 4) if self.step_seconds else 0.0,
            "peak_memory_gib": round(peak_memory_gib(), 2),
        }
