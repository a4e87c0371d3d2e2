"""What people look at: curves, grids of images, heat maps, the confusion matrix, tables, TensorBoard's
files, and a page of all of it.

All but `tables` and `fit` import matplotlib or tensorboardX, so they are imported where they are used.
"""

from typing import TYPE_CHECKING

from resnext_jax.reports.fit import fit

if TYPE_CHECKING:
    from resnext_jax.reports import (
        charts,
        compare,
        confusion,
        curves,
        grid,
        heatmaps,
        html,
        rows,
        tables,
        tensorboard,
        trackers,
        trained_on,
    )

__all__ = [
    "charts",
    "compare",
    "confusion",
    "curves",
    "fit",
    "grid",
    "heatmaps",
    "html",
    "rows",
    "tables",
    "tensorboard",
    "trackers",
    "trained_on",
]
