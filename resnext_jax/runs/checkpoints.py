"""Checkpoints of a run, kept by Orbax: the latest and the best.

A checkpoint has three items: `model` (params, batch_stats), `optimizer` (all else of the training state) and
`meta` (JSON: all that is needed to rebuild the model and to resume). Everything is saved as host arrays, so
that a checkpoint can be restored on any number of devices and hosts. This file knows plain trees only.
"""

from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from resnext_jax.models import Tree
from resnext_jax.runs.directory import CHECKPOINTS
from resnext_jax.runs.history import rank

Which = Literal["best", "latest"]
ITEMS = ("model", "optimizer", "meta")


class Checkpoints:
    """The checkpoints of one run directory; use as a context manager, or close.

    Args:
        directory: the run directory; checkpoints are below it, in `checkpoints/`.
        write: save to it, and make the folder if it is missing; otherwise nothing on the disk changes.

    Raises:
        FileNotFoundError: there is no such folder and `write` is False.
    """

    def __init__(self, directory: Path, *, write: bool = False):
        self.directory = directory / CHECKPOINTS
        if not write and not self.directory.is_dir():
            raise FileNotFoundError(f"{directory}: no run directory here (it has no folder {CHECKPOINTS}/)")
        keep = checkpoint_managers
        newest, best = (
            keep.LatestN(1),
            keep.BestN(get_metric_fn=rank, n=1, keep_checkpoints_without_metrics=False),
        )
        options = ocp.CheckpointManagerOptions(
            best_fn=rank,
            preservation_policy=keep.AnyPreservationPolicy([newest, best]) if write else None,
            create=write,
            read_only=not write,
        )
        self._manager = ocp.CheckpointManager(self.directory.resolve(), options=options, item_names=ITEMS)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is being written, then let go."""
        self._manager.close()

    def save(
        self,
        step: int,
        model: Tree,
        optimizer: Tree,
        meta: dict[str, Any],
        metrics: dict[str, float] | None,
    ) -> None:
        """Write a checkpoint in the background; one that is there already is left alone.

        Args:
            step: steps made.
            model: `params` and `batch_stats`, on any devices.
            optimizer: all else that is restored to resume, on any devices.
            meta: JSON values.
            metrics: those that `rank` orders by; None within an epoch: such a checkpoint is never the best.
        """
        if step in self._manager.all_steps():
            return
        # A copy: the writer works on in the background, and the next step reuses the state's memory.
        model, optimizer = jax.tree.map(lambda x: np.array(x, copy=True), (model, optimizer))
        args = ocp.args.Composite(
            model=ocp.args.StandardSave(model),
            optimizer=ocp.args.StandardSave(optimizer),
            meta=ocp.args.JsonSave(meta),
        )
        self._manager.save(step, args=args, metrics=metrics)

    def step_of(self, which: Which) -> int:
        """Step of the best or the latest checkpoint; of the latest if none was validated.

        Raises:
            FileNotFoundError: nothing was saved yet.
        """
        step = self._manager.best_step() if which == "best" else None
        step = self._manager.latest_step() if step is None else step
        if step is None:
            raise FileNotFoundError(f"{self.directory}: no checkpoint was saved here")
        return step

    def read_meta(self, step: int) -> dict[str, Any]:
        """The JSON item."""
        return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]

    def read_model(self, step: int) -> Tree:
        """`params` and `batch_stats`, as host arrays."""
        args = ocp.args.Composite(model=ocp.args.StandardRestore())
        return self._manager.restore(step, args=args)["model"]

    def read_state(self, step: int, model: Tree, optimizer: Tree) -> tuple[Tree, Tree]:
        """Both trees, as host arrays; the arguments give their structure, on any devices.

        Raises:
            ValueError: the checkpoint has other shapes.
        """
        model, optimizer = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), (model, optimizer))
        args = ocp.args.Composite(
            model=ocp.args.StandardRestore(model), optimizer=ocp.args.StandardRestore(optimizer)
        )
        items = self._manager.restore(step, args=args)
        return items["model"], items["optimizer"]


def read_best(directory: Path) -> tuple[int, Tree, dict[str, Any]]:
    """A run's best checkpoint, or its latest if none was validated.

    Args:
        directory: the run directory.

    Returns:
        Step, the model ({"params": ..., "batch_stats": ...} of host arrays), and the JSON item.

    Raises:
        FileNotFoundError: no checkpoint there.
    """
    with Checkpoints(directory) as checkpoints:
        step = checkpoints.step_of("best")
        return step, checkpoints.read_model(step), checkpoints.read_meta(step)
