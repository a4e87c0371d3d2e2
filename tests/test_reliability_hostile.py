"""Files that somebody made to do harm: they are refused, nothing in them runs, nothing is written outside."""

import contextlib
import io
import json
import os
import shutil
import stat
import tarfile
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
from resnext_jax.runs import (
    Checkpoints,
    Damaged,
    ModelSpec,
    NotSaved,
    claim,
    read_best,
    read_spec,
    start,
    write_config,
    write_history,
)
from resnext_jax.runs.checkpoints import UNFINISHED
from resnext_jax.weights.files import read_file

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


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


TAR_MEMBERS = {
    "leaving": [member("../harm"), member("/tmp/../harm"), member("a/../../harm")],
    "links": [member("tensors", tarfile.SYMTYPE, "/etc"), member("tensors/harm")],
    "hard links": [member("storages", tarfile.LNKTYPE, "../../etc/passwd")],
    "devices": [
        member("pickle", tarfile.CHRTYPE),
        member("x", tarfile.BLKTYPE),
        member("y", tarfile.FIFOTYPE),
    ],
    "of torch": [member(name) for name in ("sys_info", "pickle", "storages", "tensors")],
}


@pytest.mark.parametrize("members", TAR_MEMBERS)
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2", "without its mark"])
@pytest.mark.parametrize("suffix", [".pth", ".tar", ".pth.tar"])
def test_tar_files_are_neither_read_nor_unpacked(tmp_path, members, mode, suffix):
    """Also where weights or a data set are expected that come as archives: torch's first files were tars."""
    path = tmp_path / "in" / f"w{suffix}"
    path.parent.mkdir()
    with tarfile.open(path, mode if mode.startswith("w:") else "w") as archive:
        for info in TAR_MEMBERS[members]:
            archive.addfile(info)
    if mode == "without its mark":  # as before POSIX
        path.write_bytes(path.read_bytes().replace(b"ustar", bytes(5)))
    with pytest.raises(BadInput, match=r"an archive; unpack it|damaged or incomplete|unknown kind of file"):
        read_file(path)
    for name in ("cifar10", "monkeypox/original"):
        with pytest.raises(BadInput, match=r"w\.|archive"):
            prepare_tfds(f"tfds:{name}", tmp_path / "sets", path)
    assert {file.name for file in tmp_path.rglob("*")} - {"sets"} == {"in", path.name}


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


@pytest.mark.parametrize("name", ["history.jsonl.partial", "config.json.partial", ".resnext_jax.lock"])
def test_links_in_a_run_are_not_written_through(run, tmp_path, name):
    """Files of a run that is given on: what it writes first would go to somebody else's file."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(precious)
    with contextlib.suppress(BadInput), claim(run, resume=True):
        write_history(run, [{"epoch": 1}])
        write_config(run, SPEC, {"data": "demo"})
    assert precious.read_text() == "mine"


def test_a_checkpoint_that_is_a_link_is_not_deleted_through_it(run, tmp_path):
    precious = tmp_path / "precious"
    shutil.copytree(run / "checkpoints" / "1", precious)
    for name in ("0", "2.replaced", f"3{UNFINISHED}"):
        (run / "checkpoints" / name).symlink_to(precious, target_is_directory=True)
    before = sorted(precious.rglob("*"))
    with contextlib.suppress(NotSaved), Checkpoints(run, write=True) as checkpoints:
        for step in (4, 5):
            model = {"params": {"w": np.ones(3, np.float32)}, "batch_stats": {}}
            checkpoints.save(step, model, {"step": np.int32(step)}, {"config": {}}, {"val_loss": 0.1})
    assert sorted(precious.rglob("*")) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are Unix's")
@pytest.mark.parametrize("kind", ["pipe", "device", "link in a circle", "folder", "link to a folder"])
def test_what_is_no_file_in_a_checkpoint_is_not_read(run, tmp_path, kind):
    """Each in the place of every file of a checkpoint: a pipe would be read for ever, Ctrl-C or not."""
    files = [path for path in (run / "checkpoints" / "1").rglob("*") if path.is_file()]
    assert len(files) > 8
    put = {
        "pipe": os.mkfifo,
        "device": lambda path: path.symlink_to("/dev/zero"),
        "link in a circle": lambda path: path.symlink_to(path),
        "folder": Path.mkdir,
        "link to a folder": lambda path: path.symlink_to(tmp_path, target_is_directory=True),
    }[kind]
    for path in files:
        kept = path.rename(tmp_path / "kept")
        put(path)
        with contextlib.suppress(Damaged):
            _, model, _ = read_best(run)
            np.testing.assert_array_equal(model["params"]["w"], np.ones((30, 30)))
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        kept.rename(path)
    assert read_best(run)[0] == 1


@pytest.mark.parametrize(
    "names", [["../../../precious"], ["/etc/passwd"], ["model/../../../x"], 3, [[]], {"model/a": "x"}]
)
def test_checksums_of_anything(run, names):
    seal = {name: [1, 2] for name in names} if isinstance(names, list) and names != [[]] else names
    (run / "checkpoints" / "1" / "checksums.json").write_text(json.dumps(seal))
    with contextlib.suppress(Damaged):
        read_best(run)


# What a checkpoint says of itself is read by who goes on with the run.
HANDLERS = [
    "",
    "[]",
    "[" * 100_000,
    '{"item_handlers": {"model": "os.system", "meta": "resnext_jax.cli.main"}}',
    '{"item_handlers": 3, "metrics": "x", "init_timestamp_nsecs": "soon"}',
    '{"metrics": {"val_loss": "low"}, "custom_metadata": {"__reduce__": "os.system"}}',
]


@pytest.mark.parametrize("content", HANDLERS)
@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "../_CHECKPOINT_METADATA", "../_ROOT_METADATA"])
def test_what_orbax_says_of_a_checkpoint_is_not_believed(run, name, content):
    (run / "checkpoints" / "1" / name).write_text(content)
    with Checkpoints(run, write=True) as checkpoints:
        model = {"params": {"w": np.ones((30, 30), np.float32)}, "batch_stats": {}}
        assert checkpoints.resume(model, {"step": np.int32(0)})[0] == 1
        checkpoints.save(2, model, {"step": np.int32(2)}, {"config": {}}, {"val_loss": 0.1, "val_top1": 0.9})
    assert read_best(run)[0] == 2


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
