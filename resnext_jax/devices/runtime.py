"""Set-up of the JAX runtime for a run, and what it takes of the host."""

import logging
import sys

import jax

from resnext_jax.storage import private_cache_directory

logger = logging.getLogger(__name__)


def enable_compilation_cache() -> None:
    """Keep compiled programs between runs, unless the user has set JAX's cache already.

    `JAX_ENABLE_COMPILATION_CACHE=false` turns it off, `JAX_COMPILATION_CACHE_DIR` places it. JAX executes
    what it finds, so our folder is used only if it is private to the user; otherwise a line is logged.
    """
    if jax.config.jax_compilation_cache_dir is None:
        try:
            directory = private_cache_directory("xla")
        except OSError as error:
            logger.warning(
                "compiled programs are not kept: %s; set RESNEXT_JAX_CACHE to a folder of yours", error
            )
            return
        jax.config.update("jax_compilation_cache_dir", str(directory))


def peak_memory_gib() -> float:
    """The most memory that this process has held, in GiB of the host; NaN on systems that do not say."""
    try:
        import resource  # Unix only
    except ImportError:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20
