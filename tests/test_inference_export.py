"""Folded batch norms, and the exported files: run without this package, with the model's probabilities."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_models import CLASSES, KINDS, SIDE, photos, small_model, small_spec

import resnext_jax as rj
from resnext_jax.inference import export_model
from resnext_jax.inference.fold import FoldedNorm
from resnext_jax.models import BatchNorm, ResNet

# What a user writes who has jax (with flatbuffers), Pillow and the two files.
WITHOUT_PACKAGE = """
import json, sys
import numpy as np
from jax import export
file, image = sys.argv[1:]
about = json.load(open(file + ".json", encoding="utf-8"))
classify = export.deserialize(bytearray(open(file, "rb").read())).call
images = np.load(image)
probabilities = np.asarray(classify(images))
best = [about["classes"][i] for i in probabilities.argmax(1)]
print(json.dumps([probabilities.tolist(), best, sorted(sys.modules)]))
"""


def norms(model: nnx.Module) -> int:
    return sum(isinstance(module, BatchNorm) for _, module in nnx.iter_modules(model))


def probabilities(model: ResNet, kind: str, images: np.ndarray) -> np.ndarray:
    return np.asarray(jax.nn.softmax(model(small_spec(kind).preprocessing.normalize(jnp.asarray(images)))))


@pytest.mark.parametrize("kind", KINDS)
def test_folded_norms_leave_the_logits_as_they_are(kind):
    model = small_model(kind)
    before = nnx.to_pure_dict(nnx.state(model))
    folded = rj.fold_batch_norm(model)
    # Norms before the convolutions of preactivation blocks have none before them.
    assert norms(folded) == (sum(KINDS[kind].layers) + 1 if kind == "preactivation" else 0)
    images = jnp.asarray(np.random.default_rng(1).normal(size=(3, 40, 36, 3)), jnp.float32)
    np.testing.assert_allclose(folded(images), model(images), rtol=0, atol=2e-5)
    after = nnx.to_pure_dict(nnx.state(model))
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b or bool((a == b).all()), before, after))


def test_a_model_in_training_form_is_folded_for_evaluation():
    model = small_model("bottleneck")
    images = jnp.ones((1, SIDE, SIDE, 3))
    expected = model(images)
    model.train()
    np.testing.assert_allclose(rj.fold_batch_norm(model)(images), expected, rtol=0, atol=2e-5)


def test_a_convolution_that_others_use_keeps_its_norm():
    class Shared(nnx.Module):
        """The convolution's output goes to a norm and past it."""

        in_channels = 3

        def __init__(self):
            rngs = nnx.Rngs(0)
            self.conv1 = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.conv2 = nnx.Conv(4, 4, (3, 3), rngs=rngs)
            self.bn1, self.bn2 = BatchNorm(4, rngs=rngs), BatchNorm(4, rngs=rngs)

        def __call__(self, x):
            x = self.conv1(x)
            return self.bn2(self.conv2(self.bn1(x))) + x

    folded = rj.fold_batch_norm(Shared())
    assert isinstance(folded.bn1, BatchNorm)
    assert isinstance(folded.bn2, FoldedNorm)


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_has_the_models_probabilities(kind, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    model = small_model(kind)
    assert export_model(model, small_spec(kind), tmp_path / "new" / "m.onnx") == [tmp_path / "new" / "m.onnx"]
    session = runtime.InferenceSession(tmp_path / "new" / "m.onnx")
    for count in (1, 5):
        images = photos(count)
        [found] = session.run(["probabilities"], {"images": images})
        np.testing.assert_allclose(found, probabilities(model, kind, images), rtol=0, atol=2e-6)
    metadata = session.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(metadata["classes"])) == CLASSES
    assert json.loads(metadata["preprocessing"]) == small_spec(kind).preprocessing.to_dict()


def test_onnx_graph_is_as_plain_as_the_network(tmp_path):
    onnx = pytest.importorskip("onnx")
    export_model(small_model("bottleneck"), small_spec("bottleneck"), tmp_path / "m.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node]
    assert kinds.count("Conv") == 12
    assert kinds.count("Add") == 4  # three shortcuts and the head's bias
    assert kinds.count("Transpose") == 1
    assert not {"Sqrt", "BatchNormalization", "Unsqueeze", "Expand"} & set(kinds)


def test_bfloat16_models_are_exported_in_float32(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    model = small_model("basic", dtype=jnp.bfloat16)
    export_model(model, small_spec("basic"), tmp_path / "m.onnx")
    [found] = runtime.InferenceSession(tmp_path / "m.onnx").run(None, {"images": photos(2)})
    exact = probabilities(small_model("basic"), "basic", photos(2))
    np.testing.assert_allclose(found, exact, rtol=0, atol=2e-6)
    assert model.conv1.dtype == jnp.bfloat16


# Operations on [N, H, W, C], [N, C] or both, as blocks of any kind may use them.
OPERATIONS = {
    "mean of the pixels": lambda x: x.mean((1, 2), keepdims=True) * x,
    "sum of the channels": lambda x: x.sum(3)[..., None] + x,
    "sum of the rows": lambda x: x.sum(1)[:, None] + x,
    "largest pixel": lambda x: x.max((1, 2)),
    "squeeze": lambda x: x.max((1, 2), keepdims=True).squeeze((1, 2)),
    "squeeze one": lambda x: x.max(2, keepdims=True).squeeze(2),
    "reshape": lambda x: x.reshape(-1, x.shape[2] * x.shape[1], x.shape[3]).sum(1),
    "transpose": lambda x: x.transpose(0, 2, 1, 3) * 2,
    "reflect": lambda x: jnp.pad(x, ((0, 0), (1, 2), (2, 1), (0, 0)), mode="reflect"),
    "edge": lambda x: jnp.pad(x, ((0, 0), (0, 1), (1, 0), (0, 0)), mode="edge"),
    "fill": lambda x: jax.lax.pad(x, 0.5, ((0, 0, 0), (1, 2, 0), (0, 1, 0), (0, 0, 0))),
    "crop": lambda x: jax.lax.slice(x, (0, 1, 2, 0), (x.shape[0], 7, 8, 4), (1, 2, 1, 1)),
    "concatenate": lambda x: jnp.concatenate([x, -x, jnp.square(x)], axis=3),
    "stack": lambda x: jnp.stack([x.mean((1, 2)), x.max((1, 2))], 1).reshape(-1, 8, 1, 1),
    "mean pool": lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 3, 1), (1, 2, 2, 1), "SAME"),
    "max pool": lambda x: jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, 3, 2, 1), (1, 2, 1, 1), ((0, 0), (1, 1), (0, 0), (0, 0))
    ),
    "operator's max pool": lambda x: rj.ops.max_pool(x, (2, 3), (2, 1), ((0, 1), (1, 1))),
    "plain convolution": lambda x: jax.lax.conv_general_dilated(
        x, np.ones((2, 3, 2, 4)) / 9, (2, 1), "SAME", (1, 1), (1, 2), ("NHWC", "HWIO", "NHWC"), 2
    ),
    "activations": lambda x: jax.nn.silu(x) + jax.nn.gelu(x) + jax.nn.gelu(x, approximate=False),
    "more activations": lambda x: jax.nn.relu6(9 * x) + jax.nn.hard_swish(x) + jax.nn.leaky_relu(x),
    "softmax": lambda x: jax.nn.softmax(x.mean((1, 2))) * jax.lax.rsqrt(jnp.sqrt(jnp.exp(x.max((1, 2))))),
    "normalise": lambda x: x / (1e-3 + jnp.sqrt((x**3).sum((1, 2), keepdims=True) ** 2)),
    "compare": lambda x: jnp.where(x >= 0.5, jnp.minimum(x, 0.7), jnp.where(x < 0.1, 0.2, jnp.log(1 + x))),
    "channels among themselves": lambda x: _over_channels(x.mean((1, 2))),
}


def _over_channels(x):
    """A one-dimensional convolution of the channels, as efficient channel attention has it."""
    y = jax.lax.conv_general_dilated(
        x[:, None, :, None],
        np.full((1, 3, 1, 1), 0.3),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return jax.nn.sigmoid(y.squeeze((1, 3))) * x


@pytest.mark.parametrize("name", OPERATIONS)
def test_onnx_operations_one_by_one(name):
    runtime = pytest.importorskip("onnxruntime")
    from resnext_jax.inference.export_onnx import to_onnx

    def logits(images):
        x = images.astype(jnp.float32) / 255
        y = OPERATIONS[name](jnp.concatenate([x, jax.lax.slice_in_dim(x, 1, 2, axis=3)], 3))
        weights = np.random.default_rng(0).normal(size=y.shape[1:]).astype(np.float32)
        # Every element counts, and where it is.
        return jnp.concatenate([z.reshape(-1, weights.size) for z in (y, y * weights)], 1)

    images = np.random.default_rng(2).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    session = runtime.InferenceSession(to_onnx(logits, 8, {}))
    [found] = session.run(None, {"images": images})
    np.testing.assert_allclose(found, jax.nn.softmax(logits(jnp.asarray(images))), rtol=1e-4, atol=1e-7)


def test_an_operation_that_onnx_has_not_is_named():
    pytest.importorskip("onnx")
    from resnext_jax.inference.export_onnx import to_onnx

    with pytest.raises(rj.BadInput, match="'cumsum' has no rule"):
        to_onnx(lambda x: jnp.cumsum(x.mean((1, 2)), 1), 8, {})


def test_the_artifact_runs_by_jax_alone(tmp_path):
    kind = "bottleneck"
    model, file = small_model(kind), tmp_path / "m.jaxexport"
    assert export_model(model, small_spec(kind), file) == [file, tmp_path / "m.jaxexport.json"]
    np.save(tmp_path / "images.npy", photos(5))
    command = [sys.executable, "-c", WITHOUT_PACKAGE, str(file), str(tmp_path / "images.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    found, best, modules = json.loads(done.stdout)
    expected = probabilities(model, kind, photos(5))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    assert best == [CLASSES[i] for i in expected.argmax(1)]
    assert not {"resnext_jax", "flax", "optax", "tensorflow"} & set(modules)


def test_the_artifact_is_for_every_platform_and_tells_nothing_of_this_machine(tmp_path):
    from jax import export

    export_model(small_model("basic"), small_spec("basic"), tmp_path / "m.jaxexport")
    content = (tmp_path / "m.jaxexport").read_bytes()
    assert str(Path(rj.__file__).parent).encode() not in content
    program = export.deserialize(bytearray(content))
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    # None of our kernels, which nobody else has.
    assert set(re.findall(r"custom_call @(\w+)", program.mlir_module())) == {"shape_assertion"}


def test_what_cannot_be_exported_is_refused(tmp_path):
    model, spec = small_model("cifar"), small_spec("cifar")
    with pytest.raises(rj.BadInput, match=r"m\.tflite: expected an ending of \.jaxexport, \.onnx"):
        export_model(model, spec, tmp_path / "m.tflite")
    big = rj.models.abstract_model("resnext101_32x48d")
    with pytest.raises(rj.BadInput, match=r"m\.onnx: 82\d,\d{3},\d{3} parameters are more than one file"):
        export_model(big, spec, tmp_path / "m.onnx")
    assert not list(Path(tmp_path).iterdir())


# As above, for onnxruntime and NumPy.
WITH_ONNXRUNTIME = """
import json, sys
import numpy as np, onnxruntime
file, image = sys.argv[1:]
session = onnxruntime.InferenceSession(file)
[probabilities] = session.run(None, {"images": np.load(image)})
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
best = [classes[i] for i in probabilities.argmax(1)]
print(json.dumps([probabilities.tolist(), best, sorted(sys.modules)]))
"""


def interpreter(version: str) -> str:
    """A Python of this version, or the test is skipped."""
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        return sys.executable
    candidates = [
        shutil.which(f"python{version}"),
        *Path.home().glob(f".pyenv/versions/{version}.*/bin/python"),
    ]
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "--version"], capture_output=True).returncode == 0:
            return str(candidate)
    pytest.skip(f"there is no Python {version}")


def fresh_environment(folder: Path, python: str, *packages: str) -> Path:
    """The Python of a new virtual environment with these packages, and what they need, alone."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    inside = folder / "bin" / "python"
    install = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{' '.join(packages)} cannot be installed: {done.stderr.splitlines()[-1]}")
    return inside


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.11", "3.12"])
@pytest.mark.parametrize(
    ("suffix", "program", "packages"),
    [
        (".jaxexport", WITHOUT_PACKAGE, ("jax", "flatbuffers")),
        (".onnx", WITH_ONNXRUNTIME, ("onnxruntime", "numpy")),
    ],
)
def test_exported_files_run_in_fresh_environments(tmp_path, suffix, program, packages, version):
    """Of the newest versions that the Python has, without this package or anything that it needs besides."""
    model, file = small_model("bottleneck"), tmp_path / f"m{suffix}"
    export_model(model, small_spec("bottleneck"), file)
    np.save(tmp_path / "images.npy", photos(5))
    python = fresh_environment(tmp_path / "environment", interpreter(version), *packages)
    command = [python, "-I", "-c", program, file, tmp_path / "images.npy"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found, best, modules = json.loads(done.stdout)
    expected = probabilities(model, "bottleneck", photos(5))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    assert best == [CLASSES[i] for i in expected.argmax(1)]
    assert not {"resnext_jax", "flax", "torch", "orbax"} & set(modules)
