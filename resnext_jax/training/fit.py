"""The training loop: a configuration in; a run directory with the best and the latest checkpoint out."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnext_jax import runs
from resnext_jax.console import Console, format_metrics, printable
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
from resnext_jax.storage import write_whole
from resnext_jax.training.config import TrainConfig, saved_config
from resnext_jax.training.decisions import lr_scale, stops_early
from resnext_jax.training.optimizer import make_schedule
from resnext_jax.training.progress import Progress, Writer
from resnext_jax.training.setup import Setup, prepare
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
    primary = jax.process_index() == 0
    console = Console(quiet or not primary)
    if config.resume:
        _check_resumable(config)
    elif primary:
        runs.check_free(config.out, overwrite=config.overwrite)

    setup = prepare(config, parallel, console)
    trainer = Trainer(setup, parallel)
    evaluate = Evaluator(setup.eval_graphdef, setup.spec.preprocessing.normalize, parallel)
    if config.resume:
        with runs.Checkpoints(config.out) as checkpoints:
            trainer.restore(checkpoints)
    if primary:
        _begin_directory(setup)
        _write_bad_images(setup)
    _announce(setup, trainer, parallel, console)

    started = time.perf_counter()
    if not _finished(trainer):
        trainer.start()
        console.line(f"compiled the training step in {trainer.compile_seconds:.1f} s")
    with runs.Checkpoints(config.out, write=True) as checkpoints, StopRequest() as stop:
        saved = time.monotonic()
        while not _finished(trainer):
            name = f"epoch {len(trainer.history) + 1}/{config.epochs}"
            with console.task(name, setup.steps_per_epoch) as update:
                for done in trainer.epoch():
                    update(done, trainer.note)
                    due = agreed(time.monotonic() - saved > 60 * config.save_minutes, trainer.step)
                    stopping = stop.requested(trainer.step)
                    if trainer.in_epoch and (due or stopping):
                        trainer.save(checkpoints)
                        saved = time.monotonic()
                    if trainer.in_epoch and stopping:
                        raise _interrupted(trainer, stop.signum)

            labels, log_probabilities, row = _validate(trainer, evaluate, console)
            trainer.end_epoch(row, lr_scale(config, [*trainer.history, row]))
            trainer.save(checkpoints, monitored(row, config.monitor))
            saved = time.monotonic()
            console.line(_summary_line(row, config, best=best_row(trainer.history, config.monitor) is row))
            if primary:
                runs.write_history(config.out, trainer.history)
                for write in writers:
                    write(_progress(trainer, labels, log_probabilities))
                _write_bad_images(setup)
            if stop.requested(trainer.step) and not _finished(trainer):
                raise _interrupted(trainer, stop.signum)

    best = best_row(trainer.history, config.monitor)
    if len(trainer.history) < config.epochs:
        console.line(f"stopped early: no better epoch than {best['epoch']} in {config.early_stop}")
    summary = _summary(trainer, best, time.perf_counter() - started)
    if primary:
        runs.write_json(config.out / "summary.json", summary)
    return FitResult(config.out, trainer.history, summary)


def _check_resumable(config: TrainConfig) -> None:
    if different := config.changes(saved_config(config.out)):
        raise BadInput(
            f"out={config.out}: the run to resume has other settings ({'; '.join(different)}); leave them "
            "out, or start a new run"
        )


def _begin_directory(setup: Setup) -> None:
    """Write what the run is to its directory, in the place of an older run unless it is resumed."""
    config = setup.config
    if config.resume:
        before = runs.read_config(config.out)
        runs.write_config(config.out, setup.spec, config.to_dict(), setup.fingerprint.summary, resumed=before)
    else:
        runs.start(config.out, setup.spec, config.to_dict(), setup.fingerprint.summary)
    setup.fingerprint.write(config.out)


def _write_bad_images(setup: Setup) -> None:
    """Name every image that was skipped so far in a file of the run."""
    if bad := setup.train_images.bad | setup.val_images.bad:
        write_whole(setup.config.out / "bad_images.txt", "".join(f"{printable(r)}\n" for r in bad.values()))


def _finished(trainer: Trainer) -> bool:
    config = trainer.setup.config
    return len(trainer.history) >= config.epochs or stops_early(config, trainer.history)


def _announce(setup: Setup, trainer: Trainer, parallel: DataParallel, console: Console) -> None:
    config = setup.config
    console.line(
        f"{config.model} on {config.data}: {len(setup.train_images)} training and "
        f"{len(setup.val_images)} validation images of {len(setup.spec.classes)} classes, "
        f"{setup.steps_per_epoch} steps an epoch, "
        f"{parallel.global_count} x {parallel.devices[0].device_kind}"
    )
    if config.freeze:
        console.line(f"trained: {setup.trained:,} of {setup.parameters:,} parameters")
    if config.resume:
        console.line(f"resuming after {trainer.step} steps, in epoch {len(trainer.history) + 1}")


def _interrupted(trainer: Trainer, signum: int) -> Interrupted:
    config = trainer.setup.config
    return Interrupted(
        signum,
        f"saved after {trainer.step} steps, in epoch {len(trainer.history) + 1} of {config.epochs}; "
        f"go on with: resnext-jax train --resume --out {shlex.quote(str(config.out))}",
    )


def _validate(trainer: Trainer, evaluate: Evaluator, console: Console) -> tuple[np.ndarray, np.ndarray, Row]:
    """Labels of the validation images, int32 [N]; predictions for them, float32 [N, K]; the epoch's row."""
    setup = trainer.setup
    config, images = setup.config, setup.val_images
    start = time.perf_counter()
    with console.task("validating", -(-len(images) // config.batch_size)) as update:
        log_probabilities, read = evaluate(trainer.state.model, images, config.batch_size, update)
    labels = images.labels[read]
    lr = make_schedule(config, setup.steps_per_epoch)(trainer.step - 1)
    row: Row = {"epoch": len(trainer.history) + 1, "step": trainer.step}
    row["lr"] = float(lr) * lr_scale(config, trainer.history)
    row |= {f"train_{name}": value for name, value in means(trainer.sums).items()}
    row |= {f"val_{name}": v for name, v in mean_metrics(log_probabilities, labels).items()}
    row["seconds"] = round(trainer.epoch_seconds + time.perf_counter() - start, 3)
    speed = config.batch_size * setup.steps_per_epoch / trainer.epoch_seconds
    row["images_per_second"] = round(speed, 1)
    return labels, log_probabilities, row


def _summary_line(row: Row, config: TrainConfig, *, best: bool) -> str:
    return (
        f"epoch {row['epoch']}/{config.epochs}  {format_metrics(row, 'train_')}  |  validation "
        f"{format_metrics(row, 'val_')}  |  {row['images_per_second']:.0f} images/s  "
        f"{row['seconds']:.1f} s{'  best' * best}"
    )


def _progress(trainer: Trainer, labels: np.ndarray, log_probabilities: np.ndarray) -> Progress:
    """What writers are told of the epoch that ended."""
    setup = trainer.setup

    def samples() -> np.ndarray:
        images = setup.train_images.gather(np.arange(min(SAMPLES, len(setup.train_images))))
        keys = jax.random.split(jax.random.key(trainer.step), len(images))
        return np.asarray(jax.jit(setup.augment)(keys, images))

    return Progress(
        setup.config.out,
        setup.spec,
        setup.config,
        trainer.history,
        labels,
        log_probabilities,
        samples,
    )


def _summary(trainer: Trainer, best: Row, seconds: float) -> dict[str, Any]:
    setup = trainer.setup
    return {
        "best_epoch": best["epoch"],
        "best_val_top1": best["val_top1"],
        "best_val_loss": best["val_loss"],
        "epochs": len(trainer.history),
        "train_images": len(setup.train_images),
        "val_images": len(setup.val_images),
        # The rest is of the last process that worked on the run.
        "seconds": round(seconds, 1),
        "compile_seconds": round(trainer.compile_seconds, 1),
        "images_per_second": max(row["images_per_second"] for row in trainer.history),
        "data_wait_share": round(trainer.wait_seconds / (trainer.step_seconds or 1), 4),
        "peak_memory_gib": round(peak_memory_gib(), 2),
    }
