"""The training loop: a configuration in; a run directory with the best and the latest checkpoint out."""

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnext_jax import runs
from resnext_jax.console import Console, format_metrics
from resnext_jax.devices import (
    DataParallel,
    agreed,
    enable_compilation_cache,
    join_processes,
    peak_memory_gib,
)
from resnext_jax.errors import BadInput
from resnext_jax.inference import Evaluator, mean_metrics, means
from resnext_jax.runs import Row, best_row, monitored
from resnext_jax.training.config import TrainConfig, saved_config
from resnext_jax.training.decisions import lr_scale, stops_early
from resnext_jax.training.optimizer import make_schedule
from resnext_jax.training.progress import Progress, Writer
from resnext_jax.training.setup import prepare
from resnext_jax.training.stopping import Interrupted, StopRequest
from resnext_jax.training.trainer import Trainer

SAMPLES = 16  # augmented images shown to writers


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
        writers: called after every epoch, beside the CSV and JSONL that are always written.
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
        runs.check_free(config.out, overwrite=config.overwrite)
    with StopRequest() as stop:
        loop = _Loop(config, parallel, Console(quiet or jax.process_index() > 0), writers, stop)
        return loop.run()


def _check_resumable(config: TrainConfig) -> None:
    if different := config.changes(saved_config(config.out)):
        raise BadInput(
            f"{config.out}: the run to resume has other settings ({'; '.join(different)}); leave them out, "
            "or start a new run"
        )


class _Loop:
    """The epochs of a run: training, validation, what is decided, written and saved after each."""

    def __init__(
        self,
        config: TrainConfig,
        parallel: DataParallel,
        console: Console,
        writers: Sequence[Writer],
        stop: StopRequest,
    ):
        self.config, self.parallel, self.console, self.stop = config, parallel, console, stop
        self.writers = writers
        self.primary = jax.process_index() == 0
        self.setup = prepare(config, parallel, console)
        self.schedule = make_schedule(config, self.setup.steps_per_epoch)
        self.evaluate = Evaluator(self.setup.eval_graphdef, self.setup.spec.preprocessing.normalize, parallel)
        self.trainer = Trainer(self.setup, parallel, console)
        self.history: list[Row] = []
        self.saved = time.monotonic()

    def run(self) -> FitResult:
        config, trainer = self.config, self.trainer
        started = time.perf_counter()
        if config.resume:
            self._restore()
        if self.primary:
            if config.resume:
                before = runs.read_config(config.out)
                runs.write_config(config.out, self.setup.spec, config.to_dict(), resumed=before)
            else:
                runs.start(config.out, self.setup.spec, config.to_dict())
        trainer.start()
        self._announce()
        with runs.Checkpoints(config.out, write=True) as self.checkpoints:
            while trainer.epochs_done < config.epochs and not stops_early(config, self.history):
                trainer.train_epoch(self._between_steps)
                self._finish_epoch()
        best = best_row(self.history, config.monitor)
        if stops_early(config, self.history):
            self.console.line(f"stopped early: no better epoch than {best['epoch']} in {config.early_stop}")
        summary = self._summary(best, time.perf_counter() - started)
        if self.primary:
            runs.write_json(config.out / "summary.json", summary)
        return FitResult(config.out, self.history, summary)

    def _announce(self) -> None:
        setup = self.setup
        self.console.line(
            f"{self.config.model} on {self.config.data}: {len(setup.train_images)} training and "
            f"{len(setup.val_images)} validation images of {len(setup.spec.classes)} classes, "
            f"{setup.steps_per_epoch} steps an epoch, "
            f"{self.parallel.global_count} x {self.parallel.devices[0].device_kind}"
        )
        if self.config.freeze:
            self.console.line(f"trained: {setup.trained:,} of {setup.parameters:,} parameters")
        if self.config.resume:
            self.console.line(
                f"resuming after {self.trainer.step} steps, in epoch {self.trainer.epochs_done + 1}"
            )

    def _restore(self) -> None:
        """Take up the latest checkpoint."""
        trainer = self.trainer
        images, classes = len(self.setup.train_images), list(self.setup.spec.classes)
        with runs.Checkpoints(self.config.out) as checkpoints:
            trainer.step = checkpoints.step_of("latest")
            meta = checkpoints.read_meta(trainer.step)
            if (meta["train_images"], meta["classes"]) != (images, classes):
                raise BadInput(
                    f"{self.config.out}: the run had {meta['train_images']} training images of "
                    f"{', '.join(meta['classes'])}; now there are {images} of {', '.join(classes)}"
                )
            model, rest = checkpoints.read_state(trainer.step, trainer.state.model, trainer.state.rest)
            trainer.state = self.parallel.replicate(trainer.state.replaced(model, rest))
        self.history = meta["history"]
        trainer.sums, trainer.epoch_seconds = meta["sums"], meta["epoch_seconds"]

    def _save(self, metrics: dict[str, float] | None) -> None:
        trainer = self.trainer
        meta = self.setup.spec.to_dict() | {
            "config": self.config.to_dict(),
            "train_images": len(self.setup.train_images),
            "history": self.history,
            "sums": trainer.sums,
            "epoch_seconds": trainer.epoch_seconds,
        }
        state = trainer.state
        self.checkpoints.save(trainer.step, state.model, state.rest, meta, metrics)
        self.saved = time.monotonic()

    def _between_steps(self, settle: Callable[[], None]) -> None:
        step = self.trainer.step
        stopping = self.stop.requested(step)
        due = agreed(time.monotonic() - self.saved > 60 * self.config.save_minutes, step)
        if stopping or due:
            settle()
            self._save(metrics=None)
        if stopping:
            self._interrupt()

    def _interrupt(self) -> None:
        trainer = self.trainer
        raise Interrupted(
            self.stop.signum,
            f"saved after {trainer.step} steps, in epoch {trainer.epochs_done + 1} of {self.config.epochs}; "
            f"go on with: resnext-jax train --resume --out {shlex.quote(str(self.config.out))}",
        )

    def _finish_epoch(self) -> None:
        """Validate, decide, write the history, save."""
        config, trainer, images = self.config, self.trainer, self.setup.val_images
        start = time.perf_counter()
        with self.console.task("validating", -(-len(images) // config.batch_size)) as update:
            log_probabilities = self.evaluate(trainer.state.model, images, config.batch_size, update)
        lr = float(self.schedule(trainer.step - 1)) * lr_scale(config, self.history)
        row: Row = {"epoch": trainer.epochs_done, "step": trainer.step, "lr": lr}
        row |= {f"train_{name}": value for name, value in means(trainer.sums).items()}
        row |= {f"val_{name}": v for name, v in mean_metrics(log_probabilities, images.labels).items()}
        row["seconds"] = round(trainer.epoch_seconds + time.perf_counter() - start, 3)
        speed = config.batch_size * self.setup.steps_per_epoch / trainer.epoch_seconds
        row["images_per_second"] = round(speed, 1)
        self.history.append(row)
        trainer.next_epoch(lr_scale(config, self.history))
        if self.primary:
            self._write(log_probabilities)
        self._save(monitored(row, config.monitor))
        best = "  best" if best_row(self.history, config.monitor) is row else ""
        self.console.line(
            f"epoch {row['epoch']}/{config.epochs}  {format_metrics(row, 'train_')}  |  validation "
            f"{format_metrics(row, 'val_')}  |  {speed:.0f} images/s  {row['seconds']:.1f} s{best}"
        )
        if self.stop.requested(trainer.step) and trainer.epochs_done < config.epochs:
            self._interrupt()

    def _write(self, log_probabilities: np.ndarray) -> None:
        setup = self.setup
        runs.write_history(self.config.out, self.history)

        def samples() -> np.ndarray:
            images = setup.train_images.gather(np.arange(min(SAMPLES, len(setup.train_images))))
            keys = jax.random.split(jax.random.key(self.trainer.step), len(images))
            return np.asarray(jax.jit(setup.augment)(keys, images))

        progress = Progress(
            self.config.out,
            setup.spec,
            self.config,
            self.history,
            setup.val_images.labels,
            log_probabilities,
            samples,
        )
        for write in self.writers:
            write(progress)

    def _summary(self, best: Row, seconds: float) -> dict[str, Any]:
        trainer = self.trainer
        return {
            "best_epoch": best["epoch"],
            "best_val_top1": best["val_top1"],
            "best_val_loss": best["val_loss"],
            "epochs": trainer.epochs_done,
            "train_images": len(self.setup.train_images),
            "val_images": len(self.setup.val_images),
            # The rest is of the last process that worked on the run.
            "seconds": round(seconds, 1),
            "compile_seconds": round(trainer.compile_seconds, 1),
            "images_per_second": max(row["images_per_second"] for row in self.history),
            "data_wait_share": round(trainer.wait_seconds / (trainer.step_seconds or 1), 4),
            "peak_memory_gib": round(peak_memory_gib(), 2),
        }
