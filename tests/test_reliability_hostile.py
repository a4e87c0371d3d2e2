"""Files that somebody made to do harm: they are refused, nothing in them runs, nothing is written outside."""

import contextlib
import io
import json
import stat
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnext_jax.cli.log import log_to_stderr
from resnext_jax.data import Preprocessing, decode, prepare_tfds
from resnext_jax.errors import BadInput
from resnext_jax.models import ResNetConfig
from resnext_jax.runs import Checkpoints, Damaged, ModelSpec, claim, read_best, read_spec, start

SPEC = ModelSpec("small", ResNetConfig("basic", (1,), stem="cifar"), ("a", "b"), Preprocessing(32))


def jpeg(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(out, "JPEG")
    return out.getvalue()


def archive_of(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip file of the monkeypox data set with further members."""
    whole = {f"{name}/{letter}01_01.jpg": jpeg(9) for name, letter in (("Monkeypox", "M"), ("Others", "NM"))}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in (whole | members).items():
            archive.writestr(name, data)
    return path


def test_members_that_leave_their_folder_stay_in_the_archive(tmp_path):
    outside = ["../../Others/M02_01.jpg", "/Others/M02_02.jpg", "..\\Others/M02_03.jpg"]
    path = archive_of(tmp_path / "a.zip", dict.fromkeys(outside, jpeg(7)))
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("Monkeypox/M03_01.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    sets = tmp_path / "deep" / "sets"
    with pytest.raises(BadInput, match="not an image"):  # the text of the link
        prepare_tfds("tfds:monkeypox/original", sets, path)
    prepare_tfds(
        "tfds:monkeypox/original", sets, archive_of(tmp_path / "b.zip", dict.fromkeys(outside, jpeg(7)))
    )
    assert {file.name for file in tmp_path.iterdir()} == {"a.zip", "b.zip", "deep"}
    assert not Path("/Others").exists()
    assert {file.name for file in sets.parent.iterdir()} == {"sets"}


def test_members_that_unpack_to_far_more_than_a_photo(tmp_path):
    path = archive_of(tmp_path / "a.zip", {"Others/NM02_01.jpg": bytes((1 << 28) + 1)})
    assert path.stat().st_size < 1 << 20
    with pytest.raises(BadInput, match=r"NM02_01\.jpg in .* 268,435,457 bytes, of no photo"):
        prepare_tfds("tfds:monkeypox/original", tmp_path / "sets", path)


def test_a_member_with_a_wrong_checksum(tmp_path):
    path = archive_of(tmp_path / "a.zip", {}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.find(b"JFIF") + 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadInput, match=r"M01_01\.jpg in .*cannot be unpacked: Bad CRC-32"):
        prepare_tfds("tfds:monkeypox/original", tmp_path / "sets", path)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF", "WEBP"])
def test_images_that_expand_to_far_more(kind, monkeypatch):
    """By their header, before anything is decoded."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    out = io.BytesIO()
    Image.new("L", (60, 40)).save(out, kind)
    with pytest.raises(BadInput, match="more than the 2000 pixels that are accepted"):
        decode(out.getvalue(), "bomb")


def test_pillows_warnings_are_not_shown():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        log_to_stderr()
        warnings.warn_explicit("odd", UserWarning, "Image.py", 1, module="PIL.Image")
        warnings.warn_explicit("ours", UserWarning, "x.py", 1, module="x")
    assert [str(warning.message) for warning in caught] == ["ours"]


@pytest.mark.parametrize("factory", ["os:system", "resnext_jax.cli:main", "x" * 5000, "../evil:run", ""])
def test_a_factory_in_a_configuration_is_not_imported(tmp_path, factory):
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    start(tmp_path / "run", SPEC, {"data": "demo"})
    file = tmp_path / "run" / "config.json"
    values = json.loads(file.read_text())
    values["model"]["architecture"] = {"factory": factory}
    file.write_text(json.dumps(values))
    with pytest.raises(BadInput, match="was registered by the program that trained it"):
        read_spec(tmp_path / "run")


def test_configurations_without_end(tmp_path):
    for text in ("[" * 200_000, '{"a":' * 200_000, "1" * 10_000_000):
        start(tmp_path, SPEC, {"data": "demo"})
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(BadInput, match=r"config\.json"):
            read_spec(tmp_path)


@pytest.fixture
def run(tmp_path) -> Path:
    directory = tmp_path / "run"
    start(directory, SPEC, {"data": "demo"})
    with Checkpoints(directory, write=True) as checkpoints:
        model = {"params": {"w": np.ones((30, 30), np.float32)}, "batch_stats": {}}
        meta = SPEC.to_dict() | {"config": {"data": "demo"}}
        checkpoints.save(1, model, {"step": np.int32(1)}, meta, {"val_loss": 1.0, "val_top1": 0.5})
    (directory / "checkpoints" / "1" / "checksums.json").unlink()  # as who makes a checkpoint may do
    return directory


def test_links_in_a_run_lead_to_nothing_that_is_removed(run, tmp_path):
    """A run whose folders are links: a run that takes its place removes the links."""
    precious = tmp_path / "precious"
    (run / "checkpoints").rename(precious)
    (run / "checkpoints").symlink_to(precious, target_is_directory=True)
    (run / "history.csv").symlink_to(tmp_path / "rows.csv")
    (tmp_path / "rows.csv").write_text("mine")
    with claim(run, overwrite=True):
        start(run, SPEC, {"data": "demo"})
    assert (precious / "1" / "model").is_dir()
    assert (tmp_path / "rows.csv").read_text() == "mine"
    assert not (run / "checkpoints").exists()


@pytest.mark.parametrize(
    "names", [["../../../precious"], ["/etc/passwd"], ["model/../../../x"], 3, [[]], {"model/a": "x"}]
)
def test_checksums_of_anything(run, names):
    seal = {name: [1, 2] for name in names} if isinstance(names, list) and names != [[]] else names
    (run / "checkpoints" / "1" / "checksums.json").write_text(json.dumps(seal))
    with contextlib.suppress(Damaged):
        read_best(run)


ORBAX = {
    "_METADATA": ["", "[]", "{}", '{"tree_metadata": 3}', "[" * 100_000, "\0\xff"],
    "_sharding": ["", "[]", "{}", '{"cGFyYW1zLnc=": "x"}'],
    "manifest.ocdbt": ["", "x" * 100, "\0" * 4096],
}


@pytest.mark.parametrize(("name", "content"), [(k, v) for k, values in ORBAX.items() for v in values])
def test_folders_of_orbax_that_say_anything(run, name, content):
    for file in (run / "checkpoints" / "1" / "model").rglob(name):
        file.write_text(content, encoding="latin-1")
    with contextlib.suppress(Damaged):
        _, model, _ = read_best(run)
        np.testing.assert_array_equal(model["params"]["w"], np.ones((30, 30)))
