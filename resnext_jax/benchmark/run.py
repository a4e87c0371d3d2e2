"""Speed of the models and of their convolutions, side by side with plain Flax and with PyTorch.

Every implementation runs in a process of its own (so each has its own threads and its own peak memory), and
the processes take turns, one step each, so that whatever else the machine does falls on all alike. Beside
the time by the clock stands the processors' time, which a busy machine changes less.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Annotated, Any, Literal

from resnext_jax import models, ops
from resnext_jax.benchmark.cases import LayerCase, StepCase, count_convolutions
from resnext_jax.benchmark.in_jax import prepare_jax
from resnext_jax.benchmark.in_jaxnn import check_jaxnn, prepare_jaxnn
from resnext_jax.benchmark.in_torch import check_torch, prepare_torch
from resnext_jax.benchmark.limit import Rates, least_seconds, measure_rates
from resnext_jax.devices import peak_memory_gib
from resnext_jax.errors import BadInput
from resnext_jax.fields import Config, Range

Other = Literal["torch", "torch-compiled", "flax", "jaxnn"]
Implementation = Literal["ours", Other]

# Lets the threads of one process fall asleep before the next has its turn.
PAUSE_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions(Config):
    """What to measure."""

    model: str = "resnext50_32x4d"
    """A name of `list_models()`."""
    mode: Literal["train", "eval"] = "train"
    """train: the step that training makes, with SGD with momentum; eval: the step of evaluation."""
    batch_size: Annotated[int, Range(least=1)] = 8
    """Images in a step."""
    image_size: Annotated[int, Range(least=1)] = 224
    """Side of the square image in pixels."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type of all; torch's bfloat16 is that of its autocast."""
    against: tuple[Other, ...] = ()
    """Measure these too. torch: PyTorch, channels last (torchvision's model, if it is installed);
    torch-compiled: the same by torch.compile; flax: our model with XLA's own convolution; jaxnn: that
    package's model, if it is installed."""
    layers: bool = False
    """Measure each distinct convolution of the model instead of the whole step."""
    keep_freed_memory: bool = True
    """Let all processes keep the memory that they free (`ops.keep_freed_memory`), as commands do."""
    rounds: Annotated[int, Range(least=1)] = 10
    """Turns that each implementation takes."""
    seconds: Annotated[float, Range(above=0)] = 120.0
    """Time for each implementation: it takes no more turns once it has used this up, but at least three."""


def run_benchmark(options: BenchmarkOptions, config: models.ResNetConfig | None = None) -> dict[str, Any]:
    """Measure, and return what was measured as JSON would hold it.

    Args:
        options: what to measure.
        config: a variant that is not in the table; by default the one that `options.model` names.

    Returns:
        {"options", "machine", "rows"}: one row for the step, or one for each distinct convolution, with its
        name, count and {implementation: {"min_ms", "median_ms", "cpu_ms", "images_per_second",
        "compile_seconds", "peak_memory_mib"}}, {"ratio": {implementation: our time over its time}} and
        "limit_ms", the least that the machine's measured rates allow the convolutions (`least_seconds`).

    Raises:
        BadInput: an option out of range, an unknown model, or one without a counterpart in torch.
        MissingPackage: torch was asked for and is not installed.
    """
    options.check()
    named = models.get_config(options.model) if config is None else config
    if not isinstance(named, models.ResNetConfig):
        raise BadInput(f"model={options.model!r}: only networks that a ResNetConfig describes are measured")
    config = named
    train = options.mode == "train"
    step = StepCase(config, train, options.batch_size, options.image_size, options.dtype, options.model)
    cases = count_convolutions(step) if options.layers else {step: 1}
    implementations: tuple[Implementation, ...] = ("ours", *options.against)
    if {"torch", "torch-compiled"} & {*implementations}:
        check_torch(config)
    if "jaxnn" in implementations:
        check_jaxnn(options.model, layers=options.layers)
    before = _rates(options)
    with _workers(implementations, options.keep_freed_memory) as workers:
        rows = [
            {
                "name": case.name if isinstance(case, LayerCase) else options.model,
                "count": count,
                **_measure(case, workers, options),
            }
            for case, count in cases.items()
        ]
    # What else the machine does slows this, too.
    rates = before.best(_rates(options))
    for case, row in zip(cases, rows, strict=True):
        row["limit_ms"] = 1e3 * least_seconds(case, rates)
    return {"options": asdict(options), "machine": _machine() | asdict(rates), "rows": rows}


def format_benchmark(result: dict[str, Any]) -> str:
    """The measurements as a table to read."""
    options, machine = result["options"], result["machine"]
    lines = [
        f"{options['model']} {options['mode']}, batch {options['batch_size']}, {options['image_size']} px, "
        f"{options['dtype']}; "
        f"{machine['cores']} cores {machine['cpu']}; jax {machine['jax']}",
        f"limit: the convolutions alone, at {machine['multiply_adds'] / 1e9:.0f} G multiply-adds and "
        f"{machine['memory_bytes'] / 1e9:.1f} GB of memory a second (the best of matrix products and copies)",
        f"{'':49}{'min ms':>9}{'median':>9}{'cpu ms':>9}{'images/s':>10}"
        f"{'compile s':>11}{'peak MiB':>10}{'ours/it':>9}",
    ]
    for row in result["rows"]:
        name = row["name"] if row["count"] == 1 else f"{row['name']} (x{row['count']})"
        for implementation, figures in row["implementations"].items():
            ratio = row["ratio"].get(implementation)
            lines.append(
                f"{name:34}{implementation:15}{figures['min_ms']:9.2f}{figures['median_ms']:9.2f}"
                f"{figures['cpu_ms']:9.2f}{figures['images_per_second']:10.1f}{figures['compile_seconds']:11.1f}"
                f"{figures['peak_memory_mib']:10.0f}" + ("" if ratio is None else f"{ratio:9.2f}")
            )
            name = ""
        limit = row["limit_ms"]
        ratio = row["implementations"]["ours"]["min_ms"] / limit
        lines.append(f"{'':34}{'limit':15}{limit:9.2f}{ratio:58.2f}")
    return "\n".join(lines)


def _measure(
    case: StepCase | LayerCase, workers: dict[Implementation, Connection], options: BenchmarkOptions
) -> dict[str, Any]:
    images = case.batch_size if isinstance(case, StepCase) else case.input_shape[0]
    compiled = {name: _ask(worker, case) for name, worker in workers.items()}
    times: dict[Implementation, list[tuple[float, float]]] = {name: [] for name in workers}
    for _ in range(options.rounds):
        for name, worker in workers.items():
            if len(times[name]) < 3 or sum(wall for wall, _ in times[name]) < options.seconds:
                time.sleep(PAUSE_SECONDS)
                times[name].append(_ask(worker, "run"))
    figures = {}
    for name, worker in workers.items():
        walls, cpus = zip(*times[name], strict=True)
        figures[name] = {
            "min_ms": 1e3 * min(walls),
            "median_ms": 1e3 * statistics.median(walls),
            "cpu_ms": 1e3 * min(cpus),
            "images_per_second": images / min(walls),
            "compile_seconds": compiled[name],
            "peak_memory_mib": 1024 * _ask(worker, peak_memory_gib),
        }
    ratio = {
        name: figures["ours"]["min_ms"] / other["min_ms"] for name, other in figures.items() if name != "ours"
    }
    return {"implementations": figures, "ratio": ratio}


def _rates(options: BenchmarkOptions) -> Rates:
    """The machine's, measured in a process of its own, whose memory is not the steps'."""
    with _workers(("ours",), options.keep_freed_memory) as workers:
        return _ask(workers["ours"], partial(measure_rates, options.dtype))


@contextmanager
def _workers(
    implementations: Sequence[Implementation], keep_freed_memory: bool
) -> Iterator[dict[Implementation, Connection]]:
    context = multiprocessing.get_context("spawn")
    connections, processes = {}, []
    try:
        for name in implementations:
            connections[name], theirs = context.Pipe()
            process = context.Process(target=_work, args=(name, theirs, keep_freed_memory), daemon=True)
            # Each process imports our package, which would keep freed memory by default.
            with _environment("RESNEXT_JAX_KEEP_FREED_MEMORY", str(int(keep_freed_memory))):
                process.start()
            theirs.close()
            processes.append(process)
        yield connections
    finally:
        for connection in connections.values():
            connection.close()
        for process in processes:
            process.join(timeout=10)
            process.terminate()


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _ask(worker: Connection, message: Any) -> Any:
    try:
        worker.send(message)
        return worker.recv()
    except (EOFError, BrokenPipeError):
        raise RuntimeError(f"a benchmark process ended at {message}; its own message is above") from None


def _work(implementation: Implementation, connection: Connection, keep_freed_memory: bool) -> None:
    """Body of a worker: calls the functions and prepares the cases it is sent; runs the latest when asked."""
    if keep_freed_memory:
        ops.keep_freed_memory()
    if implementation in ("torch", "torch-compiled"):
        prepare = partial(prepare_torch, compiled=implementation == "torch-compiled")
    elif implementation == "jaxnn":
        prepare = prepare_jaxnn
    else:
        prepare = partial(prepare_jax, ours=implementation == "ours")
    run: Callable[[], object] = bool
    while True:
        try:
            message = connection.recv()
        except EOFError:
            return
        if message == "run":
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            connection.send((time.perf_counter() - wall, time.process_time() - cpu))
        elif callable(message):
            connection.send(message())
        else:
            run, compile_seconds = prepare(message)
            run()
            connection.send(compile_seconds)


def _machine() -> dict[str, Any]:
    import jax

    cpu = "unknown"
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
            cpu = next(names, cpu)
    return {"cpu": cpu, "cores": os.cpu_count(), "jax": jax.__version__}
