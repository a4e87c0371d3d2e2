"""What do batch size and cardinality cost? Train-step time against both, ours beside torch.

Run:       python experiments/benchmarks/scaling.py --out experiments/benchmarks
Hardware:  2 CPU cores; about 8 minutes.
Expected:  scaling.json and scaling.png. Time an image falls with the batch and then stays level; the networks
           of the paper's table 3 (equal multiply-adds, cardinality 1 to 32) cost about the same time each.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import tyro

from resnext_jax import models
from resnext_jax.benchmark import BenchmarkOptions, format_benchmark, run_benchmark

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Cardinality and bottleneck width of equal complexity (Xie et al. 2016, table 2).
EQUAL_COMPLEXITY = ((1, 64), (2, 40), (4, 24), (8, 14), (32, 4))


@dataclass(frozen=True)
class Scaling:
    """Measure and plot train-step time against batch size and against cardinality."""

    out: Path = Path("experiments/benchmarks")
    """Folder for scaling.json and scaling.png."""
    image_size: int = 128
    """Side of the images, in pixels."""
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Batch sizes for resnext50_32x4d."""
    batch_size: int = 8
    """Batch size for the comparison of cardinalities."""
    rounds: int = 8
    """Turns of each implementation."""

    def __call__(self) -> None:
        base = models.get_config("resnext50_32x4d")
        options = BenchmarkOptions(image_size=self.image_size, against=("torch",), rounds=self.rounds)
        results = {"batch_size": {}, "cardinality": {}}
        for size in self.batch_sizes:
            results["batch_size"][size] = _run(replace(options, batch_size=size), base)
        for groups, width in EQUAL_COMPLEXITY:
            config = replace(base, groups=groups, width_per_group=width)
            named = replace(options, model=f"resnext50_{groups}x{width}d", batch_size=self.batch_size)
            results["cardinality"][f"{groups}x{width}d"] = _run(named, config)
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "scaling.json").write_text(json.dumps(results, indent=1) + "\n")
        plot(results, self.out / "scaling.png")


def plot(results: dict, path: Path) -> None:
    """Draw both questions side by side."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for implementation, marker in (("ours", "o"), ("torch", "s")):
        by_batch = {size: _figures(result)[implementation] for size, result in results["batch_size"].items()}
        left.plot(
            [int(size) for size in by_batch],
            [1e3 / figures["images_per_second"] for figures in by_batch.values()],
            marker=marker,
            label=implementation,
        )
        by_groups = {
            name: _figures(result)[implementation] for name, result in results["cardinality"].items()
        }
        right.plot(
            list(by_groups),
            [figures["min_ms"] for figures in by_groups.values()],
            marker=marker,
            label=implementation,
        )
    left.set(xscale="log", xlabel="batch size", ylabel="ms per image", title="resnext50_32x4d, train step")
    left.set_xticks([int(size) for size in results["batch_size"]], labels=list(results["batch_size"]))
    left.minorticks_off()
    right.set(
        xlabel="cardinality x width of the bottleneck",
        ylabel="ms per step",
        title="equal multiply-adds, train step",
    )
    for axes in (left, right):
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)


def _figures(result: dict) -> dict:
    return result["rows"][0]["implementations"]


def _run(options: BenchmarkOptions, config: models.ResNetConfig) -> dict:
    result = run_benchmark(options, config)
    print(format_benchmark(result), flush=True)
    return result


if __name__ == "__main__":
    tyro.cli(Scaling)()
