"""`resnext-jax bench`."""

import json
from dataclasses import dataclass

from tyro.conf import Positional

from resnext_jax.benchmark import BenchmarkOptions, format_benchmark, run_benchmark


@dataclass(frozen=True)
class Bench(BenchmarkOptions):
    """Time a model's steps or single convolutions, beside PyTorch and plain Flax."""

    model: Positional[str] = BenchmarkOptions.model
    """A name of `resnext-jax models`."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> None:
        result = run_benchmark(self)
        print(json.dumps(result) if self.json else format_benchmark(result))
