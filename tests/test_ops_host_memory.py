"""A process on CPU keeps the memory that it frees, unless the user wants otherwise."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys

import jax
import pytest

from resnext_jax.ops import host_memory

glibc = pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="the C library is not glibc")


def run(script: str, **environment: str) -> list[float]:
    """The numbers that a script prints in a process of its own."""
    settings = os.environ | environment
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=settings)
    assert done.returncode == 0, done.stderr[-2000:]
    return [float(number) for number in done.stdout.split()]


# A program of a user: our package is imported, and nothing of it is called. It prints the work space of a
# step, in pages, and the median page faults of a step.
PLAIN = """
import resource, statistics
import jax
import jax.numpy as jnp
import resnext_jax as rj

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

step = jax.jit(lambda x: x + jnp.fft.ifft(jnp.fft.fft(x)).real.sum(), donate_argnums=0)
x = step(jax.random.normal(jax.random.key(0), (2**22,)))
work_space = step.lower(x).compile().memory_analysis().temp_size_in_bytes / resource.getpagesize()
counts = []
for _ in range(9):
    before = faults()
    x = jax.block_until_ready(step(x))
    counts.append(faults() - before)
print(work_space, statistics.median(counts))
"""


@glibc
@pytest.mark.parametrize(
    ("environment", "kept"),
    [
        ({"JAX_PLATFORMS": "cpu"}, True),
        ({"JAX_PLATFORMS": "cpu", "RESNEXT_JAX_KEEP_FREED_MEMORY": "0"}, False),
    ],
    ids=["by default", "switched off"],
)
def test_plain_script_keeps_its_work_space(environment, kept):
    work_space, faults = run(PLAIN, **environment)
    assert work_space > 10_000
    assert faults < work_space / 20 if kept else faults > work_space / 2


@pytest.mark.parametrize(
    ("platforms", "plugins", "variable", "kept"),
    [
        (None, (), None, True),
        ("cpu", (), None, True),
        ("cuda,cpu", (), None, False),
        (None, ("libtpu",), None, False),
        (None, ("jax_plugins",), None, False),
        ("cpu", ("jax_plugins",), None, True),
        ("cpu", (), "0", False),
    ],
    ids=str,
)
def test_memory_is_kept_by_default_where_jax_runs_on_cpu(platforms, plugins, variable, kept, monkeypatch):
    calls = []
    monkeypatch.setattr(host_memory, "keep_freed_memory", lambda: calls.append(True))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in plugins or None)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: ())
    if variable is None:
        monkeypatch.delenv("RESNEXT_JAX_KEEP_FREED_MEMORY", raising=False)
    else:
        monkeypatch.setenv("RESNEXT_JAX_KEEP_FREED_MEMORY", variable)
    before = jax.config.jax_platforms
    try:
        jax.config.update("jax_platforms", platforms)
        host_memory.keep_freed_memory_on_cpu()
    finally:
        jax.config.update("jax_platforms", before)
    assert bool(calls) is kept


# Prints by how much the peak of a process grows from its first step on, in work spaces of a step.
REPEATED = """
import resource
import jax
import jax.numpy as jnp
import resnext_jax as rj

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

step = jax.jit(lambda x: x + jnp.fft.ifft(jnp.fft.fft(x)).real.sum(), donate_argnums=0)
x = step(jnp.ones(2**22))
work_space = step.lower(x).compile().memory_analysis().temp_size_in_bytes / 2**20
once = peak()
for _ in range(40):
    x = jax.block_until_ready(step(x))
print((peak() - once) / work_space)
"""


@glibc
def test_work_space_is_used_again_by_the_next_step():
    """One or two more may be allocated on a busy machine, before a thread of XLA has freed the last one."""
    (more,) = run(REPEATED, JAX_PLATFORMS="cpu")
    assert more < 5
