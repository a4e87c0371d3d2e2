"""Convolution and its two gradients: as primitives, in six lowerings, and the choice between these."""
