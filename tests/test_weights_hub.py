"""The hub and its folders: timm's table and models, and a server of this machine in the hub's place."""

import functools
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from resnext_jax.data import Preprocessing
from resnext_jax.errors import BadInput
from resnext_jax.inference import convert_to_run
from resnext_jax.models import VARIANTS, abstract_model
from resnext_jax.weights import create_model, identify, timm_weights, write_hub_folder
from resnext_jax.weights.state_dict import torch_shapes

CLASSES = ("circle", "square", "disc")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {
    "architecture": "resnet18",
    "num_classes": 3,
    "pretrained_cfg": {
        "input_size": [3, 32, 32],
        "test_input_size": [3, 64, 64],
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "test_crop_pct": 1.0,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "label_names": list(CLASSES),
        "license": "cc-by-nc-4.0",
    },
}
PREPARE = Preprocessing(64, 64, "crop", "bicubic", (0.5,) * 3, (0.25,) * 3)


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = torch_shapes(abstract_model("resnet18", num_classes=3))
    return {name: rng.uniform(0.01, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def folder(arrays, tmp_path) -> Path:
    (folder := tmp_path / "folder").mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")
    return folder


@pytest.fixture
def timm(torchvision):
    return pytest.importorskip("timm")


def test_the_table_is_timms(timm):
    from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, list_models

    table = timm_weights()
    assert sorted(table) == sorted(list_models(module="resnet"))
    for model, tags in table.items():
        theirs = {c.tag: c for c in get_arch_pretrained_cfgs(model).values() if c.hf_hub_id}
        assert set(tags) == set(theirs)
        if tags:
            assert next(iter(tags)) == get_pretrained_cfg(model).tag
        for tag, entry in tags.items():
            size = theirs[tag].test_input_size or theirs[tag].input_size
            assert entry.repository == theirs[tag].hf_hub_id
            found = entry.classes, entry.image_size, entry.license
            assert found == (theirs[tag].num_classes, size[-1], theirs[tag].license)


def test_a_folder_of_the_hub(folder, tmp_path):
    found = identify(folder)
    assert (found.name, found.description.classes) == ("resnet18", CLASSES)
    model = create_model("resnet18", weights=folder)
    assert (model.fc.out_features, model.preprocessing) == (3, PREPARE)
    spec = convert_to_run(folder, tmp_path / "run")
    assert (spec.classes, spec.preprocessing) == (CLASSES, PREPARE)
    with pytest.raises(BadInput, match="weights of resnet18, not of resnet34"):
        create_model("resnet34", weights=folder)
    (folder / "config.json").write_text(json.dumps(CONFIG | {"architecture": "resnest50d"}))
    with pytest.raises(BadInput, match="weights of resnest50d, which is no model here"):
        identify(folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_timm_loads_what_we_write(timm, folder, tmp_path, dtype):
    import torch

    convert_to_run(folder, tmp_path / "run")
    write_hub_folder(tmp_path / "run", tmp_path / "out", dtype=dtype, license="apache-2.0")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    ours = create_model("resnet18", weights=tmp_path / "out")
    ours.eval()
    images = np.random.default_rng(1).normal(size=(2, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(ours(images), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    told = timm.data.resolve_model_data_config(theirs)
    assert (*told["input_size"], told["crop_pct"], *told["mean"]) == (3, 64, 64, 1.0, 0.5, 0.5, 0.5)
    assert theirs.pretrained_cfg["label_names"] == list(CLASSES)
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n")


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does: metadata by HEAD, a hash as ETag, its codes for what is not there.

    Weights lie with another server (/cdn), which sends the rest of a file when it is asked for it.
    """

    def __init__(self, folder: Path, broken: set[str], cut: list[int], ranges: list[str], *args: object):
        self.folder, self.broken, self.cut, self.ranges = folder, broken, cut, ranges
        super().__init__(*args)

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        owner, name, *rest = self.path.strip("/").split("/")
        if "private" in name:
            return self.refuse(401, "RepoNotFound")
        if "gated" in name:
            return self.refuse(401, "GatedRepo")
        if owner == "gone":
            return self.refuse(404, "RepoNotFound")
        path = self.folder.joinpath(*rest[-1:])
        if not path.is_file():
            return self.refuse(404, "EntryNotFound")
        data = path.read_bytes()
        etag = hashlib.sha256(data).hexdigest()
        if path.name in self.broken:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if path.suffix == ".safetensors" and owner != "cdn":
            self.send_response(302)
            self.send_header("Location", f"http://{self.headers['Host']}/cdn/{name}/{path.name}")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-Etag", f'"{etag}"')
            self.send_header("X-Linked-Size", str(len(data)))
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if owner == "cdn" and body:
            return self.send_from(data, self.headers["Range"] or "")
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Linked-Etag", f'"{etag}"')
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def send_from(self, data: bytes, wanted: str) -> None:
        start = int(wanted.removeprefix("bytes=").split("-")[0] or 0)
        self.ranges.append(wanted)
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start : self.cut.pop() if self.cut else None])

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def cut() -> list[int]:
    """Where the next transfers of weights end too early, the last first."""
    return []


@pytest.fixture
def ranges() -> list[str]:
    """The header Range of every transfer of weights so far."""
    return []


@pytest.fixture
def hub(folder, cut, ranges, tmp_path, monkeypatch) -> Iterator[set[str]]:
    """The folder as every repository of the hub but some; gives the names of files to be damaged."""
    constants = pytest.importorskip("huggingface_hub.constants")
    broken: set[str] = set()
    handler = functools.partial(Hub, folder, broken, cut, ranges)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        yield broken
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["timm/resnet18.a1_in1k", "hf-hub:someone/theirs", "someone/theirs@main"])
def test_weights_of_the_hub(hub, arrays, name, caplog):
    model = create_model("resnet18", weights=name)
    assert (model.fc.out_features, model.preprocessing) == (3, PREPARE)
    np.testing.assert_array_equal(model.bn1.mean[...], arrays["bn1.running_mean"])
    assert "licence cc-by-nc-4.0: not for commercial use" in caplog.text


def test_timms_names_with_tags(hub):
    for options in ({"name": "resnet18.a1_in1k"}, {"name": "resnet18", "weights": "a1_in1k"}):
        assert create_model(**options).preprocessing == PREPARE
    with pytest.raises(BadInput, match=r"resnet18 has no weights of that name; it has .*a1_in1k"):
        create_model("resnet18.a9_in1k")
    with pytest.raises(BadInput, match="stands for weights already"):
        create_model("resnet18.a1_in1k", weights="a2_in1k")


def test_what_the_hub_refuses(hub, folder, monkeypatch):
    for name in ("gone/model", "someone/private"):
        with pytest.raises(BadInput, match="no such repository on the hub, or a private one"):
            create_model("resnet18", weights=name)
    hub.add("model.safetensors")
    with pytest.raises(BadInput, match="has another hash than the hub says"):
        create_model("resnet18", weights="someone/theirs")
    hub.clear()
    create_model("resnet18", weights="someone/theirs")  # what was damaged is not kept
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    create_model("resnet18", weights="someone/theirs")  # from the cache
    with pytest.raises(ConnectionError, match=r"offline mode is on .*hf download someone/else"):
        create_model("resnet18", weights="someone/else")


def test_gated_weights_tell_how_to_log_in(hub):
    with pytest.raises(BadInput, match=r"who accepted its terms.*\(hf auth login\) or set HF_TOKEN"):
        create_model("resnet18", weights="someone/gated")


def test_a_cut_transfer_goes_on_where_it_was_cut(hub, arrays, cut, ranges, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)  # the hub's package waits a second before it goes on
    cut.append(25_000_000)
    model = create_model("resnet18", weights="someone/theirs")
    np.testing.assert_array_equal(model.bn1.mean[...], arrays["bn1.running_mean"])
    whole, rest = ranges
    start = int(rest.removeprefix("bytes=").split("-")[0])
    assert (whole, 0 < start <= 25_000_000) == ("", True)


def test_a_half_downloaded_file_is_never_used(hub, arrays, cut, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    cut += [1_000_000] * 20  # more often than the hub's package tries again
    with pytest.raises(ConnectionError, match=r"cannot fetch model.safetensors of someone.*try again"):
        create_model("resnet18", weights="someone/theirs")
    constants = pytest.importorskip("huggingface_hub.constants")
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(ConnectionError, match=r"it is not in the cache.*hf download someone/theirs"):
            create_model("resnet18", weights="someone/theirs")
    cut.clear()
    model = create_model("resnet18", weights="someone/theirs")
    np.testing.assert_array_equal(model.bn1.mean[...], arrays["bn1.running_mean"])


def test_the_models_of_the_table_are_timms_or_ours():
    assert {"resnet18", "resnext50_32x4d", "resnext101_32x8d"} <= timm_weights().keys() & VARIANTS.keys()
