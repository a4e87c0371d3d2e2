"""`resnext-jax export`."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from resnext_jax import inference
from resnext_jax.cli.commands.choices import Checkpoint


@dataclass(frozen=True)
class Export:
    """Write a trained run as one file that runs without this package; normalisation is inside."""

    run: Positional[Path]
    """Run directory."""
    file: Positional[Path]
    """FILE.jaxexport: for JAX alone, on CPU, CUDA and TPU; class names and preprocessing go beside it, to
    FILE.jaxexport.json. FILE.onnx: for onnxruntime and others. (.pth and .safetensors: `convert`.)"""
    checkpoint: Checkpoint = "best"
    """The best by validation accuracy, or the latest."""

    def __call__(self) -> None:
        inference.check_format(self.file)
        predictor = inference.load_run(self.run, self.checkpoint)
        written = inference.export_model(predictor.model, predictor.spec, self.file)
        side = predictor.preprocessing.image_size
        print(
            f"{' and '.join(map(str, written))}: {predictor.spec.name} after {predictor.step} steps; uint8 "
            f"[N, {side}, {side}, 3] to the probabilities of {len(predictor.classes)} classes"
        )
