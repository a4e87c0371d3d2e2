"""Port torchvision's weights to JAX and compare the two on the same images, variant by variant.

    python experiments/port_torchvision.py ~/.cache/torch/hub/checkpoints
    python experiments/port_torchvision.py --random

The first form ports every ResNet, ResNeXt and Wide ResNet among the .pth files of a folder; the variant is
told by the names and shapes in the file. The second needs no files: it draws seeded random weights, batch
norm statistics included, for all ten variants of torchvision.

Needs torch and torchvision (`pip install -e '.[test]'`).
Hardware: any CPU; all ten variants take three minutes on 2 cores.
Expected: max |difference| / max |logit| of 1e-6 to 2e-6.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import torch
import torchvision
import tyro
from flax import nnx
from torch import nn
from tyro.conf import Positional

from resnext_jax.models import multiply_adds, parameter_count
from resnext_jax.weights import NAMED_WEIGHTS, create_model, looks_like, read_weights

HEADER = """\
| variant | parameters | multiply-adds | max logit difference | top-1 (V1 / V2) |
|---|---:|---:|---:|---:|"""


def main(
    folder: Positional[Path | None] = None, random: bool = False, image_size: int = 224, batch_size: int = 2
) -> None:
    """Port weights and print the parity table.

    Args:
        folder: where .pth files are.
        random: use seeded random weights instead of files.
        image_size: side of the images in pixels.
        batch_size: images to compare on.
    """
    if (folder is None) != random:
        raise SystemExit("give either a folder of .pth files or --random")
    images = np.random.default_rng(0).normal(size=(batch_size, image_size, image_size, 3)).astype(np.float32)
    print(HEADER)
    with tempfile.TemporaryDirectory() as scratch:
        for path, name in random_files(Path(scratch)) if folder is None else files(folder):
            print(row(path, name, images), flush=True)


def files(folder: Path) -> Iterator[tuple[Path, str]]:
    """The .pth files of a folder whose variant torchvision has, with its name."""
    for path in sorted(folder.glob("*.pth")):
        try:
            names = [name for name in looks_like(read_weights(path)) if name in NAMED_WEIGHTS]
        except ValueError as error:
            print(error, file=sys.stderr)
            continue
        if names:
            yield path, names[0]
        else:
            print(f"{path}: none of torchvision's ResNets, left out", file=sys.stderr)


def random_files(scratch: Path) -> Iterator[tuple[Path, str]]:
    """Seeded random weights of each variant, one file at a time."""
    for name in NAMED_WEIGHTS:
        torch.manual_seed(0)
        path = scratch / f"{name}.pth"
        torch.save(randomised(torchvision.models.get_model(name)).state_dict(), path)
        yield path, name
        path.unlink()


def randomised(model: nn.Module) -> nn.Module:
    """Random norms too, as those of a fresh model would hide mistakes; statistics near those of images."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0.0, 0.2)
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 64, 64))
        for norm in norms:
            norm.running_mean += 0.3 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.7, 1.4)
    return model


def row(path: Path, name: str, images: np.ndarray) -> str:
    """Port one file and compare: a row of the table."""
    ours = create_model(name, num_classes=None, weights=path)
    ours.eval()
    found = np.asarray(nnx.jit(lambda model, x: model(x))(ours, images))

    theirs = torchvision.models.get_model(name, num_classes=ours.fc.out_features).eval()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()

    difference = np.abs(found - expected).max() / np.abs(expected).max()
    published = " / ".join(f"{entry.top1:.1f} %" for entry in NAMED_WEIGHTS[name].values())
    cost = multiply_adds(ours, images.shape[1]) / 1e9
    return f"| {name} | {parameter_count(ours):,} | {cost:.2f} G | {difference:.1e} | {published} |"


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    tyro.cli(main)
