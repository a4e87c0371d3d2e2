"""Grouped convolution. Placeholder wiring until the merged lowering lands in the next commit."""

from jax.lax import conv_general_dilated

__all__ = ["conv_general_dilated"]
