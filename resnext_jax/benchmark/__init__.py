"""Side-by-side timing of the models and of their convolutions."""

from resnext_jax.benchmark.in_jax import train_step
from resnext_jax.benchmark.run import BenchmarkOptions, format_benchmark, run_benchmark

__all__ = ["BenchmarkOptions", "format_benchmark", "run_benchmark", "train_step"]
