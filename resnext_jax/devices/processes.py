"""The other processes of a distributed run."""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from resnext_jax.errors import BadInput

_NUMBERS = count()  # of comparisons: every process makes the same ones, in the same order


def join_processes() -> None:
    """Join the other processes of a distributed run; the log of all but the first then has errors only.

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
    if jax.process_index() > 0:
        logging.getLogger("resnext_jax").setLevel(logging.ERROR)


def check_agreement(facts: Mapping[str, str], *, timeout: float) -> None:
    """Refuse, in every process, what is not the same in all.

    It goes through the service by which the processes found each other, so that it needs no program that all
    have compiled.

    Args:
        facts: what to compare, by name; each value as text that is equal if the fact is.
        timeout: seconds to wait for the slowest process.

    Raises:
        BadInput: a fact of a process differs from the first one's, or a process did not answer; the message
            names both.
    """
    if jax.process_count() == 1:
        return
    client, name = _client(), f"resnext_jax/facts/{next(_NUMBERS)}"
    wait = round(1000 * timeout)
    if jax.process_index() > 0:
        client.key_value_set(f"{name}/{jax.process_index()}", json.dumps(dict(facts)))
        # The first one waits for each of the others by itself.
        verdict = _get(f"{name}/verdict", 2 * timeout)
    else:
        verdict = _verdict(client, name, facts, wait)
        client.key_value_set(f"{name}/verdict", verdict)
    if verdict:
        raise BadInput(verdict)


def from_first(text: str, *, timeout: float) -> str:
    """The text of the first process, in all of them.

    Args:
        text: what this process has; only the first one's counts.
        timeout: seconds to wait for the first one.

    Raises:
        BadInput: the first process did not answer.
    """
    if jax.process_count() == 1:
        return text
    key = f"resnext_jax/first/{next(_NUMBERS)}"
    if jax.process_index() == 0:
        _client().key_value_set(key, text)
        return text
    return _get(key, timeout)


def _get(key: str, timeout: float) -> str:
    """A value that the first process sets."""
    try:
        return _client().blocking_key_value_get(key, round(1000 * timeout))
    except jax.errors.JaxRuntimeError:
        raise BadInput(f"process 0 did not answer within {timeout:g} s; its message may say why") from None


def _verdict(client: Any, name: str, facts: Mapping[str, str], wait: int) -> str:
    """What differs, as a message; "" if nothing does."""
    for index in range(1, jax.process_count()):
        try:
            theirs = json.loads(client.blocking_key_value_get(f"{name}/{index}", wait))
        except jax.errors.JaxRuntimeError:
            return f"process {index} did not answer within {wait / 1000:g} s; its message may say why"
        for fact in [*facts, *(theirs.keys() - facts.keys())]:
            if theirs.get(fact) != facts.get(fact):
                return (
                    f"{fact}={theirs.get(fact)} in process {index}, {fact}={facts.get(fact)} in process 0: "
                    "all processes of a run need the same; start them alike"
                )
    return ""


def _client() -> Any:
    """The client of the service that the processes found each other by; JAX has no public name for it."""
    from jax._src import distributed

    return distributed.global_state.client


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
