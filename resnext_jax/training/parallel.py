"""Data parallelism: the one place where steps are mapped over devices.

`jax.pmap` can be replaced by `jax.jit(jax.shard_map(...))` here and nowhere else; the tests hold both to the
same numbers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resnext_jax.training.step import AXIS


class DataParallel:
    """Devices of this process, and how arrays and steps are laid over them.

    Args:
        devices: use only this many local devices; None uses all.

    Raises:
        ValueError: fewer devices are there than asked for, or only some are asked for in a run of many
            processes.
    """

    def __init__(self, devices: int | None = None):
        local = jax.local_devices()
        if devices is not None and devices > len(local):
            raise ValueError(f"devices={devices}: this host has {len(local)} ({local[0].device_kind})")
        if devices is not None and devices < len(local) and jax.process_count() > 1:
            raise ValueError(
                f"devices={devices}: a run of {jax.process_count()} processes uses all devices of each"
            )
        self.devices: Sequence[jax.Device] = local[:devices]
        self._mesh = Mesh(np.array(self.devices), (AXIS,))

    @property
    def local_count(self) -> int:
        """Devices of this process."""
        return len(self.devices)

    @property
    def global_count(self) -> int:
        """Devices of all processes."""
        return self.local_count * jax.process_count()

    def replicate(self, tree: Any) -> Any:
        """A copy of every array on every device; under the axis name of the steps, or they compile twice."""
        return jax.device_put(tree, NamedSharding(self._mesh, PartitionSpec()))

    def split(self, batch: Any) -> Any:
        """Arrays [D, N, ...] with row d on device d."""
        return jax.device_put(batch, NamedSharding(self._mesh, PartitionSpec(AXIS)))

    def train_step(self, step: Callable) -> Callable:
        """Map `(state, sums, batch) -> (state, sums)`; the state is donated: its memory is the new one's."""
        # Several processes map over all their devices: naming the local ones would exclude the others'.
        devices = None if jax.process_count() > 1 else self.devices
        return jax.pmap(
            step, AXIS, in_axes=(None, None, 0), out_axes=(None, None), devices=devices, donate_argnums=0
        )

    def eval_step(self, step: Callable) -> Callable:
        """Map `(state, sums, batch) -> sums`."""
        devices = None if jax.process_count() > 1 else self.devices
        return jax.pmap(step, AXIS, in_axes=(None, None, 0), out_axes=None, devices=devices)
