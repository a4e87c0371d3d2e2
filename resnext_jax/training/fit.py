"""The training loop: a configuration in; a run directory with the best and the latest checkpoint out."""

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnext_jax import runs
from resnext_jax.console import Console, format_metrics, printable
from resnext_jax.data import Images
from resnext_jax.devices import (
    DataParallel,
    agreed,
    enable_compilation_cache,
    failing_together,
    join_processes,
    peak_memory_gib,
    waiting_for_verdict,
)
from resnext_jax.errors import BadInput
from resnext_jax.inference import Evaluator, class_metrics, mean_metrics, means
from resnext_jax.models import trainable_mask
from resnext_jax.runs import Row, best_row, monitored
from resnext_jax.storage import write_whole
from resnext_jax.training.agreement import check_same_data, check_same_run, check_shared
from resnext_jax.training.config import TrainConfig, saved_config
from resnext_jax.training.decisions import lr_scale, stops_early
from resnext_jax.training.optimizer import make_schedule
from resnext_jax.training.progress import Progress, Writer
from resnext_jax.training.setup import Setup, prepare
from resnext_jax.training.stopping import Interrupted, StopRequest
from resnext_jax.training.trace import StepTrace
from resnext_jax.training.trainer import Trainer

SAMPLES = 16  # augmented images shown to writers
SHOWN = 20  # names of classes in the first lines

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """What a finished run leaves.

    Args:
        directory: the run directory.
        history: a row an epoch: epoch, step, lr, train_*, val_*, seconds, images_per_second, and
            the steps' seconds by what they were spent on (data, dispatch, device).
        summary: the content of `summary.json`.
    """

    directory: Path
    history: list[Row]
    summary: dict[str, Any]


def fit(config: TrainConfig, *, writers: Sequence[Writer] = (), quiet: bool = False) -> FitResult:
    """Train a classifier, keeping the best and the latest state.

    JAX's compilation cache is turned on for the whole process, in the user's cache directory, unless it is
    set already.

    Args:
        config: the run.
        writers: called after every epoch, once it is saved, beside the CSV and JSONL that are always written.
        quiet: print nothing.

    Returns:
        History and summary; the run directory holds everything else.

    Raises:
        BadInput: bad configuration or data; nothing was written.
        FileNotFoundError: missing data, weights or, with `resume`, run; nothing was written.
        FloatingPointError: the loss stopped being finite; the checkpoints from before are kept.
        OSError: a checkpoint or the history could not be written, as on a full disk.
        Interrupted: a signal came; the state was saved, and the message says where.
        KeyboardInterrupt: it came before the first step, or twice.

    Example:
        >>> result = fit(TrainConfig(data="demo", model="resnet18", epochs=2))  # doctest: +SKIP
        >>> result.history[-1]["val_top1"], result.directory  # doctest: +SKIP
    """
    config.check()
    if config.distributed:
        where = (config.coordinator, config.processes, config.process_id)
        join_processes(*where, timeout=config.peer_timeout)
        check_same_run(config)
        if config.resume:
            check_shared(config.directory, config.peer_timeout)
    enable_compilation_cache()
    started = time.perf_counter()
    parallel = DataParallel(config.devices, config.parallel)
    primary = jax.process_index() == 0
    console = Console(quiet or not primary)
    with ExitStack() as stack:
        stack.enter_context(waiting_for_verdict())
        with failing_together():
            resuming = config.resume and _is_resumable(config)
            config = config.resolved()
            if resuming and (result := _finished_before(config)):
                console.line(
                    f"{config.out} is finished: {len(result.history)} epochs; more epochs go on with it"
                )
                return result
            if primary:
                claimed = runs.claim(config.directory, resume=config.resume, overwrite=config.overwrite)
                stack.enter_context(claimed)
        check_shared(config.directory, config.peer_timeout)
        with failing_together():
            prepared = prepare(config, parallel.global_count, console, resuming=resuming)
        check_same_data(prepared[0].fingerprint.summary, config.peer_timeout)
        trainer = Trainer(*prepared, parallel)
        del prepared  # the initial state, whose place the trainer's takes
        setup = trainer.setup
        if resuming:
            with runs.Checkpoints(config.directory) as checkpoints:
                trainer.restore(checkpoints)
        _announce(trainer, resuming, console)
        if not _finished(config, trainer.history):
            trainer.start()
            console.line(f"compiled the training step in {trainer.compile_seconds:.1f} s")
        if primary:
            _begin_directory(setup, resuming)
            _write_bad_images(setup)

        evaluate = Evaluator(setup.eval_graphdef, setup.spec.preprocessing.normalize, parallel)
        checkpoints = stack.enter_context(runs.Checkpoints(config.directory, write=True))
        stop = stack.enter_context(StopRequest())
        trace = StepTrace(config.directory / runs.PROFILE, config.profile if primary else None)
        stack.callback(trace.end)
        stack.enter_context(waiting_for_verdict())  # before the checkpoints are closed, which waits for all
        saved = time.monotonic()

        def end_if_asked() -> None:
            if stop.came_here:
                _save(trainer, checkpoints, must=True)
                raise _interrupted(trainer, stop.signum)

        while not _finished(config, trainer.history):
            name = f"epoch {len(trainer.history) + 1}/{config.epochs}"
            with console.task(name, setup.steps_per_epoch) as update:
                for done in trainer.epoch():
                    update(done, trainer.note)
                    trace.after_step(lambda: jax.block_until_ready(trainer.state))
                    due = agreed(time.monotonic() - saved > 60 * config.save_minutes, trainer.step)
                    stopping = stop.requested(trainer.step)
                    if trainer.in_epoch and (due or stopping):
                        _save(trainer, checkpoints, must=stopping)
                        saved = time.monotonic()
                    if trainer.in_epoch and stopping:
                        raise _interrupted(trainer, stop.signum)

            validated, log_probabilities, row = _validate(trainer, evaluate, console, end_if_asked)
            if not math.isfinite(row["val_loss"]):
                trainer.diverged(f"the validation loss is {row['val_loss']}")
            trainer.end_epoch(row, lr_scale(config, [*trainer.history, row]))
            stopping = stop.requested(trainer.step)
            last = stopping or _finished(config, trainer.history)  # no later one makes up for it
            _save(trainer, checkpoints, monitored(row, config.monitor), must=last)
            saved = time.monotonic()
            console.line(_summary_line(row, config, best=best_row(trainer.history, config.monitor) is row))
            if primary:
                for write in writers:
                    write(_progress(trainer, validated, log_probabilities))
                _write_bad_images(setup)
            if stopping and not _finished(config, trainer.history):
                raise _interrupted(trainer, stop.signum)

        best = best_row(trainer.history, config.monitor)
        if len(trainer.history) < config.epochs:
            console.line(f"stopped early: no better epoch than {best['epoch']} in {config.early_stop}")
        trace.end()
        if trace.traced:
            console.line(
                f"a trace of {trace.traced} steps is in {trace.directory}; TensorBoard's profile plugin and "
                "ui.perfetto.dev (its .trace.json.gz) show it"
            )
        checkpoints.close()
        summary = _summary(trainer, best, time.perf_counter() - started)
        if primary:
            runs.write_history(config.directory, trainer.history)
            runs.write_json(config.directory / runs.SUMMARY, summary)
    return FitResult(config.directory, trainer.history, summary)


def _is_resumable(config: TrainConfig) -> bool:
    """Whether a checkpoint was saved that a run may go on from; otherwise it starts from the beginning.

    Raises:
        FileNotFoundError: there is no run, and no setting says what else to do.
        BadInput: the run was configured in another way.
    """
    saved = runs.saved_steps(config.directory)
    if saved or (config.directory / runs.CONFIG).is_file():
        if different := config.resolved().changes(saved_config(config.directory)):
            raise BadInput(
                f"out={config.out}: the run to resume has other settings ({'; '.join(different)}); leave "
                "them out, or start a new run"
            )
    elif config.data == TrainConfig().data and not config.changes(TrainConfig()):
        raise FileNotFoundError(
            f"out={config.out}: no run here to resume; give the settings of a run that is to start here"
        )
    if not saved:
        logger.warning("out=%s: nothing was saved there yet; starting from the beginning", config.directory)
    return bool(saved)


def _finished_before(config: TrainConfig) -> FitResult | None:
    """The result of a run that was finished by an earlier process."""
    out = config.directory
    damage = (OSError, ValueError, KeyError, TypeError, RecursionError)  # of either file
    with contextlib.suppress(*damage), runs.Checkpoints(out) as checkpoints:
        history = checkpoints.read_meta(checkpoints.step_of("latest"))["history"]
        summary = json.loads((out / runs.SUMMARY).read_text(encoding="utf-8"))
        if _finished(config, history) and summary["epochs"] == len(history):
            return FitResult(config.directory, history, summary)
    return None


def _finished(config: TrainConfig, history: list[Row]) -> bool:
    return len(history) >= config.epochs or stops_early(config, history)


def _begin_directory(setup: Setup, resuming: bool) -> None:
    """Write what the run is to its directory, in the place of an older run unless that goes on."""
    config, out = setup.config, setup.config.directory
    if resuming:
        before = runs.read_config(out)
        runs.write_config(out, setup.spec, config.to_dict(), setup.fingerprint.summary, resumed=before)
    else:
        runs.start(out, setup.spec, config.to_dict(), setup.fingerprint.summary)
    setup.fingerprint.write(out)


def _write_bad_images(setup: Setup) -> None:
    """Name every image that was skipped so far in a file of the run."""
    if bad := dict.fromkeys(setup.train_images.why_bad() + setup.val_images.why_bad()):
        reasons = "".join(f"{printable(reason)}\n" for reason in bad)
        write_whole(setup.config.directory / "bad_images.txt", reasons)


def _announce(trainer: Trainer, resuming: bool, console: Console) -> None:
    setup, parallel = trainer.setup, trainer.parallel
    config, classes = setup.config, setup.spec.classes
    console.line(
        f"{config.model} on {config.data}: {len(setup.train_images)} training and "
        f"{len(setup.val_images)} validation images, {setup.steps_per_epoch} steps an epoch, "
        f"{parallel.global_count} x {parallel.devices[0].device_kind}, in {config.out}"
    )
    more = f" and {len(classes) - SHOWN} more" if len(classes) > SHOWN else ""
    console.line(f"{len(classes)} classes: {', '.join(classes[:SHOWN])}{more}")
    base = f" ({config.lr:g} for {config.lr_base_size})" if config.lr_base_size else ""
    rising = f" after {config.warmup} of warm-up" if config.warmup else ""
    console.line(
        f"{config.optimizer}, batches of {config.batch_size}, learning rate {config.peak_lr:g}{base}, "
        f"schedule {config.schedule}{rising}, {config.epochs} epochs"
    )
    if setup.chosen_on_test:
        console.line(
            "no validation split: epochs are validated, and the best is chosen, on the test split, so its "
            "accuracy there is too high"
        )
    if config.freeze:
        mask = trainable_mask(trainer.state.params, config.freeze)
        sizes = jax.tree.map(lambda leaf: leaf.size, trainer.state.params)
        trained = jax.tree.map(lambda size, is_trained: size * is_trained, sizes, mask)
        console.line(
            f"trained: {sum(jax.tree.leaves(trained)):,} of {sum(jax.tree.leaves(sizes)):,} parameters"
        )
    if resuming:
        console.line(f"resuming after {trainer.step} steps, in epoch {len(trainer.history) + 1}")


def _save(
    trainer: Trainer,
    checkpoints: runs.Checkpoints,
    metrics: dict[str, float] | None = None,
    *,
    must: bool,
) -> None:
    """Save a checkpoint and, after an epoch, the history; go on without, if the run is to and we need not."""
    config = trainer.setup.config
    try:
        trainer.save(checkpoints, metrics)
        if metrics is not None and jax.process_index() == 0:
            runs.write_history(config.directory, trainer.history)
    except OSError as error:
        if must or config.on_save_error == "stop":
            raise
        logger.warning("%s; training goes on, and saves again later", error)


def _interrupted(trainer: Trainer, signum: int) -> Interrupted:
    config = trainer.setup.config
    return Interrupted(
        signum,
        f"saved after {trainer.step} steps, in epoch {len(trainer.history) + 1} of {config.epochs}, in "
        f"{config.out}",
        config.directory,
    )


def _validate(
    trainer: Trainer, evaluate: Evaluator, console: Console, after_batch: Callable[[], None]
) -> tuple[Images, np.ndarray, Row]:
    """The N validation images that can be read; predictions for them, float32 [N, K]; the epoch's row."""
    setup = trainer.setup
    config, images = setup.config, setup.val_images
    start = time.perf_counter()
    with console.task("validating", -(-len(images) // config.batch_size)) as update:

        def told(done: int, note: str) -> None:
            update(done, note)
            after_batch()

        log_probabilities, read = evaluate(trainer.state.model, images, config.batch_size, told)
    assert trainer.sums is not None  # the epoch's steps are made
    images = images.subset(read)
    labels = images.labels
    lr: Any = make_schedule(config, setup.steps_per_epoch)(trainer.step - 1)
    row: Row = {"epoch": len(trainer.history) + 1, "step": trainer.step}
    row["lr"] = float(lr) * lr_scale(config, trainer.history)
    trained = means({name: total for name, total in trainer.sums.items() if name != "skipped"})
    row["grad_norm"] = trained.pop("grad_norm")
    if config.on_nan == "skip":
        row["skipped_steps"] = int(trainer.sums["skipped"])
    row |= {f"train_{name}": value for name, value in trained.items()}
    validated = mean_metrics(log_probabilities, labels)
    validated |= class_metrics(log_probabilities, labels, setup.spec.classes)
    row |= {f"val_{name}": value for name, value in validated.items()}
    row["seconds"] = round(trainer.epoch_seconds + time.perf_counter() - start, 3)
    speed = config.batch_size * setup.steps_per_epoch / trainer.epoch_seconds
    row["images_per_second"] = round(speed, 1)
    row |= {f"{part}_seconds": round(seconds, 3) for part, seconds in trainer.spent.items()}
    return images, log_probabilities, row


def _summary_line(row: Row, config: TrainConfig, *, best: bool) -> str:
    return (
        f"epoch {row['epoch']}/{config.epochs}  {format_metrics(row, 'train_')}  |  validation "
        f"{format_metrics(row, 'val_')}  |  {row['images_per_second']:.0f} images/s  "
        f"{row['seconds']:.1f} s{'  best' * best}"
    )


def _progress(trainer: Trainer, images: Images, log_probabilities: np.ndarray) -> Progress:
    """What writers are told of the epoch that ended."""
    setup = trainer.setup

    def samples() -> np.ndarray:
        images = setup.train_images.gather(np.arange(min(SAMPLES, len(setup.train_images))))
        keys = jax.random.split(jax.random.key(trainer.step), len(images))
        return np.asarray(jax.jit(setup.augment)(keys, images))

    return Progress(
        setup.config.directory,
        setup.spec,
        setup.config,
        trainer.history,
        images.labels,
        log_probabilities,
        images,
        samples,
    )


def _summary(trainer: Trainer, best: Row, seconds: float) -> dict[str, Any]:
    setup = trainer.setup
    return {
        "best_epoch": best["epoch"],
        **{f"best_{name}": value for name, value in best.items() if name.startswith("val_")},
        "epochs": len(trainer.history),
        "train_images": len(setup.train_images),
        "val_images": len(setup.val_images),
        "validated_on": "test" if setup.chosen_on_test else "val",
        # The rest is of the last process that worked on the run.
        "seconds": round(seconds, 1),
        "compile_seconds": round(trainer.compile_seconds, 1),
        "images_per_second": max(row["images_per_second"] for row in trainer.history),
        "data_wait_share": round(trainer.wait_seconds / (trainer.step_seconds or 1), 4),
        "peak_memory_gib": round(peak_memory_gib(), 2),
    }
