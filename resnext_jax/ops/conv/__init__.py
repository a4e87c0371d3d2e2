"""Convolution and its two gradients: as primitives, in five lowerings, and the choice between these."""
