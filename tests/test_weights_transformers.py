"""Folders that the package transformers has written: its networks, image processors and class names."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from port_torchvision import randomise_norms  # noqa: E402
from torch_reference import random_images, relative_error, to_torch  # noqa: E402

import resnext_jax as rj  # noqa: E402
from resnext_jax.inference import convert_to_run  # noqa: E402
from resnext_jax.weights import identify  # noqa: E402

CLASSES = {0: "crane", 1: "heron", 2: "crane"}
BASIC = {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512]}
NETWORKS = {
    "basic": BASIC | {"depths": [2, 1, 1, 1]},
    "bottleneck": {"depths": [1, 2, 1, 1]},
    "stride_1x1": {"depths": [1, 2, 1, 1], "downsample_in_bottleneck": True},
    "without a head": {"depths": [1, 1, 1, 1], "headless": True},
}
# The kind of the hub's ResNets, below and above the size from which it crops no more; and other kinds.
PROCESSORS = {
    "cropped": ("ConvNextImageProcessor", {"size": {"shortest_edge": 64}, "crop_pct": 0.875, "resample": 3}),
    "whole": ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}, "resample": 3}),
    "stretched": ("ViTImageProcessor", {"size": {"height": 56, "width": 56}, "image_mean": [0.2, 0.4, 0.6]}),
    "centre": (
        "CLIPImageProcessor",
        {"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 48}, "do_convert_rgb": False},
    ),
}


@pytest.fixture(scope="module")
def transformers(torchvision: ModuleType) -> ModuleType:
    return pytest.importorskip("transformers")


def write(
    transformers: ModuleType, folder: Path, *, headless: bool = False, **options: Any
) -> torch.nn.Module:
    """A network of transformers with random norms, saved by it."""
    torch.manual_seed(0)
    config = transformers.ResNetConfig(id2label=CLASSES, **options)
    kind = transformers.ResNetModel if headless else transformers.ResNetForImageClassification
    model = kind(config)
    randomise_norms(model)
    model.eval().save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    "kind",
    [kind if kind == "stride_1x1" else pytest.param(kind, marks=pytest.mark.slow) for kind in NETWORKS],
)
def test_a_folder_has_the_networks_outputs(transformers, tmp_path, kind):
    headless = NETWORKS[kind].get("headless", False)
    theirs = write(transformers, tmp_path, **NETWORKS[kind])
    description = identify(tmp_path).description
    ours = rj.create_model(description.config, weights=tmp_path, **({"num_classes": 0} if headless else {}))
    ours.eval()
    images = random_images(2, 75, 53, 3)
    with torch.no_grad():
        found = theirs(to_torch(images))
    expected = found.pooler_output[:, :, 0, 0] if headless else found.logits
    assert relative_error(ours(images), expected.numpy()) < 1e-4
    assert description.classes == ("crane (0)", "heron", "crane (2)")


def test_a_published_shape_has_its_name_and_becomes_a_run(transformers, tmp_path):
    theirs = write(transformers, tmp_path / "folder", **BASIC, depths=[2, 2, 2, 2])
    kind, options = PROCESSORS["cropped"]
    processor = getattr(transformers, kind)(**options)
    processor.save_pretrained(tmp_path / "folder")
    assert identify(tmp_path / "folder").name == "resnet18"
    convert_to_run(tmp_path / "folder", tmp_path / "run")
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
    predicted = rj.load_run(tmp_path / "run").predict([photo])
    assert predicted.classes == ("crane (0)", "heron", "crane (2)")
    with torch.no_grad():
        logits = theirs(**processor(photo, return_tensors="pt")).logits
    np.testing.assert_allclose(predicted.probabilities, logits.softmax(1).numpy(), atol=0.02)


@pytest.mark.parametrize("kind", PROCESSORS)
def test_images_are_prepared_as_the_processor_does(transformers, tmp_path, kind):
    write(transformers, tmp_path, **NETWORKS["bottleneck"])
    name, options = PROCESSORS[kind]
    processor = getattr(transformers, name)(**options)
    processor.save_pretrained(tmp_path)
    prepare = identify(tmp_path).description.preprocessing
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (6, 9, 3), np.uint8)).resize(
        (150, 100), Image.Resampling.BICUBIC
    )
    expected = np.asarray(processor(smooth, return_tensors="np")["pixel_values"])[0].transpose(1, 2, 0)
    found = np.asarray(prepare.normalize(prepare(np.asarray(smooth))))
    assert found.shape == expected.shape
    # A rounding of a pixel's value is 1/255 before the division by the deviation.
    assert np.abs(found - expected).max() * max(prepare.std) < 2.1 / 255
