"""Reading the best checkpoint of a run directory."""

import math
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp


def read_run(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's best checkpoint, or its latest where none was validated.

    Args:
        directory: the run directory.

    Returns:
        The model, {"params": ..., "batch_stats": ...} of host arrays nested by attribute, and the meta data
        (`config`, `classes`, `preprocessing`).

    Raises:
        FileNotFoundError: no checkpoint there.
    """
    checkpoints = directory / "checkpoints"
    if not checkpoints.is_dir():
        raise FileNotFoundError(f"{directory}: no run directory (it has no folder checkpoints/)")
    options = ocp.CheckpointManagerOptions(best_fn=rank, create=False, read_only=True)
    with ocp.CheckpointManager(
        checkpoints.resolve(), options=options, item_names=("model", "optimizer", "meta")
    ) as manager:
        step = manager.best_step()
        step = manager.latest_step() if step is None else step
        if step is None:
            raise FileNotFoundError(f"{checkpoints}: no checkpoint was saved here")
        items = manager.restore(
            step, args=ocp.args.Composite(model=ocp.args.StandardRestore(), meta=ocp.args.JsonRestore())
        )
    return items["model"], items["meta"]


def rank(metrics: dict[str, float]) -> tuple[float, float]:
    """Order of checkpoints: validation top-1, ties by loss; where one is not finite, behind all others.

    Args:
        metrics: `val_loss`, and `val_top1` unless the loss alone decides.
    """
    top1, loss = metrics.get("val_top1", 0.0), metrics["val_loss"]
    return (top1, -loss) if math.isfinite(top1) and math.isfinite(loss) else (-1.0, -math.inf)
