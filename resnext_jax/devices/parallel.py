"""Data parallelism: the one place where steps are mapped over devices, by `jax.pmap` or `jax.shard_map`."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resnext_jax.devices.runtime import interruptible
from resnext_jax.errors import BadInput

AXIS = "batch"
"""Name of the mapped axis: steps reduce over it."""

MapBy = Literal["pmap", "shard_map"]
"""What maps steps over devices; the numbers are the same."""

Batch = dict[str, jax.Array]
"""One device's share: `image` uint8 [N, H, W, C], `label` int32 [N], `mask` bool [N]."""


class DataParallel:
    """Devices of this process, and how arrays and steps are laid over them.

    Args:
        devices: use only this many local devices; None uses all.
        map_by: what maps steps over them.

    Raises:
        ValueError: fewer devices are there than asked for, or only some are asked for in a run of many
            processes.

    Example:
        >>> parallel = DataParallel(devices=1)
        >>> parallel.local_count, parallel.split({"image": np.zeros((1, 4, 8, 8, 3))})["image"].shape
        (1, (1, 4, 8, 8, 3))
    """

    def __init__(self, devices: int | None = None, map_by: MapBy = "pmap"):
        local = jax.local_devices()
        if devices is not None and devices > len(local):
            raise BadInput(f"devices={devices}: this host has {len(local)} ({local[0].device_kind})")
        if devices is not None and devices < len(local) and jax.process_count() > 1:
            raise BadInput(
                f"devices={devices}: a run of {jax.process_count()} processes uses all devices of each"
            )
        self.devices, self._map_by = local[:devices], map_by
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

    def compile_train_step(self, step: Callable, state: Any, sums: Any, batch: Any) -> Callable:
        """Map a step over the devices and compile it, with its state donated: the new one takes its memory.

        Args:
            step: of one device.
            state: replicated.
            sums: replicated.
            batch: split.
        """
        mapped = self._map(step, 2, None, donate_argnums=0)
        return interruptible(mapped.lower(state, sums, batch).compile)

    def compile_eval_step(self, step: Callable, model: Any, batch: Any) -> Callable:
        """Map a step over the devices and compile it; its results are split like the batch.

        Args:
            step: of one device.
            model: replicated.
            batch: split.
        """
        return interruptible(self._map(step, 1, 0).lower(model, batch).compile)

    def gather(self, results: Sequence[jax.Array]) -> np.ndarray:
        """Results of successive batches as one array on the host, in the order of the global batches.

        Args:
            results: arrays [D, N, ...] of an evaluation step, with row d on device d of this process.
        """
        local = np.stack([_local(result) for result in results])  # [steps, D, N, ...]
        if jax.process_count() > 1:  # [processes, steps, D, N, ...]
            local = np.swapaxes(multihost_utils.process_allgather(local), 0, 1)
        return local.reshape(-1, *results[0].shape[2:])

    def _map(self, step: Callable, replicated: int, out_axis: int | None, **options: Any) -> Any:
        """Map a step over the devices.

        Args:
            step: takes so many replicated arguments, and last a batch, which is split.
            replicated: how many.
            out_axis: None: all results are replicated; 0: they are split.
            options: of pmap and jit alike.
        """
        if self._map_by == "pmap":
            # Several processes map over all their devices: to name the local ones would exclude the others'.
            devices = None if jax.process_count() > 1 else self.devices
            in_axes = (*[None] * replicated, 0)
            return jax.pmap(step, AXIS, devices=devices, in_axes=in_axes, out_axes=out_axis, **options)

        def on_shards(*arguments: Any) -> Any:
            # A shard keeps the axis that is split, as one row.
            results = step(*arguments[:-1], jax.tree.map(lambda x: x[0], arguments[-1]))
            return results if out_axis is None else jax.tree.map(lambda x: x[None], results)

        whole, split = PartitionSpec(), PartitionSpec(AXIS)
        mapped = jax.shard_map(
            on_shards,
            mesh=self._mesh,
            in_specs=(*[whole] * replicated, split),
            out_specs=whole if out_axis is None else split,
            check_vma=False,  # as in pmap: steps reduce by themselves what they replicate
        )
        return jax.jit(mapped, **options)


def _local(array: jax.Array) -> np.ndarray:
    """The rows of an array that are on this process's devices."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([shard.data for shard in shards])
