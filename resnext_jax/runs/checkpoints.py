"""Checkpoints of a run: the latest and the best, written by Orbax, each with checksums and read by itself.

A checkpoint has three items: `model` (params, batch_stats), `optimizer` (all else of the training state) and
`meta` (JSON: all that is needed to rebuild the model and to resume), and, if its epoch was validated,
`metrics`. Everything is saved as host arrays, so that a checkpoint can be restored on any number of devices
and hosts. This file knows plain trees only.
"""

import copy
import json
import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from resnext_jax.errors import BadInput
from resnext_jax.models import Tree
from resnext_jax.runs.directory import CHECKPOINTS, DAMAGED, FORMAT, read_meta, remove, saved_steps
from resnext_jax.runs.history import rank
from resnext_jax.runs.seal import SEAL, Damaged, seal, verify

Which = Literal["best", "latest"]
UNFINISHED = ".orbax-checkpoint-tmp"
"""In the name of what Orbax has not written to the end."""
REPLACED = ".replaced"
"""In the name of a checkpoint whose successor of the same step is not yet written to the end."""
NOTES = "_CHECKPOINT_METADATA"
"""What Orbax notes of a checkpoint as a whole."""

_IN_PLACE: dict[str, Any] = {"in_place": True}
"""Marks what is logged if another checkpoint than the wanted one is read: the exit code tells it, too."""

logger = logging.getLogger(__name__)


class NotSaved(OSError):
    """A checkpoint could not be written; those from before are untouched."""


@dataclass(frozen=True)
class Saved:
    """What predicting needs of a checkpoint.

    Args:
        step: training steps behind it.
        which: "best" or "latest"; another one than was asked for if that is damaged.
        model: `params` and `batch_stats`, as host arrays.
        meta: the JSON item.
    """

    step: int
    which: Which
    model: Tree
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run directory; use as a context manager, or close.

    Args:
        directory: the run directory; checkpoints are below it, in `checkpoints/`.
        write: save to it, and make the folder if it is missing; otherwise nothing on the disk changes.

    Raises:
        FileNotFoundError: there is no such folder and `write` is False.

    Example:
        >>> model = {"params": {"w": np.ones(2)}}
        >>> with Checkpoints(Path("run"), write=True) as checkpoints:
        ...     checkpoints.save(7, model, {"step": np.int32(7)}, {"classes": ["cat"]}, metrics=None)
        >>> with Checkpoints(Path("run")) as checkpoints:
        ...     step = checkpoints.step_of("latest")
        ...     step, checkpoints.read_model(step)["params"]["w"].tolist()
        (7, [1.0, 1.0])
    """

    def __init__(self, directory: Path, *, write: bool = False):
        self.directory, self.folder = directory, directory / CHECKPOINTS
        if not write and not self.folder.is_dir():
            raise FileNotFoundError(f"{directory}: no run directory here (it has no folder {CHECKPOINTS}/)")
        self._manager: ocp.CheckpointManager | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not KeyboardInterrupt:  # which is not to wait; the writer goes on by itself
            self.close()

    def close(self) -> None:
        """Wait for what is being written, then let go.

        Raises:
            NotSaved: it could not be written.
        """
        try:
            self._wait()
        finally:
            if self._manager is not None:
                self._manager.close()
                self._manager = None

    def save(
        self,
        step: int,
        model: Tree,
        optimizer: Tree,
        meta: dict[str, Any],
        metrics: dict[str, float] | None,
    ) -> None:
        """Write a checkpoint in the background; one that is there already is left alone.

        A checkpoint that was saved while its epoch was being validated has no metrics; one with metrics takes
        its place.

        Args:
            step: steps made.
            model: `params` and `batch_stats`, on any devices.
            optimizer: all else that is restored to resume, on any devices.
            meta: JSON values.
            metrics: those that `rank` orders by; None within an epoch: such a checkpoint is never the best.

        Raises:
            NotSaved: there is no room for it, or the one before could not be written.
        """
        self._wait()
        exists = step in saved_steps(self.directory)
        if exists and (metrics is None or (self.folder / str(step) / "metrics").exists()):
            return
        # The writer works on in the background, while the next step reuses the state's memory and the epoch's
        # end adds to the history. Orbax copies host arrays before it returns, but no JSON.
        meta, metrics = copy.deepcopy((meta, metrics))
        model, optimizer = jax.tree.map(np.asarray, (model, optimizer))
        self._check_room(model, optimizer)
        args = ocp.args.Composite(
            model=ocp.args.PyTreeSave(model),
            optimizer=ocp.args.PyTreeSave(optimizer),
            meta=ocp.args.JsonSave({"format": FORMAT} | meta),
        )
        if self._manager is None:
            self._clear_unfinished()
            if exists:
                self._make_way(step)
            self._manager = self._make_manager()
        try:
            self._manager.save(step, args=args, metrics=metrics)
        except (ValueError, OSError) as error:
            raise self._not_saved(error) from None

    def step_of(self, which: Which) -> int:
        """Step of the best or the latest checkpoint; of the latest if none was validated.

        Raises:
            FileNotFoundError: nothing was saved yet.
        """
        return self._candidates(which)[0][0]

    def read(self, which: Which) -> Saved:
        """The best or the latest checkpoint. If it is damaged, the next that is whole, and a warning says so.

        Raises:
            FileNotFoundError: nothing was saved yet.
            Damaged: no checkpoint is whole.
        """
        errors = []
        for step, kind in self._candidates(which):
            try:
                saved = Saved(step, kind, self.read_model(step), self.read_meta(step))
            except Damaged as error:
                errors.append(str(error))
                continue
            if errors:
                said = "%s; taking the checkpoint of step %d, the %s that is whole"
                logger.warning(said, errors[0], step, kind, extra=_IN_PLACE)
            return saved
        raise Damaged(f"{self.folder}: no checkpoint is whole: {'; '.join(errors)}")

    def read_meta(self, step: int) -> dict[str, Any]:
        """The JSON item.

        Raises:
            Damaged: it cannot be read.
        """
        verify(self.folder / str(step), "meta")
        try:
            return read_meta(self.directory, step)
        except BadInput as error:
            raise Damaged(str(error)) from None

    def read_model(self, step: int) -> Tree:
        """`params` and `batch_stats`, as host arrays.

        Raises:
            Damaged: they cannot be read.
        """
        return self._read_item(step, "model")

    def read_optimizer(self, step: int) -> Tree:
        """The tree that was saved as `optimizer`, as host arrays.

        Raises:
            Damaged: it cannot be read.
        """
        return self._read_item(step, "optimizer")

    def read_state(self, step: int, model: Tree, optimizer: Tree) -> tuple[Tree, Tree]:
        """Both trees, as host arrays; the arguments give their structure, on any devices.

        Raises:
            Damaged: they cannot be read.
            BadInput: the checkpoint has other arrays.
        """
        like = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), {"model": model, "optimizer": optimizer})
        verify(self.folder / str(step), *like)
        try:
            trees = [self._restore(step, item, tree) for item, tree in like.items()]
        except Damaged as error:
            if not (self.folder / str(step) / SEAL).exists():
                raise
            raise BadInput(f"{error}: the files are whole, but hold another model or optimiser") from None
        shapes = [[leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (trees, list(like.values()))]
        if shapes[0] != shapes[1]:
            raise BadInput(f"{self.folder / str(step)}: holds another model or optimiser, of other shapes")
        return trees[0], trees[1]

    def resume(self, model: Tree, optimizer: Tree) -> tuple[int, dict[str, Any], Tree, Tree]:
        """The newest checkpoint that is whole, to go on from. Damaged ones are moved to `damaged/`.

        Args:
            model: gives the structure of what is read, on any devices.
            optimizer: likewise.

        Returns:
            Step, JSON item, and both trees as host arrays.

        Raises:
            FileNotFoundError: nothing was saved yet.
            Damaged: no checkpoint is whole; all stay where they are.
            BadInput: the checkpoint has other arrays.
        """
        if jax.process_index() == 0:
            self._settle_replaced()
            self._drop_damaged_notes()
        damaged: dict[int, Damaged] = {}
        found = None
        for step, _ in self._candidates("latest"):
            try:
                if found is None:
                    found = step, self.read_meta(step), *self.read_state(step, model, optimizer)
                    self._metrics(step)
                else:
                    self.check(step)
            except Damaged as error:
                damaged[step] = error
                found = None if found and found[0] == step else found
        if found is None:
            raise Damaged(
                f"{self.folder}: no checkpoint is whole; put a copy of one there, or start anew "
                f"(overwrite=True): {'; '.join(map(str, damaged.values()))}"
            )
        for step, error in damaged.items():
            if jax.process_index() == 0:
                logger.warning("%s; moved to %s", error, self._set_aside(step))
        return found

    def check(self, step: int) -> None:
        """Check what others than resuming need of a checkpoint: model, JSON, metrics.

        Raises:
            Damaged: something is missing or wrong.
        """
        self.read_meta(step)
        self.read_model(step)
        self._metrics(step)

    def _set_aside(self, step: int) -> Path:
        """Move a damaged checkpoint to the folder `damaged/`; returns where it lies now."""
        folder = self.directory / DAMAGED
        folder.mkdir(exist_ok=True)
        target = folder / str(step)
        while target.exists():
            target = target.with_name(target.name + "_")
        (self.folder / str(step)).rename(target)
        return target

    def _candidates(self, which: Which) -> list[tuple[int, Which]]:
        """Steps in the order in which they are to be tried, the wanted one first."""
        steps = saved_steps(self.directory)
        if not steps:
            raise FileNotFoundError(f"{self.folder}: no checkpoint was saved here")
        latest: list[tuple[int, Which]] = [(step, "latest") for step in steps]
        if which == "latest":
            return latest
        ranked = {step: rank(metrics) for step in steps if (metrics := self._known_metrics(step))}
        best: list[tuple[int, Which]] = [(max(ranked, key=ranked.__getitem__), "best")] if ranked else []
        return best + [(step, kind) for step, kind in latest if (step, "best") not in best]

    def _known_metrics(self, step: int) -> dict[str, float] | None:
        try:
            return self._metrics(step)
        except Damaged as error:
            # An older one is there because it was the best; the newest is, whatever it was.
            extra = _IN_PLACE if step != saved_steps(self.directory)[0] else {}
            logger.warning("%s; it does not count as the best", error, extra=extra)
            return None

    def _metrics(self, step: int) -> dict[str, float] | None:
        """What a checkpoint was ranked by; None if its epoch was not validated."""
        path = self.folder / str(step) / "metrics" / "metrics"
        verify(self.folder / str(step), "metrics")
        if not (self.folder / str(step) / "model").is_dir():
            raise Damaged(f"{self.folder / str(step)}: damaged, it has no model")
        if not path.parent.exists():
            return None
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
            rank(metrics)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise Damaged(f"{path}: damaged ({error!r})") from None
        return metrics

    def _read_item(self, step: int, item: str) -> Tree:
        verify(self.folder / str(step), item)
        return self._restore(step, item)

    def _restore(self, step: int, item: str, like: Tree | None = None) -> Tree:
        """An item that is verified, as host arrays."""
        path = self.folder / str(step) / item
        try:
            with ocp.StandardCheckpointer() as reader:
                return reader.restore(path.resolve(), like)
        except (PermissionError, MemoryError):
            raise
        except Exception as error:  # whatever Orbax and TensorStore make of a damaged file
            reason = str(error).splitlines() or [repr(error)]
            raise Damaged(f"{path}: damaged ({reason[0]})") from None

    def _make_manager(self) -> ocp.CheckpointManager:
        keep = checkpoint_managers
        by_rank: Any = rank  # Orbax compares what it gives, and a tuple breaks ties
        newest = keep.LatestN(1)
        best = keep.BestN(get_metric_fn=by_rank, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            best_fn=by_rank,
            preservation_policy=keep.AnyPreservationPolicy([newest, best]),
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._seal),
        )
        # Weights are noise to a compressor: a tenth less on the disk for twice the time.
        arrays = {name: ocp.PyTreeCheckpointHandler(use_compression=False) for name in ("model", "optimizer")}
        handlers: Any = arrays | {"meta": ocp.JsonCheckpointHandler()}
        return ocp.CheckpointManager(self.folder.resolve(), options=options, item_handlers=handlers)

    def _seal(self) -> None:
        """Write the checksums of the checkpoint that is about to get its name, in the writer's thread."""
        if jax.process_index() == 0:
            for folder in self.folder.glob(f"*{UNFINISHED}*"):
                seal(folder)

    def _wait(self) -> None:
        """Wait for the checkpoint that is being written."""
        try:
            if self._manager is not None:
                self._manager.wait_until_finished()
                if jax.process_index() == 0:
                    self._settle_replaced()
        except (ValueError, OSError) as error:
            raise self._not_saved(error) from None

    def _check_room(self, *trees: Tree) -> None:
        if jax.process_index() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(trees)) + (1 << 20)
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise NotSaved(
                f"{self.folder}: no space left for a checkpoint: it takes {needed / 2**20:,.0f} MiB, "
                f"{free / 2**20:,.0f} MiB are free"
            )

    def _not_saved(self, error: Exception) -> NotSaved:
        """What went wrong, after clearing away what was half written."""
        # The manager counts what it could not write: a new one looks at the disk again.
        self._manager = None
        self._clear_unfinished()
        said = str(error).splitlines() or [repr(error)]
        no_space = "RESOURCE_EXHAUSTED" in said[0] or "No space" in said[0]
        return NotSaved(f"{self.folder}: {'no space left for a checkpoint' if no_space else said[0]}")

    def _clear_unfinished(self) -> None:
        """Remove what a save that failed, or a process that died in one, left behind."""
        if jax.process_index() == 0:
            for folder in self.folder.glob(f"*{UNFINISHED}*"):
                # Of a save that failed, other items may still be being written.
                deadline = time.monotonic() + 5
                while folder.exists() and time.monotonic() < deadline:
                    remove(folder, ignore_errors=True)
                    time.sleep(0.02)
            self._settle_replaced()

    def _make_way(self, step: int) -> None:
        """Give a checkpoint another name until its successor has its own."""
        multihost_utils.sync_global_devices("all have seen the checkpoint")
        if jax.process_index() == 0:
            (self.folder / str(step)).rename(self.folder / f"{step}{REPLACED}")
        multihost_utils.sync_global_devices("the checkpoint has made way")

    def _settle_replaced(self) -> None:
        """Delete checkpoints whose successor is written; those without one get their name back."""
        for folder in self.folder.glob(f"*{REPLACED}"):
            named = folder.with_name(folder.name.removesuffix(REPLACED))
            if named.exists():
                remove(folder)
            else:
                folder.rename(named)

    def _drop_damaged_notes(self) -> None:
        """Remove what Orbax notes beside the items, such as times, where it could not read it itself.

        Saving would end in whatever exception that makes. Nothing else needs these notes.
        """
        for step in ocp.path.step.standard_name_format().find_all(self.folder.resolve()):
            notes = step.path / NOTES
            try:
                step.commit_timestamp  # noqa: B018
            except PermissionError:
                raise
            except Exception as error:  # whatever Orbax makes of damaged notes
                said = "%s: damaged (%s), removed; it held times alone"
                logger.warning(said, notes, type(error).__name__)
                notes.unlink(missing_ok=True)


def read_best(directory: Path, *, ema: bool = True) -> tuple[int, Tree, dict[str, Any]]:
    """A run's best checkpoint, or its latest if none was validated.

    Args:
        directory: the run directory.
        ema: if the run keeps a moving average, read the averaged weights; False: the raw ones of that step.

    Returns:
        Step, the model ({"params": ..., "batch_stats": ...} of host arrays), and the JSON item.

    Raises:
        FileNotFoundError: no checkpoint there.
        Damaged: no checkpoint is whole.
    """
    with Checkpoints(directory) as checkpoints:
        saved = checkpoints.read("best")
        raw = {} if ema else checkpoints.read_optimizer(saved.step)
    # A run without an average has no second set.
    model = {name: raw[name] for name in ("params", "batch_stats")} if "params" in raw else saved.model
    return saved.step, model, saved.meta
