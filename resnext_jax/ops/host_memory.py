"""Memory of the host that XLA's CPU backend works in."""

import ctypes
import importlib.metadata
import importlib.util
import os

import jax

# <malloc.h>
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Let this process keep memory that it frees, rather than hand it back to the kernel.

    XLA on CPU allocates its work space anew at every call, and glibc fetches blocks of that size from the
    kernel and returns them each time, so that every step faults in gigabytes page by page: about a quarter of
    the processor time of a train step.

    It changes the whole process. Freed memory is used again, but the process stays as large as it ever was.
    All threads share one heap. Programs for one CPU device run in the thread that calls them, unless
    JAX_CPU_ENABLE_ASYNC_DISPATCH is set. Otherwise the next step's work space would be allocated while the
    last one's is being freed, on and off, and both would be kept for good.

    It must be called before JAX runs its first computation. Later calls do not help, as the threads of JAX's
    CPU backend have heaps of their own by then. Importing `resnext_jax` calls it if JAX will run on CPU and
    RESNEXT_JAX_KEEP_FREED_MEMORY=0 is not set. The commands call it on every platform.

    Returns:
        Whether the C library is glibc and took the settings; elsewhere nothing changes.

    Example:
        >>> from resnext_jax import ops
        >>> taken = ops.keep_freed_memory()  # at the top of a program
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018  (other C libraries have a mallopt without effect)
    except (OSError, AttributeError, TypeError):  # TypeError: Windows
        return False
    # One arena, as the others cannot hold large blocks; no separate mappings; never trimmed.
    taken = all([mallopt(M_ARENA_MAX, 1), mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, -1)])
    if taken and "JAX_CPU_ENABLE_ASYNC_DISPATCH" not in os.environ:
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    return taken


def keep_freed_memory_on_cpu() -> None:
    """Call `keep_freed_memory` if JAX will run on CPU and RESNEXT_JAX_KEEP_FREED_MEMORY is not 0."""
    if os.environ.get("RESNEXT_JAX_KEEP_FREED_MEMORY") != "0" and _runs_on_cpu():
        keep_freed_memory()


def _runs_on_cpu() -> bool:
    """What JAX's first device will be, told without starting its backends: that must come later.

    The user says so, or no plugin for an accelerator is installed.
    """
    platforms: str | None = getattr(jax.config, "jax_platforms")  # noqa: B009  (unknown to type checkers)
    if platforms:
        return platforms.split(",")[0] == "cpu"
    is_plugged = bool(importlib.metadata.entry_points(group="jax_plugins"))
    return not is_plugged and not any(map(importlib.util.find_spec, ("jax_plugins", "libtpu")))
