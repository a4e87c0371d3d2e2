"""Set-up of the JAX runtime for a run, and what it takes of the host."""

import atexit
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

import jax

from resnext_jax.storage import private_cache_directory

logger = logging.getLogger(__name__)

CACHE_OPTION = "jax_compilation_cache_dir"


def enable_compilation_cache() -> None:
    """Keep compiled programs between runs, in the user's cache directory.

    This sets JAX's cache for the whole process, unless `jax_compilation_cache_dir` is set already.
    `JAX_ENABLE_COMPILATION_CACHE=false` turns it off, `JAX_COMPILATION_CACHE_DIR` places it. JAX executes
    what it finds, so our folder is used only if it is private to the user; otherwise a line is logged.
    """
    if getattr(jax.config, CACHE_OPTION) is None:
        try:
            directory = private_cache_directory("xla")
        except OSError as error:
            logger.warning(
                "compiled programs are not kept: %s; set RESNEXT_JAX_CACHE to a folder of yours", error
            )
            return
        jax.config.update(CACHE_OPTION, str(directory))


def interruptible(call: Callable[[], Any]) -> Any:
    """Call something that ignores signals, such as XLA's compiler, so that Ctrl-C interrupts the wait.

    The call itself goes on in a thread of its own, and the interpreter waits for it when it exits.

    Returns:
        What the call returns.

    Raises:
        KeyboardInterrupt, or whatever the call raises.
    """
    results: list[Any] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:
        atexit.register(thread.join)
        raise
    if errors:
        raise errors[0]
    return results[0]


def peak_memory_gib() -> float:
    """The most memory that this process has held, in GiB of the host; NaN on systems that do not say."""
    try:
        import resource  # Unix only
    except ImportError:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20
