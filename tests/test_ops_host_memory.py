"""Freed memory stays with a process that asks for it."""

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


def kept_mebibytes(call: str) -> tuple[str, float]:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(call=call)], capture_output=True, text=True, check=True
    )
    taken, kept = result.stdout.split()
    return taken, float(kept)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_memory_is_kept():
    assert kept_mebibytes("False")[1] < 32
    taken, kept = kept_mebibytes("keep_freed_memory()")
    if taken == "False":
        pytest.skip("the C library is not glibc")
    assert kept > 100
