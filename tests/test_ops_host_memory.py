"""Freed memory stays with a process that asks for it, and is used again."""

import subprocess
import sys

import pytest

SCRIPT = """
import numpy as np
from resnext_jax.ops.host_memory import keep_freed_memory

def resident():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

taken = {call}
before = resident()
block = np.ones(16 * 2**20)  # 128 MiB
del block
print(taken, resident() - before)
"""


def run(script: str) -> tuple[str, float]:
    """Whether the settings were taken, and the MiB that a script prints beside it."""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    taken, size = result.stdout.split()
    return taken, float(size)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_memory_is_kept():
    assert run(SCRIPT.format(call="False"))[1] < 32
    taken, kept = run(SCRIPT.format(call="keep_freed_memory()"))
    if taken == "False":
        pytest.skip("the C library is not glibc")
    assert kept > 100


REPEATED = """
import resource
import jax
import jax.numpy as jnp
from resnext_jax.ops.host_memory import keep_freed_memory

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

taken = keep_freed_memory()
step = jax.jit(lambda x: x + jnp.fft.ifft(jnp.fft.fft(x)).real.sum(), donate_argnums=0)
x = step(jnp.ones(2**23))  # 32 MiB, and more than 100 of work space
once = peak()
for _ in range(20):
    x = step(x)
jax.block_until_ready(x)
print(taken, peak() - once)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="units of ru_maxrss")
def test_work_space_is_used_again_by_the_next_step():
    taken, more = run(REPEATED)
    if taken == "False":
        pytest.skip("the C library is not glibc")
    assert more < 64
