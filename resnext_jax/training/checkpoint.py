"""Checkpoints of a run, kept by Orbax: the latest and the best.

Everything is saved as host arrays, so that a checkpoint can be restored on any number of devices and hosts.
"""

from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from resnext_jax.training.state import TrainState
from resnext_jax.weights.runs import rank

Which = Literal["best", "latest"]


class Checkpoints:
    """The checkpoints of one run directory; use as a context manager, or close.

    A checkpoint has three items: `model` (params, batch_stats), `optimizer` (seed, step, opt_state) and
    `meta` (JSON: all that is needed to rebuild and to resume).

    Args:
        directory: the run directory; checkpoints are below it, in `checkpoints/`.
        create: make the folder where it is missing.

    Raises:
        FileNotFoundError: there is no checkpoint and `create` is False.
    """

    def __init__(self, directory: Path, *, create: bool = False):
        self.directory = directory / "checkpoints"
        if not create and not self.directory.is_dir():
            raise FileNotFoundError(f"{directory}: no run directory here (it has no folder checkpoints/)")
        keep = checkpoint_managers
        self._manager = ocp.CheckpointManager(
            self.directory.resolve(),
            options=ocp.CheckpointManagerOptions(
                best_fn=rank,
                preservation_policy=keep.AnyPreservationPolicy(
                    [
                        keep.LatestN(1),
                        keep.BestN(get_metric_fn=rank, n=1, keep_checkpoints_without_metrics=False),
                    ]
                ),
                create=create,
            ),
            item_names=("model", "optimizer", "meta"),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is being written, then let go."""
        self._manager.close()

    def save(
        self, step: int, state: TrainState, meta: dict[str, Any], metrics: dict[str, float] | None
    ) -> None:
        """Write a checkpoint in the background; one that is there already is left alone.

        Args:
            step: steps made.
            state: on any devices.
            meta: JSON values.
            metrics: those that `rank` orders by; None within an epoch: such a checkpoint is never the best.
        """
        if step in self._manager.all_steps():
            return
        # A copy: the writer works on in the background, and the next step reuses the state's memory.
        host = jax.tree.map(lambda x: np.array(x, copy=True), state)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardSave(host.model),
                optimizer=ocp.args.StandardSave(_rest(host)),
                meta=ocp.args.JsonSave(meta),
            ),
            metrics=metrics,
        )

    def step_of(self, which: Which) -> int:
        """Step of the best or the latest checkpoint; of the latest where none was validated.

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

    def read_model(self, step: int) -> dict[str, Any]:
        """`params` and `batch_stats`, as host arrays."""
        args = ocp.args.Composite(model=ocp.args.StandardRestore())
        return self._manager.restore(step, args=args)["model"]

    def read_state(self, step: int, like: TrainState) -> TrainState:
        """The whole state, as host arrays; `like` gives the structure, on any devices.

        Raises:
            ValueError: the checkpoint has other shapes.
        """
        like = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
        items = self._manager.restore(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardRestore(like.model),
                optimizer=ocp.args.StandardRestore(_rest(like)),
            ),
        )
        model, rest = items["model"], items["optimizer"]
        return TrainState(**rest, **model) if like.ema is None else TrainState(**rest, ema=model)


def _rest(state: TrainState) -> dict[str, Any]:
    """All of a state but its `model`."""
    model = ("params", "batch_stats", "ema") if state.ema is None else ("ema",)
    return {name: value for name, value in state._asdict().items() if name not in model}
