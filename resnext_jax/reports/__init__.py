"""What people look at: curves, grids of images, heat maps, the confusion matrix, tables, TensorBoard's files.

All but `tables` import matplotlib or tensorboardX, so they are imported where they are used.
"""

__all__ = ["confusion", "curves", "grid", "heatmaps", "tables", "tensorboard"]
