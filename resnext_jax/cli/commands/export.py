"""`resnext-jax export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from resnext_jax import inference
from resnext_jax.cli.commands.runs import OfRun


@dataclass(frozen=True, kw_only=True)
class Export(OfRun):
    """Write a trained run as one file that runs without this package. Normalisation is part of it."""

    file: Positional[Annotated[Path, arg(metavar="FILE")]]
    """FILE.jaxexport: for JAX alone, on CPU, CUDA and TPU; class names and preprocessing go beside it, to
    FILE.jaxexport.json. FILE.onnx: for onnxruntime and others. (.pth and .safetensors: `convert`.)"""

    def __call__(self) -> None:
        inference.check_format(self.file)
        predictor = self.load()
        written = inference.export_model(predictor.model, predictor.spec, self.file)
        side = predictor.preprocessing.image_size
        print(
            f"{' and '.join(map(str, written))}: {predictor.spec.name} after {predictor.step} steps; uint8 "
            f"[N, {side}, {side}, 3] to the probabilities of {len(predictor.classes)} classes"
        )
