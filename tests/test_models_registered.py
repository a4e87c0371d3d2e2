"""Networks of one's own: a configuration and a factory, registered by name, through every command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_cli import error_of, run

import resnext_jax as rj
from resnext_jax.errors import BadInput
from resnext_jax.models import (
    VARIANTS,
    Network,
    ResNetConfig,
    abstract_model,
    get_config,
    parameter_count,
    registry,
)
from resnext_jax.runs import read_spec
from resnext_jax.weights import read_weights

# As a user writes it in a file of its own.
MODULE = """
import jax
import resnext_jax as rj
from flax import nnx
from resnext_jax.models import Layers, Network, get_config, linear_head


class Block(nnx.Module):
    def __init__(self, inputs, outputs, layers):
        self.conv, self.bn = layers.conv(inputs, outputs, 3, 2, groups=4), layers.norm(outputs)

    def __call__(self, x):
        return self.bn(self.conv(x), act="relu")


class Small(Network):
    stages = ("layer1", "layer2")

    def __init__(self, num_classes=10, in_channels=3, *, dtype="float32", bn_axis_name=None, rngs):
        layers = Layers(config=get_config("resnet18"), rngs=rngs, dtype=dtype, bn_axis_name=bn_axis_name)
        self.in_channels, self.dtype = in_channels, dtype
        self.conv1 = layers.conv(in_channels, 8, 3, bias=True)
        self.layer1 = nnx.List([Block(8, 16, layers)])
        self.layer2 = nnx.List([Block(16, 32, layers)])
        self.fc = linear_head(32, num_classes, dtype=dtype, rngs=rngs) if num_classes else None

    def stem(self, images):
        return jax.nn.relu(self.conv1(images.astype(self.dtype)))


def small(*, num_classes, in_channels, dtype, rngs):
    return Small(num_classes, in_channels, dtype=dtype, rngs=rngs)


rj.register_model("small", Small)
rj.register_model("small_by_function", small)
"""


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers, it alone knows."""
    monkeypatch.setattr(registry, "_factories", {})
    before = dict(VARIANTS)
    yield
    for name in VARIANTS.keys() - before.keys():
        del VARIANTS[name]


@pytest.fixture
def small() -> type[Network]:
    names = {"__name__": "my_networks"}
    exec(compile(MODULE, "my_networks.py", "exec"), names)
    return names["Small"]


def train_flags(images: Path, out: Path, *more: object) -> list[object]:
    flags = [
        "train",
        "--data",
        images,
        "--model",
        "small",
        "--image-size",
        16,
        "--batch-size",
        4,
        "--lr",
        0.05,
    ]
    return [*flags, "--devices", 1, "--out", out, *more]


def test_a_configuration_of_ones_own():
    config = ResNetConfig("bottleneck", (1, 1), 4, 8)
    rj.register_model("mine", config)
    rj.register_model("mine", config)  # a module may be imported twice
    assert "mine" in rj.list_models()
    assert get_config("mine") == config
    rj.TrainConfig(data="demo", model="mine").check()
    model = rj.create_model("mine", num_classes=3)
    model.eval()
    assert model(jnp.zeros((1, 32, 32, 3))).shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "model", "words"),
    [
        ("resnet18", ResNetConfig("basic", (1,)), "'resnet18' is taken by another network"),
        ("small", lambda **_: None, "'small' is taken by another network"),
        ("resnet18.tag", ResNetConfig("basic", (1,)), "expected letters, digits, _ and -"),
        ("", ResNetConfig("basic", (1,)), "expected letters"),
        (3, ResNetConfig("basic", (1,)), "name=3: expected letters"),
        ("other", "resnet18", "expected a ResNetConfig or a function, found 'resnet18'"),
    ],
)
def test_what_cannot_be_registered(small, name, model, words):
    with pytest.raises(BadInput, match=words):
        rj.register_model(name, model)


def test_a_factory_says_what_it_does_not_offer(small):
    for name in ("small", "small_by_function"):
        assert parameter_count(abstract_model(name, num_classes=2)) > 0
        with pytest.raises(BadInput, match=r"my_networks:\w+: it does not offer drop_path=0.1"):
            rj.create_model(name, drop_path=0.1)
        with pytest.raises(BadInput, match="it does not offer init='torch'"):
            abstract_model(name, init="torch", num_classes=2)
    with pytest.raises(BadInput, match="does not offer bn_axis_name='batch'"):
        abstract_model("small_by_function", bn_axis_name="batch")
    with pytest.raises(BadInput, match="is a network of one's own, which pools itself"):
        rj.create_model("small", global_pool="max")
    with pytest.raises(BadInput, match="features_only=True: expected a ResNet, found a Small"):
        rj.create_model("small", features_only=True)
    rj.register_model("linear", lambda *, rngs, num_classes, **_: nnx.Linear(2, num_classes, rngs=rngs))
    with pytest.raises(BadInput, match=r"expected a resnext_jax.models.Network, found a Linear"):
        rj.create_model("linear")


def test_a_factorys_run_goes_through_every_command(small, image_folder, tmp_path, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(*train_flags(image_folder, whole, "--epochs", 2))
    run(*train_flags(image_folder, parts, "--epochs", 1))
    run("train", "--resume", "--out", parts, "--epochs", 2)
    (tmp_path / "files").mkdir()
    for out in (whole, parts):
        run("convert", out, tmp_path / "files" / f"{out.name}.safetensors")
    files = [path.read_bytes() for path in (tmp_path / "files").iterdir()]
    assert files[0] == files[1], "a resumed run differs from a whole one"
    assert read_spec(whole).to_dict()["model"]["architecture"] == {"factory": "my_networks:Small"}

    capsys.readouterr()
    run("evaluate", whole, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["top1"] == json.loads((whole / "summary.json").read_text())["best_val_top1"]

    # To a run again, of the file and of a folder for the hub; both predict alike.
    image = image_folder / "left" / "P00_0.jpg"
    expected = rj.load_run(whole).predict([image]).probabilities
    run("convert", whole, tmp_path / "folder")
    assert "timm has no model like small" in capsys.readouterr().err
    run("convert", tmp_path / "folder", tmp_path / "of_folder")
    file = tmp_path / "files" / "whole.safetensors"
    run("convert", file, tmp_path / "of_file", "--model", "small", "--image-size", 16)
    for again in ("of_folder", "of_file"):
        np.testing.assert_array_equal(rj.load_run(tmp_path / again).predict([image]).probabilities, expected)
    run(
        *train_flags(
            image_folder, tmp_path / "tuned", "--weights", whole, "--freeze", "backbone", "--epochs", 1
        )
    )
    kept, before = read_weights(tmp_path / "tuned"), read_weights(whole)
    np.testing.assert_array_equal(kept["conv1.weight"], before["conv1.weight"])
    assert not np.array_equal(kept["fc.weight"], before["fc.weight"])

    capsys.readouterr()
    run("models")
    assert any(line.split()[0] == "small" for line in capsys.readouterr().out.splitlines() if line.strip())
    run("summary", "small", "--image-size", 16, "--num-classes", 2)
    assert "layer2" in capsys.readouterr().out
    run("features", whole, image_folder, "--out", tmp_path / "features.npz")
    assert np.load(tmp_path / "features.npz")["features"].shape == (20, 32)
    run("explain", whole, image, "--out", tmp_path / "why.png")
    assert "only networks that a ResNetConfig describes are measured" in error_of(capsys, "bench", "small")


def test_a_factorys_run_is_exported(small, image_folder, tmp_path):
    pytest.importorskip("flatbuffers")
    run(*train_flags(image_folder, tmp_path / "run", "--epochs", 1))
    run("export", tmp_path / "run", tmp_path / "model.jaxexport")
    predictor, image = rj.load_run(tmp_path / "run"), image_folder / "left" / "P00_0.jpg"
    from PIL import Image

    pixels = predictor.preprocessing(np.asarray(Image.open(image)))
    call = jax.export.deserialize(bytearray((tmp_path / "model.jaxexport").read_bytes())).call
    np.testing.assert_allclose(call(pixels[None]), predictor.predict([image]).probabilities, atol=1e-5)


def test_commands_learn_of_a_module_by_the_environment(image_folder, tmp_path):
    (tmp_path / "my_networks.py").write_text(MODULE)
    code = "import sys; from resnext_jax import cli; cli.main(sys.argv[1:])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    known = environment | {"RESNEXT_JAX_MODELS": "my_networks"}

    def command(arguments: list[object], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.run(words, env=environment, capture_output=True, text=True)

    trained = command(train_flags(image_folder, tmp_path / "run", "--epochs", 1), known)
    assert trained.returncode == 0, trained.stderr
    refused = command(["predict", tmp_path / "run", image_folder], environment)
    assert refused.returncode == 2
    assert (
        "'small' was registered by the program that trained it (it is Small of my_networks)" in refused.stderr
    )
    assert refused.stderr.count("\n") == 1
    gone = command(["models"], environment | {"RESNEXT_JAX_MODELS": "no_such_module"})
    assert gone.returncode == 2
    assert gone.stderr == "error: RESNEXT_JAX_MODELS=no_such_module: No module named 'no_such_module'\n"
