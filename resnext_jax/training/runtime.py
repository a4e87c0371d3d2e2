"""Set-up of the JAX runtime for a run: the compilation cache, and the other processes of it."""

import os
import resource
import sys

import jax

from resnext_jax.cache import cache_directory


def enable_compilation_cache() -> None:
    """Keep compiled programs between runs, unless the user has set JAX's cache already.

    `JAX_ENABLE_COMPILATION_CACHE=false` turns it off, `JAX_COMPILATION_CACHE_DIR` places it.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_directory("xla")))


def join_processes() -> None:
    """Join the other processes of a distributed run.

    Reads JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID where they are set; JAX finds out
    about SLURM, Open MPI, Kubernetes and TPU pods by itself.

    Raises:
        ValueError: no cluster was found, or the variables are incomplete.
    """
    if jax.distributed.is_initialized():
        return
    count, index = os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_PROCESS_ID")
    try:
        jax.distributed.initialize(
            num_processes=int(count) if count else None, process_id=int(index) if index else None
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"distributed=True: {error}; set JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and "
            "JAX_PROCESS_ID in each process"
        ) from error


def peak_memory_gib() -> float:
    """The most memory that this process has held, in GiB of the host."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20
