"""The other processes of a distributed run."""

import atexit
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

from resnext_jax.devices.peers import end_watch, end_without, ending_when_aborted, reachable, watch_peers
from resnext_jax.errors import BadInput

_NUMBERS = count()  # of comparisons: every process makes the same ones, in the same order


def join_processes(
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: float = 300.0,
) -> None:
    """Join the other processes of a distributed run; the log of all but the first then has errors only.

    If one of them does not come, dies, hangs or can't be reached, this process ends with exit code 4 and one
    line.

    Args:
        coordinator: host:port of the first process; default: JAX_COORDINATOR_ADDRESS, or what the cluster
            says. JAX knows SLURM, Open MPI, Kubernetes (JobSet) and TPU pods.
        processes: how many there are; default: JAX_NUM_PROCESSES, or what the cluster says.
        process_id: which this one is, from 0; default: JAX_PROCESS_ID, or what the cluster says.
        timeout: seconds in which all processes come, and within which each gives a sign of life.

    Raises:
        BadInput: no cluster was found, or the settings are incomplete.
    """
    if jax.distributed.is_initialized():
        return
    number, index = os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_PROCESS_ID")
    address = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    state = _state()
    atexit.register(end_watch)
    try:
        with ending_when_aborted(lambda: _who_is_missing(state, address, timeout)):
            jax.distributed.initialize(
                address,
                num_processes=processes if processes is not None or not number else int(number),
                process_id=process_id if process_id is not None or not index else int(index),
                initialization_timeout=max(1, round(timeout)),
                # Ours names who is gone, so it goes first.
                heartbeat_timeout_seconds=max(10, round(3 * timeout)),
                shutdown_timeout_seconds=max(1, round(timeout)),
            )
    except jax.errors.JaxRuntimeError:
        end_without(_who_is_missing(state, address, timeout))
    except (ValueError, RuntimeError) as error:
        raise BadInput(
            f"distributed=True: {error}; give coordinator=HOST:PORT, processes=N and process_id=I in each "
            "process, or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from error
    watch_peers(state.client, state.process_id, state.num_processes, state.coordinator_address, timeout)
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


def _who_is_missing(state: Any, address: str | None, timeout: float) -> str:
    """The beginning of a line about processes that did not come together."""
    tried: str = state.coordinator_address or address or ""
    if state.process_id > 0 and not reachable(tried):
        return f"process 0 could not be reached at {tried} within {timeout:g} s"
    return f"not all {state.num_processes} processes came within {timeout:g} s"


def _client() -> Any:
    return _state().client


def _state() -> Any:
    """What JAX knows of the service by which the processes found each other; it has no public name for it."""
    from jax._src import distributed

    return distributed.global_state


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
