"""Runs by several real processes on this host, for the tests of them."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence

# Begins the program of a process: `tiny` and `tiny_gn`, without batch norm, are in the table.
TINY = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from resnext_jax.models import VARIANTS, ResNetConfig
VARIANTS["tiny"] = ResNetConfig("bottleneck", (1,), 4, 8, stem="cifar")
VARIANTS["tiny_gn"] = ResNetConfig("bottleneck", (1,), 4, 8, stem="cifar", norm="group")
"""
# A command, as a process of its own.
COMMAND = f"""{TINY}
from resnext_jax.cli import main
main()
"""


def without_warnings(err: str) -> str:
    """What a process said, without the warning that the names of these images suggest groups."""
    return "".join(
        line for line in err.splitlines(keepends=True) if not line.startswith("warning: the names suggest")
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def joining(port: int, processes: int, index: int) -> list[str]:
    """The flags by which one of several processes finds the others."""
    if processes == 1:
        return []
    where = ["--coordinator", f"127.0.0.1:{port}", "--processes", str(processes), "--process-id", str(index)]
    return ["--distributed", *where]


def start(
    flags: Sequence[Sequence[str]], *, devices: int = 1, program: str = COMMAND
) -> list[subprocess.Popen]:
    """One `train` of several processes, each with the flags and simulated devices of its own."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, "-c", program, "train", *own, *joining(port, len(flags), index)],
            env=os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, own in enumerate(flags)
    ]


def finish(processes: Sequence[subprocess.Popen], timeout: float = 240) -> list[tuple[int, str, str]]:
    """Exit code, standard output and standard error of each, once all have ended."""
    try:
        outputs = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]
