"""What do the compilers for TPUs and GPUs make of the train step? Without one at hand.

    python experiments/benchmarks/ahead_of_time.py resnext50_32x4d --topology v5e:2x2 --batch-size 32
    python experiments/benchmarks/ahead_of_time.py resnext50_32x4d --topology h100 --batch-size 128

Needs:     for TPUs `pip install 'resnext-jax[aot]'` (libtpu, which compiles without a TPU); for GPUs
           `pip install 'resnext-jax[cuda12]'` (no GPU, no driver).
Hardware:  2 CPU cores; a TPU program compiles in 2 to 7 minutes, a GPU program in about one.
Expected:  TPU: the time that the compiler itself estimates for a step, by kind of operation. GPU: the bytes
           that the step's kernels move, and how long the memory takes for them at best. Both are estimates,
           not measurements: they say what a change of the program is worth, not how fast a device is.

The program is the one that `resnext-jax train` runs: the same step, mapped in the same way over the devices
of the topology.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

# Clock, from the published peak in bfloat16 over the matrix units' width; v6e's is taken to be v5p's.
TPU_HERTZ = {"v4": 1.05e9, "v5e": 1.5e9, "v5p": 1.75e9, "v6e": 1.75e9}
H100_BYTES_PER_SECOND = 3.35e12
H100 = Path(__file__).with_name("h100.txtpb")


@dataclass(frozen=True)
class AheadOfTime:
    """Compile the train step for devices that are not here, and print what the compiler says of it."""

    model: Annotated[str, tyro.conf.Positional] = "resnext50_32x4d"
    """A name of `resnext-jax models`."""
    topology: str = "v5e:2x2"
    """TPU kind and shape (v4:2x2x1, v5e:2x2, v5p:2x2x1, v6e:2x2), or h100."""
    batch_size: int = 32
    """Images on each device."""
    image_size: int = 224
    """Side of the images, in pixels."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Compute type."""
    lowering: Literal["native", "merged"] | None = None
    """Grouped convolutions: XLA's own, or groups merged into blocks (default: what the platform takes)."""
    accumulate: int = 1
    """Parts in which each device computes its batch."""
    remat: bool = False
    """Keep only the input of each block for the backward pass."""
    worst: int = 10
    """Instructions to show."""
    json: bool = False
    """Print JSON."""
    hlo: Path | None = None
    """Write the optimised program to this file."""


def compile_step(options: AheadOfTime) -> Any:
    """The train step, compiled for the topology.

    Returns:
        What `jax.stages.Lowered.compile` gives.
    """
    import jax
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from resnext_jax.devices import AXIS

    if options.topology == "h100":
        described = {"platform": "cuda", "target_config": H100.read_text(), "topology": "1x1x1"}
        devices = topologies.get_topology_desc(**described).devices
    else:
        devices = topologies.get_topology_desc(options.topology, "tpu").devices
    mesh = Mesh(np.array(devices), (AXIS,))

    def placed(tree: Any, spec: PartitionSpec) -> Any:
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    step, state, sums = abstract_step(options, len(devices))
    side = options.image_size
    shape = (len(devices), options.batch_size)
    batch = {
        "image": jax.ShapeDtypeStruct((*shape, side, side, 3), np.uint8),
        "label": jax.ShapeDtypeStruct(shape, np.int32),
        "mask": jax.ShapeDtypeStruct(shape, np.bool_),
    }
    everywhere, split = PartitionSpec(), PartitionSpec(AXIS)
    mapped = jax.pmap(
        step, AXIS, devices=devices, in_axes=(None, None, 0), out_axes=(None, None), donate_argnums=0
    )
    lowered = mapped.lower(placed(state, everywhere), placed(sums, everywhere), placed(batch, split))
    return lowered.compile()


def abstract_step(options: AheadOfTime, devices: int) -> tuple[Any, Any, Any]:
    """The step that training makes with torchvision's first recipe, its state and sums without memory."""
    import jax
    import jax.numpy as jnp

    from resnext_jax import TrainConfig
    from resnext_jax.data import Preprocessing
    from resnext_jax.inference import zero_sums
    from resnext_jax.models import abstract_model, merge_model, split_model
    from resnext_jax.training import Loss, prepare_step

    classes = 1000
    config = TrainConfig(
        model=options.model,
        dtype=options.dtype,
        image_size=options.image_size,
        batch_size=options.batch_size * devices,
        random_resized_crop=(0.08, 1.0),
        flip=True,
        weight_decay=1e-4,
        epochs=90,
        schedule="step",
        milestones=(30, 60),
        accumulate=options.accumulate,
        remat=options.remat,
    )
    config.check()
    normalize = Preprocessing(options.image_size).normalize
    steps = 1_281_167 // config.batch_size  # an epoch of ImageNet
    made = []
    model = abstract_model(options.model, num_classes=classes, dtype=jnp.dtype(options.dtype))
    graphdef, params, batch_stats = split_model(model)

    def initial_state(params: Any, batch_stats: Any) -> Any:
        model = merge_model(graphdef, params, batch_stats)
        step, state = prepare_step(config, model, normalize, Loss(classes), steps)
        made.append(step)
        return state

    state = jax.eval_shape(initial_state, params, batch_stats)
    return made[0], state, jax.eval_shape(lambda: zero_sums(classes))


def describe(options: AheadOfTime, compiled: Any) -> dict[str, Any]:
    """What the compiled program says, as JSON would hold it."""
    from hlo import Program, moved_bytes, tpu_seconds, without_estimate

    program = Program(compiled.as_text())
    memory = compiled.memory_analysis()
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    costs = compiled.cost_analysis() or {}  # not of every compiler
    costs = costs[0] if isinstance(costs, list) else costs
    if options.topology == "h100":
        by_kind, rows = moved_bytes(program)
        unit, scale = "GB moved", 1e-9
        step_ms = 1e3 * by_kind.total() / H100_BYTES_PER_SECOND
        missing = {}
    else:
        by_kind, rows = tpu_seconds(program, TPU_HERTZ[options.topology.partition(":")[0]])
        unit, scale = "ms estimated", 1e3
        step_ms = 1e3 * by_kind.total()
        missing = {name: round(size / 1e6, 1) for name, size in without_estimate(program).most_common()}
    return {
        "model": options.model,
        "topology": options.topology,
        "batch_size": options.batch_size,
        "image_size": options.image_size,
        "dtype": options.dtype,
        "lowering": options.lowering or "default",
        "accumulate": options.accumulate,
        "remat": options.remat,
        "step_ms": round(step_ms, 2),
        "unit": unit,
        "by_kind": {kind: round(scale * value, 2) for kind, value in by_kind.most_common()},
        "without_estimate_mb": missing,
        "peak_memory_gib": round((peak - memory.alias_size_in_bytes) / 2**30, 2),
        "tflop": round(costs.get("flops", 0) / 1e12, 3),
        "worst": [
            {unit: round(scale * value, 3), "kind": kind, "shape": i.shape[:60], "source": i.source[-70:]}
            for value, kind, i in rows[: options.worst]
        ],
    }


def main(options: AheadOfTime) -> None:
    """Compile and print."""
    os.environ.update(JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    if options.lowering:
        os.environ["RESNEXT_JAX_GROUPED"] = options.lowering
    if options.topology == "h100":
        # No GPU to try kernels on.
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0"
    compiled = compile_step(options)
    if options.hlo:
        options.hlo.write_text(compiled.as_text())
    result = describe(options, compiled)
    if options.json:
        print(json.dumps(result))
        return
    bound = "at least, by memory" if options.topology == "h100" else "estimated by the compiler"
    print(
        f"{options.model}, {options.dtype}, {options.image_size} px, batch {options.batch_size} on each "
        f"device of {options.topology}: {result['step_ms']:.1f} ms a step ({bound}), peak memory "
        f"{result['peak_memory_gib']} GiB, {result['tflop']} TFLOP"
    )
    for kind, value in result["by_kind"].items():
        print(f"  {value:10.2f} {result['unit']}  {kind}")
    if missing := {name: size for name, size in result["without_estimate_mb"].items() if size}:
        sizes = ", ".join(f"{name} {size}" for name, size in missing.items())
        print(f"  not in these times, as the compiler has no estimate for it (MB of results): {sizes}")
    for row in result["worst"]:
        print(f"  {row[result['unit']]:10.3f} {row['kind']:8} {row['shape']:40} {row['source']}")


if __name__ == "__main__":
    main(tyro.cli(AheadOfTime, description=__doc__))
