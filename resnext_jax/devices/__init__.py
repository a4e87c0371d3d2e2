"""Devices and processes: the mapping of steps (the only pmap), joining processes, the runtime's set-up."""

from resnext_jax.devices.parallel import AXIS, Batch, DataParallel, MapBy
from resnext_jax.devices.peers import waiting_for_verdict
from resnext_jax.devices.processes import (
    agreed,
    check_agreement,
    failing_together,
    from_first,
    join_processes,
)
from resnext_jax.devices.runtime import enable_compilation_cache, interruptible, peak_memory_gib

__all__ = [
    "AXIS",
    "Batch",
    "DataParallel",
    "MapBy",
    "agreed",
    "check_agreement",
    "enable_compilation_cache",
    "failing_together",
    "from_first",
    "interruptible",
    "join_processes",
    "peak_memory_gib",
    "waiting_for_verdict",
]
