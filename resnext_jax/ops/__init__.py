"""Operators that XLA lowers badly, each with its own derivative rule."""

from resnext_jax.ops.batch_norm import batch_norm
from resnext_jax.ops.conv.spec import DIMENSION_NUMBERS
from resnext_jax.ops.conv_affine import PARTS, conv_affine
from resnext_jax.ops.grouped_conv import conv_general_dilated
from resnext_jax.ops.host_memory import keep_freed_memory, keep_freed_memory_on_cpu
from resnext_jax.ops.max_pool import max_pool
from resnext_jax.ops.stem import stem

__all__ = [
    "DIMENSION_NUMBERS",
    "PARTS",
    "batch_norm",
    "conv_affine",
    "conv_general_dilated",
    "keep_freed_memory",
    "max_pool",
    "stem",
]

# Here, and not when an operator is first used: by then the threads of JAX's CPU backend have begun.
keep_freed_memory_on_cpu()
