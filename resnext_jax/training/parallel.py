"""Data parallelism: the one place where steps are mapped over devices.

`jax.pmap` can be replaced by `jax.jit(jax.shard_map(...))` here and nowhere else; the tests hold both to the
same numbers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resnext_jax.training.metrics import Sums
from resnext_jax.training.state import TrainState
from resnext_jax.training.step import AXIS, Batch, EvalStep, TrainStep


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
        # Of all processes: arrays are global, as they would be for jit and shard_map.
        self._mesh = Mesh(np.array(jax.devices() if jax.process_count() > 1 else self.devices), (AXIS,))

    @property
    def local_count(self) -> int:
        """Devices of this process."""
        return len(self.devices)

    @property
    def global_count(self) -> int:
        """Devices of all processes."""
        return self._mesh.size

    def replicate(self, tree: Any) -> Any:
        """A copy of every array on every device; under the axis name of the steps, or they compile twice."""
        return jax.device_put(tree, NamedSharding(self._mesh, PartitionSpec()))

    def split(self, batch: Any) -> Any:
        """Arrays [D, N, ...] of this process, with row d on its device d."""
        sharding = NamedSharding(self._mesh, PartitionSpec(AXIS))
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)

    def compile_train_step(self, step: TrainStep, state: TrainState, sums: Sums, batch: Batch) -> TrainStep:
        """Map a step over the devices and compile it, with its state donated: the new one takes its memory.

        Args:
            step: of one device.
            state: replicated.
            sums: replicated.
            batch: split.
        """
        mapped = self._map(step, out_axes=(None, None), donate_argnums=0)
        return mapped.lower(state, sums, batch).compile()

    def compile_eval_step(self, step: EvalStep, state: TrainState, sums: Sums, batch: Batch) -> EvalStep:
        """Map a step over the devices and compile it; arguments as in `compile_train_step`."""
        return self._map(step, out_axes=None).lower(state, sums, batch).compile()

    def _map(self, step: Callable, **options: Any) -> Any:
        # Several processes map over all their devices: to name the local ones would exclude the others'.
        devices = None if jax.process_count() > 1 else self.devices
        return jax.pmap(step, AXIS, in_axes=(None, None, 0), devices=devices, **options)
