"""`resnext-jax bench`."""

import json
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from resnext_jax.benchmark import BenchmarkOptions, format_benchmark, run_benchmark


@dataclass(frozen=True, kw_only=True)
class Bench(BenchmarkOptions):
    """Time the steps of a model, or its single convolutions, beside PyTorch and plain Flax."""

    model: Positional[Annotated[str, arg(metavar="MODEL")]] = BenchmarkOptions.model
    """A name of `resnext-jax models`."""
    json: bool = False
    """Print the measurements as JSON."""

    def __call__(self) -> None:
        result = run_benchmark(self)
        print(json.dumps(result) if self.json else format_benchmark(result))
