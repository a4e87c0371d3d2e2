"""The other processes of a distributed run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

from resnext_jax.errors import BadInput


def join_processes() -> None:
    """Join the other processes of a distributed run.

    Reads JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID if they are set; JAX finds out
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
        raise BadInput(
            f"distributed=True: {error}; set JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and "
            "JAX_PROCESS_ID in each process"
        ) from error


@contextmanager
def failing_together() -> Iterator[None]:
    """If one of several processes fails inside, all of them fail; otherwise the others would wait for ever.

    Nothing inside may wait for other processes.

    Raises:
        BadInput: another process failed.
    """
    if jax.process_count() == 1:
        yield
        return
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    failed = np.flatnonzero(multihost_utils.process_allgather(np.asarray(failure is not None)))
    if failure is not None:
        raise failure
    if failed.size:
        raise BadInput(f"process {failed[0]} of the run cannot go on; its message says why")


def agreed(wish: bool, step: int) -> bool:
    """The first process's wish, for all of them; with several processes it is asked for every 100th step."""
    if jax.process_count() == 1:
        return wish
    return step % 100 == 0 and bool(multihost_utils.broadcast_one_to_all(np.asarray(wish)))
