"""Named weights: the table against torchvision's own, preprocessing, download into the cache."""

import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnext_jax.data import Preprocessing
from resnext_jax.inference import convert_to_run
from resnext_jax.models import abstract_model
from resnext_jax.weights import (
    NAMED_WEIGHTS,
    NamedWeights,
    create_model,
    named_weights,
    preprocessing,
    write_weights,
)
from resnext_jax.weights import named as named_module
from resnext_jax.weights.state_dict import to_torch_state_dict, torch_shapes

TORCHVISION_VARIANTS = 10


def test_table_is_torchvisions(torchvision):
    assert len(NAMED_WEIGHTS) == TORCHVISION_VARIANTS
    for model, ours in NAMED_WEIGHTS.items():
        theirs = torchvision.models.get_model_weights(model)
        assert list(ours) == [weights.name for weights in theirs]
        assert named_weights("DEFAULT", model) == ours[theirs.DEFAULT.name]
        for weights in theirs:
            entry, transform = ours[weights.name], weights.transforms()
            metrics = weights.meta["_metrics"]["ImageNet-1K"]
            assert entry.url == weights.url
            assert weights.url.endswith(f"-{entry.sha256_prefix}.pth")
            assert (entry.top1, entry.top5) == (metrics["acc@1"], metrics["acc@5"])
            assert entry.preprocessing == Preprocessing(
                image_size=transform.crop_size[0],
                resize_size=transform.resize_size[0],
                interpolation=transform.interpolation.value,
                mean=tuple(transform.mean),
                std=tuple(transform.std),
            )


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """JPEGs of several shapes: tall, wide, smaller and larger than the network's size, grey, EXIF-free."""
    rng = np.random.default_rng(0)
    paths = []
    for i, (width, height) in enumerate([(500, 375), (375, 500), (224, 224), (90, 301), (1024, 231)]):
        coarse = rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        noise = rng.normal(0, 12, (height, width, 3))
        image = Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
        image.save(path := tmp_path / f"{i}.jpg", quality=90)
        paths.append(path)
    return paths


def assert_same_preprocessing(torchvision, paths: list[Path]) -> None:
    for model, name in (("resnext50_32x4d", "IMAGENET1K_V1"), ("resnext50_32x4d", "DEFAULT")):
        ours = preprocessing(name, model)
        theirs = torchvision.models.get_model_weights(model)[named_weights_name(model, name)].transforms()
        for path in paths:
            image = Image.open(path).convert("RGB")
            found = (ours(np.asarray(image)) / np.float32(255) - np.float32(ours.mean)) / np.float32(ours.std)
            expected = theirs(image).numpy().transpose(1, 2, 0)
            assert found.shape == expected.shape == (224, 224, 3)
            assert np.abs((found - expected) * np.float32(ours.std)).max() < 1 / 255


def named_weights_name(model: str, weights: str) -> str:
    return list(NAMED_WEIGHTS[model])[-1] if weights == "DEFAULT" else weights


def test_preprocessing_is_torchvisions(torchvision, photos):
    assert_same_preprocessing(torchvision, photos)


@pytest.mark.needs_data
def test_preprocessing_is_torchvisions_on_photographs(torchvision, shared_data):
    paths = sorted((shared_data / "monkeypox").rglob("*.jpg"))[::200]
    assert paths
    assert_same_preprocessing(torchvision, paths)


def test_unknown_names(tmp_path):
    with pytest.raises(
        ValueError, match=r"resnet18 has no weights of that name; it has IMAGENET1K_V1, a1_in1k, .*, DEFAULT"
    ):
        named_weights("IMAGENET1K_V2", "resnet18")
    with pytest.raises(
        ValueError, match="resnext14_32x4d has no weights of that name; it has none: give a file"
    ):
        create_model("resnext14_32x4d", weights="DEFAULT")
    with pytest.raises(FileNotFoundError, match="IMAGENET1K_V3: no such file or directory"):
        create_model("resnet18", weights="IMAGENET1K_V3")
    (tmp_path / "w.pth").write_bytes(b"")
    with pytest.raises(ValueError, match="'IMAGENET1K_V2': name the model whose weights they are"):
        preprocessing("IMAGENET1K_V2")
    with pytest.raises(ValueError, match="does not say how images are prepared"):
        preprocessing(tmp_path / "w.pth")


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def published(monkeypatch, tmp_path) -> Iterator[dict[str, np.ndarray]]:
    """resnet18's weights on a server of this machine, in the table under their own hash; an empty cache."""
    pytest.importorskip("torch")
    (folder := tmp_path / "server").mkdir()
    rng = np.random.default_rng(0)
    shapes = torch_shapes(abstract_model("resnet18"))
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    write_weights(folder / "weights.pth", arrays)
    digest = hashlib.sha256((folder / "weights.pth").read_bytes()).hexdigest()
    (folder / "weights.pth").rename(folder / f"resnet18-{digest[:8]}.pth")
    entry = NamedWeights(f"resnet18-{digest[:8]}.pth", 0.0, 0.0)
    monkeypatch.setitem(NAMED_WEIGHTS, "resnet18", {"IMAGENET1K_V1": entry})
    monkeypatch.setenv("RESNEXT_JAX_CACHE", str(tmp_path / "cache"))
    handler = functools.partial(QuietHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(named_module, "BASE_URL", f"http://127.0.0.1:{server.server_port}/")
        yield arrays
        server.shutdown()
        thread.join()


def test_create_model_downloads_checks_and_caches(published, tmp_path, monkeypatch):
    model = create_model("resnet18", weights="DEFAULT")
    found = to_torch_state_dict(model)
    assert all(np.array_equal(found[name], array) for name, array in published.items())
    assert model.preprocessing == Preprocessing(224, resize_size=256)
    cached = list((tmp_path / "cache" / "weights").glob("*.pth"))
    assert [path.name for path in cached] == [NAMED_WEIGHTS["resnet18"]["IMAGENET1K_V1"].file]
    monkeypatch.setattr(named_module, "BASE_URL", "http://127.0.0.1:9/")
    create_model("resnet18", num_classes=5, weights="IMAGENET1K_V1", head="new")
    assert create_model("resnet18", num_classes=5).preprocessing is None

    # A run directory of named weights: their preprocessing, and the outputs' positions for classes.
    info = convert_to_run("DEFAULT", tmp_path / "run", model="resnet18")
    assert info.preprocessing == preprocessing(tmp_path / "run") == model.preprocessing
    assert info.classes[:3] == ("0", "1", "2")
    assert len(info.classes) == 1000


def test_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("RESNEXT_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(named_module, "BASE_URL", "http://127.0.0.1:9/")
    with pytest.raises(
        ConnectionError, match=r"resnet18-f37072fd\.pth: .*put the file at .*weights/resnet18-"
    ) as info:
        create_model("resnet18", weights="IMAGENET1K_V1")
    assert "\n" not in str(info.value)
