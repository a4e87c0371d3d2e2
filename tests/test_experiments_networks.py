"""The exact networks of two experiments, against torch networks written down as their sources have them."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import networks  # noqa: E402
from experiment import run  # noqa: E402
from flax import nnx  # noqa: E402
from port_torchvision import randomise_norms  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch_reference import (  # noqa: E402
    assert_same_outputs,
    random_images,
    relative_error,
    to_torch,
)

import resnext_jax as rj  # noqa: E402
from resnext_jax.errors import BadInput  # noqa: E402
from resnext_jax.models import BatchNorm, abstract_model, parameter_count  # noqa: E402
from resnext_jax.training import saved_config  # noqa: E402

FOLDER = Path(networks.__file__).parent


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn1, self.bn2, self.relu = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs), nn.ReLU()
        self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride)) if stride > 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18For96px(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 64, 7, 2), nn.BatchNorm2d(64), nn.ReLU()
        self.maxpool, self.avgpool = nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3)
        for i, (inputs, outputs) in enumerate([(64, 64), (64, 128), (128, 256), (256, 512)]):
            blocks = Block(inputs, outputs, 1 if i == 0 else 2), Block(outputs, outputs, 1)
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(512, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class Same(nn.Module):
    """A layer of stride 2 after the padding that TensorFlow calls "same"."""

    def __init__(self, layer: nn.Module, size: int, stride: int, fill: float):
        super().__init__()
        self.layer, self.size, self.stride, self.fill = layer, size, stride, fill
        layer.padding = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pads = []
        for side in (x.shape[3], x.shape[2]):
            total = max((-(-side // self.stride) - 1) * self.stride + self.size - side, 0)
            pads += [total // 2, total - total // 2]
        return self.layer(F.pad(x, pads, value=self.fill))


def keras_wide_resnet50(torchvision) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """torchvision's network with Keras' padding around its layers, and its weights by their usual names."""
    norm = partial(nn.BatchNorm2d, eps=1.001e-5, momentum=0.01)
    plain = torchvision.models.wide_resnet50_2(num_classes=5, norm_layer=norm)
    randomise_norms(plain, 3)
    plain.eval()
    names = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    for block in plain.modules():
        if hasattr(block, "conv3"):
            block.conv2 = Same(block.conv2, 3, block.conv2.stride[0], 0.0)
    plain.conv1 = Same(plain.conv1, 7, 2, 0.0)
    plain.maxpool = Same(plain.maxpool, 3, 2, -float("inf"))
    return plain, names


def ported(name: str, state_dict: dict, num_classes: int):
    ours = abstract_model(name, num_classes=num_classes)
    rj.load_torch_state_dict(ours, state_dict)
    ours.eval()
    return ours


@pytest.fixture(scope="module")
def theirs_96px() -> nn.Module:
    torch.manual_seed(0)
    model = ResNet18For96px()
    randomise_norms_of(model)
    return model.eval()


def randomise_norms_of(model: nn.Module) -> None:
    """Norms as training leaves them."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0.0, 0.2)
            nn.init.normal_(norm.running_mean, 0.0, 0.2)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)


def test_the_cifar_network_is_its_sources(theirs_96px):
    assert sum(p.numel() for p in theirs_96px.parameters()) == 11_180_810
    assert parameter_count(abstract_model("resnet18_96px", num_classes=10)) == 11_180_810
    ours = ported("resnet18_96px", theirs_96px.state_dict(), 10)
    images = random_images(2, 96, 96, 3)
    assert_same_outputs(ours, theirs_96px, images)
    # Of 5x4 last pixels, AvgPool2d(3) takes the first 3x3.
    images = random_images(1, 140, 120, 3)
    assert ours.features(jnp.asarray(images))["layer4"].shape[1:3] == (5, 4)
    with torch.no_grad():
        expected = theirs_96px(to_torch(images)).numpy()
    assert relative_error(ours(jnp.asarray(images)), expected) < 1e-4
    with pytest.raises(BadInput, match=r"2 x 3 pixels are left for its one window.*image_size=96"):
        ours(jnp.zeros((1, 64, 96, 3)))
    with torch.no_grad(), pytest.raises(RuntimeError, match="Output size is too small"):
        theirs_96px(torch.zeros(1, 3, 64, 96))


def test_the_cifar_network_starts_as_its_sources():
    """torch's default initialisation: each kernel and bias within its bound, and uniform in it."""
    torch.manual_seed(1)
    theirs = ResNet18For96px().state_dict()
    found = rj.to_torch_state_dict(rj.create_model("resnet18_96px", num_classes=10))
    assert found.keys() == {name for name in theirs if "num_batches" not in name}
    for name, array in found.items():
        if array.ndim > 1 or name in ("conv1.bias", "layer4.0.downsample.0.bias"):
            expected = theirs[name].numpy()
            assert np.abs(array).max() == pytest.approx(np.abs(expected).max(), rel=0.1)
            assert array.std() == pytest.approx(expected.std(), rel=0.25)


def test_the_wide_network_is_keras(torchvision):
    torch.manual_seed(0)
    theirs, names = keras_wide_resnet50(torchvision)
    ours = ported("wide_resnet50_2_keras", names, 5)
    images = random_images(2, 64, 50, 3)
    assert_same_outputs(ours, theirs, images)
    torchs = ported("wide_resnet50_2", names, 5)
    stems = [np.asarray(model.stem(jnp.asarray(images))) for model in (ours, torchs)]
    assert relative_error(*stems) > 0.1  # padded as torch does


def test_the_wide_networks_norms_are_keras():
    model = abstract_model("wide_resnet50_2_keras")
    assert parameter_count(model) == 68_883_240
    norms = [module for _, module in nnx.iter_modules(model) if isinstance(module, BatchNorm)]
    assert {(norm.momentum, norm.epsilon) for norm in norms} == {(0.99, 1.001e-5)}


@pytest.mark.slow
def test_the_wide_network_starts_as_keras():
    model = rj.create_model("wide_resnet50_2_keras", num_classes=3)
    kernel = np.asarray(model.layer3[0].conv2.kernel[...])  # [3, 3, 512, 512]
    bound = (6 / (9 * (512 + 512))) ** 0.5
    assert np.abs(kernel).max() == pytest.approx(bound, rel=1e-3)
    assert kernel.std() == pytest.approx(bound / 3**0.5, rel=1e-2)
    assert not np.asarray(model.fc.bias[...]).any()


def test_exact_takes_the_sources_network_and_images(tmp_path, monkeypatch, capsys):
    """Without it the standard ones stay; what `--exact` sets is in the run's configuration."""
    seen = []
    for script in ("cifar10_resnet18", "folders_resnext50_full", "monkeypox_resnext50"):
        for flags in ([], ["--exact"]):
            monkeypatch.setattr(sys, "argv", [f"{script}.py", *flags])
            monkeypatch.setattr("experiment.run", partial(run_and_keep, seen))
            exec_script(script)
    models = [config.model for config in seen]
    assert models == [
        "resnet18",
        "resnet18_96px",
        "wide_resnet50_2",
        "wide_resnet50_2_keras",
        *["resnext50_32x4d_stride1x1_bias"] * 2,
    ]
    assert [config.init for config in seen[4:]] == ["torchvision", "torch"]
    wide = seen[3]
    assert (wide.interpolation, wide.mean, wide.std) == ("nearest", (0, 0, 0), (1, 1, 1))


def run_and_keep(seen: list, description: str, config: rj.TrainConfig, main, **options) -> None:
    run(description, config, seen.append, **options)


def exec_script(name: str) -> None:
    source = (FOLDER / f"{name}.py").read_text()
    exec(compile(source, name, "exec"), {"__name__": "__main__", "__doc__": name})


@pytest.mark.slow
def test_an_exact_run_is_known_to_commands_by_its_module(tmp_path):
    out = tmp_path / "run"
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": os.pathsep.join([str(FOLDER), *sys.path])}
    script = [sys.executable, FOLDER / "cifar10_resnet18.py", "--smoke", "--exact", "--out", out]
    subprocess.run(script, env=environment, check=True)
    assert saved_config(out).model == "resnet18_96px"
    main = "from resnext_jax import cli; cli.main()"
    command = [sys.executable, "-c", main, "evaluate", out, "--json"]
    refused = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "it is ResNet18For96px of networks" in refused.stderr
    found = subprocess.run(
        command,
        env=environment | {"RESNEXT_JAX_MODELS": "networks"},
        capture_output=True,
        text=True,
        check=True,
    )
    summary = json.loads((out / "summary.json").read_text())
    assert json.loads(found.stdout)["top1"] == summary["best_val_top1"]
