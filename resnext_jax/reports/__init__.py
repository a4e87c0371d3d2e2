"""What people look at: curves, grids of predictions, tables."""
