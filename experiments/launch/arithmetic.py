"""What is all-reduced in a step, how long do the links take for it, and how many cores decode for it?

    python experiments/launch/arithmetic.py
    python experiments/launch/arithmetic.py --model resnext101_32x48d --step-ms 42 --batch-size 32

Needs:     nothing; it multiplies published and measured figures.
Expected:  a row for each number of devices; `experiments/launch/README.md` says what they mean.
"""

import math
from dataclasses import dataclass

import tyro

from resnext_jax.models import count_parameters

HOST = 8  # devices
IMAGENET = 1_281_167  # training images
LATENCY = 10e-6  # seconds for a message between hosts, through NCCL


@dataclass(frozen=True)
class Arithmetic:
    """Print the arithmetic of data parallelism on hosts of 8 devices."""

    model: str = "resnext50_32x4d"
    """A name of `resnext-jax models`."""
    batch_size: int = 128
    """Images on each device."""
    step_ms: float = 18.2
    """Time of a step on one device: by default the least that an H100's memory allows, by its compiler."""
    within: float = 450.0
    """GB/s that a device sends within its host: NVLink 4 of an H100, 900 in both directions."""
    between: float = 50.0
    """GB/s that a device sends to other hosts: a 400 Gb/s adapter for each."""
    decode: float = 334.0
    """Images a second that a core decodes."""


def all_reduce_seconds(size: float, devices: int, within: float, between: float) -> float:
    """Time to sum `size` bytes over devices: scattered within hosts, summed between them, gathered again.

    Args:
        size: bytes on each device.
        devices: in hosts of `HOST`.
        within: bytes a second that a device sends within its host.
        between: bytes a second that a device sends to other hosts.
    """
    hosts = devices // HOST
    inside = 2 * (HOST - 1) / HOST * size / within
    outside = 2 * (hosts - 1) / hosts * size / HOST / between
    return inside + outside + 2 * math.ceil(math.log2(hosts)) * LATENCY


def main(options: Arithmetic) -> None:
    """Print the table."""
    size = 4.0 * count_parameters(options.model)  # gradients are float32
    step = options.step_ms / 1e3
    print(f"{options.model}: {size / 1e6:.0f} MB of gradients a step, {options.step_ms:g} ms a step")
    heads = ("devices", "batch", "all-reduce", "efficiency, nothing / all overlaps", "images/s")
    print(f"| {' | '.join(heads)} | cores a host | steps an epoch |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for devices in (8, 64, 512, 4096):
        reducing = all_reduce_seconds(size, devices, options.within * 1e9, options.between * 1e9)
        slowest, fastest = step / (step + reducing), min(1.0, step / reducing)
        images = devices * options.batch_size
        rate = images / step * slowest
        cores = rate / devices * HOST / options.decode
        print(
            f"| {devices:,} | {images:,} | {1e3 * reducing:.2f} ms | {slowest:.0%} / {fastest:.0%} "
            f"| {rate:,.0f} | {cores:.0f} | {IMAGENET // images} |"
        )


if __name__ == "__main__":
    main(tyro.cli(Arithmetic, description=__doc__))
