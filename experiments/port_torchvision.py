"""Port torchvision's weights to JAX and compare the two on the same images, variant by variant.

    python experiments/port_torchvision.py ~/.cache/torch/hub/checkpoints --out ported
    python experiments/port_torchvision.py --random

The first form ports every ResNet, ResNeXt and Wide ResNet among the .pth files of a folder; the variant is
told by the names and shapes in the file, and other files are named and left out. `--out` keeps what was
ported as .safetensors. The second form needs no files: it draws seeded random weights, batch norm statistics
included, for all ten variants of torchvision.

Needs torch and torchvision (`pip install -e '.[test]'`).
Hardware: any CPU; all ten variants take four minutes on 2 cores.
Expected: max |difference| / max |logit| of 1e-6 to 3e-6.
"""

import importlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import torch
import tyro
from flax import nnx
from torch import nn
from tyro.conf import Positional

import resnext_jax as rj
from resnext_jax import cli
from resnext_jax.models import multiply_adds, parameter_count
from resnext_jax.weights import (
    NAMED_WEIGHTS,
    create_model,
    looks_like,
    read_weights,
    to_torch_state_dict,
    write_weights,
)

HEADER = """\
| variant | parameters | multiply-adds | max logit difference | top-1 (V1 / V2) |
|---|---:|---:|---:|---:|"""


def main(
    folder: Positional[Path | None] = None,
    random: bool = False,
    out: Path | None = None,
    image_size: int = 224,
    batch_size: int = 2,
) -> None:
    """Port weights and print the parity table.

    Args:
        folder: where .pth files are.
        random: use seeded random weights instead of files.
        out: folder to write the ported weights to, as .safetensors.
        image_size: side of the images in pixels.
        batch_size: images to compare on.
    """
    if (folder is None) != random:
        raise rj.BadInput("give either a folder of .pth files or --random")
    if image_size < 1 or batch_size < 1:
        raise rj.BadInput(f"image_size={image_size}, batch_size={batch_size}: expected at least 1")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).normal(size=(batch_size, image_size, image_size, 3)).astype(np.float32)
    with tempfile.TemporaryDirectory() as scratch:
        paths = random_files(Path(scratch)) if folder is None else files(folder)
        ported = 0
        for path in paths:
            try:
                line = row(path, images, out)
            except ValueError as error:
                print(f"{path.name} is left out: {error}", file=sys.stderr)
                continue
            print(line if ported else f"{HEADER}\n{line}", flush=True)
            ported += 1
    if not ported:
        raise rj.BadInput(f"{folder}: no .pth file of torchvision's ResNets there")


def files(folder: Path) -> list[Path]:
    """The .pth files of a folder.

    Raises:
        FileNotFoundError: no folder.
        ValueError: no such file in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected one with .pth files")
    paths = sorted(folder.glob("*.pth"))
    if not paths:
        raise rj.BadInput(f"{folder}: no .pth files there")
    return paths


def random_files(scratch: Path) -> Iterator[Path]:
    """Seeded random weights of each variant, one file at a time."""
    models = import_torchvision().models
    for name in NAMED_WEIGHTS:
        torch.manual_seed(0)
        model = models.get_model(name)
        randomise_norms(model)
        torch.save(model.state_dict(), path := scratch / f"{name}.pth")
        yield path
        path.unlink()


def randomise_norms(model: nn.Module, in_channels: int = 3) -> None:
    """Random affine terms, and statistics near those of random images, so that no activation runs away.

    Those of a fresh model (ones and zeros) would hide mistakes.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0.0, 0.2)
    with torch.no_grad():
        model.train()(torch.randn(4, in_channels, 64, 64))
        for norm in norms:
            norm.momentum = 0.1
            norm.running_mean += 0.3 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.7, 1.4)


def row(path: Path, images: np.ndarray, out: Path | None = None) -> str:
    """Port one file and compare: a row of the table.

    Raises:
        ValueError: the file is damaged, or holds other weights.
    """
    arrays = read_weights(path)
    name = next((name for name in looks_like(arrays) if name in NAMED_WEIGHTS), None)
    if name is None:
        raise rj.BadInput("it is none of torchvision's ResNets")
    ours = create_model(name, num_classes=None, weights=path)
    ours.eval()
    found = np.asarray(nnx.jit(lambda model, x: model(x))(ours, images))
    if out is not None:
        write_weights(out / f"{path.stem}.safetensors", to_torch_state_dict(ours))

    theirs = import_torchvision().models.get_model(name, num_classes=ours.fc.out_features).eval()
    theirs.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()})
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()

    difference = np.abs(found - expected).max() / np.abs(expected).max()
    published = " / ".join(f"{entry.top1:.1f} %" for entry in NAMED_WEIGHTS[name].values())
    cost = multiply_adds(ours, images.shape[1]) / 1e9
    return f"| {name} | {parameter_count(ours):,} | {cost:.2f} G | {difference:.1e} | {published} |"


def import_torchvision() -> ModuleType:
    """torchvision, also where its compiled operators do not load (beside a torch built for other devices)."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    with cli.clean_exit():
        tyro.cli(main)
