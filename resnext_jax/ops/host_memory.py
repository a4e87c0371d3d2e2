"""Memory of the host that XLA's CPU backend works in."""

import ctypes

import jax

# <malloc.h>
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Let this process keep memory that it frees, rather than hand it back to the kernel.

    XLA on CPU allocates its work space anew at every call, and glibc fetches blocks of that size from the
    kernel and returns them each time, so that every step faults in gigabytes page by page: about a quarter of
    the processor time of a train step. To be called once, before the first computation.

    Programs for one CPU device then run in the thread that calls them. Otherwise the next step's work space
    would be allocated while the last one's is being freed, on and off, and both would be kept for good.

    Returns:
        Whether the C library is glibc and took the settings; elsewhere nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018  (other C libraries have a mallopt without effect)
    except (OSError, AttributeError):
        return False
    # One arena, as the others cannot hold large blocks; no separate mappings; never trimmed.
    taken = all([mallopt(M_ARENA_MAX, 1), mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, -1)])
    if taken:
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    return taken
