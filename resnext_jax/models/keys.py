"""Random keys for layers that are built under a trace."""

from typing import TYPE_CHECKING

import jax
from flax import nnx


class Keys(nnx.Rngs if TYPE_CHECKING else object):
    """The keys that `nnx.Rngs` gives to layers, one by one, counted in Python.

    The counter of `nnx.Rngs` is an array that every draw replaces. Under a trace jax 0.10 takes longer for
    that the longer the program is: three quarters of the time to make an abstract resnet152.

    Args:
        key: of the stream, as `nnx.Rngs` takes it.
    """

    def __init__(self, key: jax.Array | int):
        self._key = jax.random.key(key) if isinstance(key, int) else key
        self._drawn = 0

    def params(self) -> jax.Array:
        """The next key."""
        key = jax.random.fold_in(self._key, self._drawn)
        self._drawn += 1
        return key
