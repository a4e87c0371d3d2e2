"""Operators that XLA lowers badly, each with its own derivative rule."""

from resnext_jax.ops.grouped_conv import conv_general_dilated

__all__ = ["conv_general_dilated"]
