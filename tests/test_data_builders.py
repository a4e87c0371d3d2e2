"""Published archives are prepared as TFDS directories, downloaded or by hand, whole or not at all."""

import contextlib
import hashlib
import http.server
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from resnext_jax.data import Preprocessing, load_images, open_dataset, prepare_tfds

tfds = pytest.importorskip("tensorflow_datasets")

from resnext_jax.data.builders import cifar10  # noqa: E402 (needs TFDS)

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def cifar_records():
    """{file: [n, 3073] bytes}, as in the binary archive: label, then red, green and blue planes."""
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    records = {name: RNG.integers(0, 256, (20, 3073), dtype=np.uint8) for name in names}
    for values in records.values():
        values[:, 0] = np.arange(20) % 10
    return records


@pytest.fixture
def cifar_archive(tmp_path, cifar_records, monkeypatch):
    """A small archive that takes the place of the published one."""
    path = tmp_path / "published" / "cifar-10-binary.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        for name, records in {**cifar_records, "readme.html": np.zeros(3, np.uint8)}.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = records.nbytes
            archive.addfile(member, io.BytesIO(records.tobytes()))
    publish(monkeypatch, path)
    return path


def publish(monkeypatch, path, url="http://127.0.0.1:9/cifar-10-binary.tar.gz", **changes):
    data = path.read_bytes()
    published = cifar10.PublishedFile(url, len(data), hashlib.sha256(data).hexdigest(), path.name)
    monkeypatch.setattr(cifar10, "published_archive", lambda: published._replace(**changes))


@contextlib.contextmanager
def serve(path, *, cut_after=None):
    """A web server with one file; the connection may break after some bytes."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path != f"/{path.name}":
                self.send_error(404)
                return
            data = path.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[:cut_after])

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/{path.name}"
    finally:
        server.shutdown()
        server.server_close()


def check_cifar(data_dir, records):
    dataset = open_dataset("tfds:cifar10", data_dir=data_dir)
    assert dataset.classes[0] == "airplane"
    assert dataset.classes[9] == "truck"
    for source, split, names in (
        (dataset.train, "train", [name for name in records if name.startswith("data")]),
        (dataset.test, "test", ["test_batch.bin"]),
    ):
        expected = np.concatenate([records[name] for name in names])
        images = load_images(source, Preprocessing(image_size=32), budget_bytes=1 << 24)
        assert sorted(images.keys) == [f"{split}/{split}_{i:05d}" for i in range(len(expected))]
        order = [int(key[-5:]) for key in images.keys]
        np.testing.assert_array_equal(images.labels, expected[order, 0])
        planes = expected[order, 1:].reshape(-1, 3, 32, 32)
        np.testing.assert_array_equal(images.gather(np.arange(len(order))), planes.transpose(0, 2, 3, 1))


def test_what_tfds_lists_is_the_binary_archive():
    published = cifar10.published_archive()
    assert published.url.endswith("/cifar-10-binary.tar.gz")
    assert published.size == 170_052_171
    assert len(published.sha256) == 64


def test_cifar10_by_download(tmp_path, cifar_archive, cifar_records, monkeypatch):
    with serve(cifar_archive) as url:
        publish(monkeypatch, cifar_archive, url)
        prepared = prepare_tfds("tfds:cifar10", tmp_path / "sets")
    assert prepared == tmp_path / "sets" / "cifar10" / "3.0.2"
    check_cifar(tmp_path / "sets", cifar_records)
    # Prepared already: nothing is fetched, the server is gone.
    shutil.rmtree(tmp_path / "sets" / "downloads")
    assert prepare_tfds("cifar10", tmp_path / "sets") == prepared


def test_cifar10_from_a_given_archive(tmp_path, cifar_archive, cifar_records):
    prepare_tfds("tfds:cifar10", tmp_path / "sets", cifar_archive)
    check_cifar(tmp_path / "sets", cifar_records)


def test_prepared_cifar10_has_tfds_own_features(tmp_path, cifar_archive):
    directory = prepare_tfds("tfds:cifar10", tmp_path / "sets", cifar_archive)
    info = tfds.builder_from_directory(directory).info
    assert str(info.version) == "3.0.2"
    assert info.features["image"].shape == (32, 32, 3)
    assert info.features["label"].num_classes == 10
    assert info.supervised_keys == ("image", "label")
    example = tfds.data_source("cifar10", split="test", data_dir=tmp_path / "sets")[0]
    assert set(example) == {"id", "image", "label"}
    assert example["image"].shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("problem", "error", "message"),
    [
        ({"sha256": "0" * 64}, ValueError, "SHA-256"),
        (
            {"url": "http://127.0.0.1:9/x.tar.gz"},
            ConnectionError,
            "cannot download http://127.0.0.1:9/x.tar.gz",
        ),
        ("absent", ConnectionError, "404"),
        ("cut", ConnectionError, "cut after 1,000 of"),
    ],
)
def test_downloads_that_fail_leave_nothing(tmp_path, cifar_archive, monkeypatch, problem, error, message):
    with serve(cifar_archive, cut_after=1000 if problem == "cut" else None) as url:
        changes = problem if isinstance(problem, dict) else {}
        url += "x" if problem == "absent" else ""
        publish(monkeypatch, cifar_archive, **{"url": url, **changes})
        with pytest.raises(error, match=message) as caught:
            prepare_tfds("tfds:cifar10", tmp_path / "sets")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "sets").rglob("3.0.2*"))
    assert not (tmp_path / "sets" / "downloads" / cifar_archive.name).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data + b"x", "bytes, expected"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "its SHA-256 is"),
    ],
)
def test_another_archive_is_refused(tmp_path, cifar_archive, change, message):
    other = tmp_path / "other.tar.gz"
    other.write_bytes(change(cifar_archive.read_bytes()))
    with pytest.raises(ValueError, match=message):
        prepare_tfds("tfds:cifar10", tmp_path / "sets", other)
    with pytest.raises(FileNotFoundError, match="does not exist: expected cifar-10-binary"):
        prepare_tfds("tfds:cifar10", tmp_path / "sets", tmp_path / "none")
    assert not list((tmp_path / "sets").rglob("3.0.2*"))


def save(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5, 4), (value, 0, 0)).save(path, "PNG")


def monkeypox_archive(root):
    """The published folders in small: two patients a class, one of them with two photos."""
    names = ("Monkey Pox", "Monkeypox_augmented", "M"), ("Others", "Others_augmented", "NM")
    for original, augmented, prefix in names:
        for number, photo in enumerate(("01_01", "01_02", "02_01")):
            save(root / "Original Images/Original Images" / original / f"{prefix}{photo}.jpg", number)
            save(root / "Fold1/Fold1/Fold1/Test" / original.replace(" ", "") / f"{prefix}{photo}.jpg", 99)
            for copy in range(2):
                folder = root / "Augmented Images/Augmented Images" / augmented
                save(folder / f"{prefix}{photo}_{copy:02d}.jpg", 10 * number + copy)
    (root / "Monkeypox_Dataset_metadata.csv").write_text("ImageID,Label\n")
    save(root / "__MACOSX/Original Images/Others/NM01_01.jpg", 99)
    return root


def zipped(root):
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in root.rglob("*"):
            archive.write(file, file.relative_to(root))
    return path


@pytest.mark.parametrize("form", ["zip", "folder"])
@pytest.mark.parametrize(("config", "count"), [("original", 6), ("augmented", 12)])
def test_monkeypox(tmp_path, form, config, count):
    root = monkeypox_archive(tmp_path / "archive")
    given = zipped(root) if form == "zip" else root
    prepared = prepare_tfds(f"tfds:monkeypox/{config}", tmp_path / "sets", given)
    assert prepared == tmp_path / "sets" / "monkeypox" / config / "1.0.0"
    dataset = open_dataset(f"tfds:monkeypox/{config}", data_dir=tmp_path / "sets", group_by=r"^(N?M\d+)_")
    assert dataset.classes == ("Monkeypox", "Others")
    everything = dataset.split("all")
    assert np.bincount(everything.labels).tolist() == [count // 2] * 2
    patients = [{key.split("/")[1].split("_")[0] for key in s.keys} for s in (dataset.train, dataset.val)]
    assert sorted(patients[0] | patients[1]) == ["M01", "M02", "NM01", "NM02"]
    assert not patients[0] & patients[1]
    examples = tfds.builder_from_directory(prepared).as_data_source(split="train")
    by_name = {example["file_name"].decode(): example for example in examples}
    name = "NM02_01.jpg" if config == "original" else "NM02_01_01.jpg"
    assert (by_name[name]["patient"], by_name[name]["photo"]) == (b"NM02", b"NM02_01")
    assert by_name[name]["label"] == 1
    assert by_name[name]["image"][0, 0].tolist() == [2 if config == "original" else 21, 0, 0]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["Monkeypox/M01_01.jpg"], "holds no original image of Others"),
        (
            ["a.jpg"],
            "no original image of Monkeypox and Others: expected folders such as 'Original Images/Monk",
        ),
        (
            ["Augmented Images/Monkeypox/M01_01_1.jpg", "Augmented Images/Others/M1_1_1.jpg"],
            "no original image",
        ),
        (["Monkeypox/M01_01.jpg", "Others/holiday.jpg"], r"Others/holiday.jpg in .* expected a name such as"),
    ],
)
def test_folders_that_are_not_monkeypox(tmp_path, files, message):
    for file in files:
        save(tmp_path / "archive" / file, 0)
    with pytest.raises(ValueError, match=message):
        prepare_tfds("tfds:monkeypox/original", tmp_path / "sets", tmp_path / "archive")
    assert not list((tmp_path / "sets").rglob("1.0.0*"))


def test_a_damaged_image_stops_the_preparation(tmp_path):
    root = monkeypox_archive(tmp_path / "archive")
    path = root / "Original Images/Original Images/Others/NM02_01.jpg"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"Others/NM02_01\.jpg in "):
        prepare_tfds("tfds:monkeypox/original", tmp_path / "sets", zipped(root))
    assert not list((tmp_path / "sets").rglob("*1.0.0*"))


def test_archives_that_are_none(tmp_path):
    with pytest.raises(ValueError, match=r"get the archive from https://.*archive="):
        prepare_tfds("tfds:monkeypox/original", tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        prepare_tfds("tfds:monkeypox/original", tmp_path, tmp_path / "none.zip")
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(ValueError, match="neither a zip file nor a folder"):
        prepare_tfds("tfds:monkeypox/original", tmp_path, tmp_path / "text.zip")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tfds:mnist", "expected one of cifar10, monkeypox"),
        ("tfds:monkeypox", r"expected tfds:monkeypox/\{augmented,original\}"),
        ("tfds:monkeypox/other", r"expected tfds:monkeypox/\{augmented,original\}"),
        ("tfds:cifar10/plain", "no config of cifar10: expected tfds:cifar10"),
        ("tfds:cifar10:1.0.0", r"only version 3\.0\.2 can"),
    ],
)
def test_names_that_cannot_be_prepared(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        prepare_tfds(name, tmp_path)


def test_an_incomplete_directory_of_that_name(tmp_path, cifar_archive):
    (tmp_path / "cifar10" / "3.0.2").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"3\.0\.2 exists but is incomplete: delete it"):
        prepare_tfds("tfds:cifar10", tmp_path, cifar_archive)


# Prepares a data set and says so halfway, where it waits.
PREPARE_HALF = """
import signal, sys, time
from pathlib import Path
from resnext_jax.data import prepare_tfds
from resnext_jax.data.builders import monkeypox

decode, first = monkeypox.decode, iter(range(20))

def wait_halfway(data, name):
    if next(first, None) is None:
        Path(sys.argv[3]).touch()
        time.sleep(60)
    return decode(data, name)

monkeypox.decode = wait_halfway
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
prepare_tfds("monkeypox/original", Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_preparation_can_be_repeated(tmp_path, kill):
    root = tmp_path / "archive"
    for number in range(40):
        save(root / ("Monkeypox" if number % 2 else "Others") / f"M{number}_1.png", number)
    process = subprocess.Popen(
        [sys.executable, "-c", PREPARE_HALF, *map(str, (tmp_path / "sets", root, tmp_path / "half"))],
        stderr=subprocess.DEVNULL,
    )
    final = tmp_path / "sets" / "monkeypox" / "original" / "1.0.0"
    while process.poll() is None and not (tmp_path / "half").exists():
        time.sleep(0.005)
    assert process.poll() is None
    assert list(final.parent.glob("incomplete*"))
    os.kill(process.pid, kill)
    process.wait(timeout=30)
    assert not final.exists()
    with pytest.raises(FileNotFoundError, match="is not prepared"):
        open_dataset("tfds:monkeypox/original", data_dir=tmp_path / "sets")
    assert prepare_tfds("monkeypox/original", tmp_path / "sets", root) == final
    assert len(open_dataset("tfds:monkeypox/original", data_dir=tmp_path / "sets").split("all")) == 40


@pytest.mark.needs_data
def test_monkeypox_from_a_plain_folder(tmp_path, shared_data):
    prepare_tfds("monkeypox/augmented", tmp_path, shared_data / "monkeypox")
    by_tfds = open_dataset("tfds:monkeypox", data_dir=tmp_path, group_by=r"^(N?M\d+)_")
    by_folder = open_dataset(str(shared_data / "monkeypox"), group_by=r"^(N?M\d+)_")
    names = [{key.rsplit("/", 1)[1] for key in dataset.val.keys} for dataset in (by_tfds, by_folder)]
    assert names[0] == names[1]
