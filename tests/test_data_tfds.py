"""Prepared TFDS directories are read without TensorFlow; what is missing or wrong is said in one line."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from resnext_jax.data import Preprocessing, load_images, open_dataset
from resnext_jax.data.tfds import TfdsName, TfdsSource

tfds = pytest.importorskip("tensorflow_datasets")

RNG = np.random.default_rng(0)


def encode(value, format="PNG", **options):
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), (value, 0, 0)).save(stream, format, **options)
    stream.seek(0)
    return stream


def write(data_dir, splits, features=None, version="1.0.0", config=None):
    """Prepare a small data set of no known builder: {split: number of images}, image i of class i % 2."""
    features = features or {
        "image": tfds.features.Image(),
        "label": tfds.features.ClassLabel(names=["cat", "dog"]),
        "file_name": tfds.features.Text(),
    }

    class Pets(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(count) for split, count in splits.items()}

        def _generate_examples(self, count):
            exif = Image.Exif()
            exif[0x0112] = 6  # lies on its side
            values = {
                "image": lambda i: encode(i, exif=exif),
                "label": lambda i: i % 2,
                "file_name": lambda i: f"P{i // 4}_{i}.png",
                "species": lambda i: i % 2,
            }
            for i in range(count):
                yield i, {name: values.get(name, values["image"])(i) for name in features}

    Pets.name = "pets"
    builder = Pets(data_dir=str(data_dir), config=config, file_format="array_record")
    builder.download_and_prepare()
    return data_dir


def test_images_of_an_unknown_data_set_arrive_upright(tmp_path):
    dataset = open_dataset("tfds:pets", data_dir=write(tmp_path, {"train": 12, "validation": 4, "test": 6}))
    assert dataset.name == "tfds:pets"
    assert dataset.classes == ("cat", "dog")
    assert [len(s) for s in (dataset.train, dataset.val, dataset.test)] == [12, 4, 6]
    source = dataset.train
    assert sorted(source.keys) == sorted(f"train/P{i // 4}_{i}.png" for i in range(12))
    images = load_images(source, Preprocessing(image_size=6), budget_bytes=1 << 20)
    assert images.keys == list(source.keys)
    np.testing.assert_array_equal(images.labels, source.labels)
    for i, key in enumerate(source.keys):
        number = int(key.split("_")[1].removesuffix(".png"))
        assert source[i]["label"] == source.labels[i] == number % 2
        assert images.gather([i])[0, 0, 0].tolist() == [number, 0, 0]
    from resnext_jax.data.images import decode

    assert decode(source[0]["image"], "x").shape == (8, 6, 3)  # stored 6 x 8, turned upright


def test_train_and_test_only_validates_on_test(tmp_path):
    dataset = open_dataset("tfds:pets", data_dir=write(tmp_path, {"train": 12, "test": 6}))
    assert dataset.val is dataset.test
    with pytest.raises(ValueError, match="already divided into train and test"):
        open_dataset("tfds:pets", data_dir=tmp_path, group_by="(.)").split("train")


def test_train_alone_is_divided_by_group(tmp_path):
    write(tmp_path, {"train": 40})
    dataset = open_dataset("tfds:pets", data_dir=tmp_path)
    assert (len(dataset.train), len(dataset.val)) == (32, 8)
    dataset = open_dataset("tfds:pets", data_dir=tmp_path, group_by=r"^(P\d)_", val_fraction=0.3)
    groups = [{key.split("/")[1][:2] for key in s.keys} for s in (dataset.train, dataset.val)]
    assert len(dataset.val) == 12
    assert not groups[0] & groups[1]


def test_label_of_another_name_and_no_names_at_all(tmp_path):
    features = {
        "image": tfds.features.Image(),
        "mask": tfds.features.Image(),
        "species": tfds.features.ClassLabel(num_classes=2),
    }
    dataset = open_dataset("tfds:pets", data_dir=write(tmp_path, {"test": 3}, features))
    assert dataset.classes == ("0", "1")
    assert list(dataset.split("test").keys) == ["test/0", "test/1", "test/2"]
    assert dataset.train is None


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"image": tfds.features.Image()}, "has 0 ClassLabel features and none called label"),
        ({"label": tfds.features.ClassLabel(num_classes=2)}, "has 0 Image features and none called image"),
        (
            {
                "left": tfds.features.Image(),
                "right": tfds.features.Image(),
                "label": tfds.features.ClassLabel(num_classes=2),
            },
            "has 2 Image features and none called image: expected one among .*left, .*right",
        ),
    ],
)
def test_without_image_or_label(tmp_path, features, message):
    write(tmp_path, {"train": 4}, features)
    with pytest.raises(ValueError, match=message):
        open_dataset("tfds:pets", data_dir=tmp_path)


def test_splits_of_other_names(tmp_path):
    write(tmp_path, {"extra": 4})
    with pytest.raises(ValueError, match="no split that is used: it has extra, expected some of train"):
        open_dataset("tfds:pets", data_dir=tmp_path)


def test_the_newest_version_unless_one_is_named(tmp_path):
    for version, count in (("1.0.0", 4), ("1.10.0", 6), ("1.9.0", 8)):
        write(tmp_path, {"train": count, "test": 2}, version=version)
    assert len(open_dataset("tfds:pets", data_dir=tmp_path).train) == 6
    assert len(open_dataset("tfds:pets:1.9.0", data_dir=tmp_path).train) == 8
    with pytest.raises(
        FileNotFoundError, match=r"is version 1\.0\.0, 1\.9\.0, 1\.10\.0, not 2\.0\.0: prepare"
    ):
        open_dataset("tfds:pets:2.0.0", data_dir=tmp_path)


def test_configs(tmp_path):
    write(tmp_path, {"train": 4, "test": 2}, config="small")
    assert len(open_dataset("tfds:pets", data_dir=tmp_path).train) == 4
    write(tmp_path, {"train": 6, "test": 2}, config="large")
    assert len(open_dataset("tfds:pets/large", data_dir=tmp_path).train) == 6
    with pytest.raises(ValueError, match=r"several configs: name one, tfds:pets/\{large,small\}"):
        open_dataset("tfds:pets", data_dir=tmp_path)


def test_not_prepared(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        open_dataset("tfds:cifar10", data_dir=tmp_path)
    assert f"prepare it: prepare_tfds('tfds:cifar10', '{tmp_path}')" in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"prepare_tfds\('tfds:monkeypox/original'"):
        open_dataset("tfds:monkeypox/original", data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="tfds build NAME"):
        open_dataset("tfds:mnist", data_dir=tmp_path)


def test_another_version_of_a_data_set_that_we_build(tmp_path):
    write(tmp_path, {"train": 4}, version="3.0.1")
    (tmp_path / "pets").rename(tmp_path / "cifar10")
    with pytest.raises(FileNotFoundError, match=r"is version 3\.0\.1, not 3\.0\.2: prepare it: prepare_tfds"):
        open_dataset("tfds:cifar10", data_dir=tmp_path)


def test_another_file_format(tmp_path):
    directory = write(tmp_path, {"train": 4}) / "pets" / "1.0.0" / "dataset_info.json"
    info = json.loads(directory.read_text())
    directory.write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
    with pytest.raises(ValueError, match="holds tfrecord files: expected array_record"):
        open_dataset("tfds:pets", data_dir=tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: next(path.glob("*.array_record-*")).unlink(),
        lambda path: os.truncate(next(path.glob("*.array_record-*")), 70_000),
        lambda path: (path / "dataset_info.json").write_text("{"),
        lambda path: (path / "features.json").unlink(),
    ],
)
def test_damaged_files(tmp_path, damage):
    damage(write(tmp_path, {"train": 400}) / "pets" / "1.0.0")
    with pytest.raises(
        ValueError, match=r"pets/1\.0\.0 is damaged: delete it and prepare it again"
    ) as caught:
        open_dataset("tfds:pets", data_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_damage_between_the_first_record_and_the_last(tmp_path):
    path = next((write(tmp_path, {"train": 4000}) / "pets" / "1.0.0").glob("*.array_record-*"))
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(5000))
    with pytest.raises(ValueError, match=r"pets/1\.0\.0 is damaged: delete it and prepare it again"):
        _ = open_dataset("tfds:pets", data_dir=tmp_path).train.labels


@pytest.mark.parametrize("name", ["", "a/b/c", "/x", "a:latest"])
def test_names_that_are_none(name):
    with pytest.raises(ValueError, match="names no data set"):
        TfdsName.parse(name)


@pytest.mark.needs_data
def test_cifar10(shared_data):
    dataset = open_dataset("tfds:cifar10", data_dir=shared_data / "tfds")
    assert dataset.classes[:3] == ("airplane", "automobile", "bird")
    assert (len(dataset.train), len(dataset.val)) == (50_000, 10_000)
    assert dataset.val is dataset.test
    np.testing.assert_array_equal(np.bincount(dataset.test.labels), np.full(10, 1000))
    record = dataset.test[17]
    assert record["key"] == dataset.test.keys[17]
    assert record["label"] == dataset.test.labels[17]
    reference = tfds.data_source("cifar10", split="test", data_dir=shared_data / "tfds")[17]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(record["image"]))), reference["image"])


@pytest.mark.needs_data
def test_reading_imports_no_tensorflow(shared_data):
    code = (
        "import sys; from resnext_jax.data import open_dataset\n"
        f"open_dataset('tfds:cifar10', data_dir={str(shared_data / 'tfds')!r}).train[0]\n"
        "print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_labels_are_read_once_and_kept_beside_the_data(tmp_path, monkeypatch):
    write(tmp_path, {"train": 12})
    first = open_dataset("tfds:pets", data_dir=tmp_path).parts["train"]
    known = (first.labels.tolist(), list(first.names), first.sizes.tolist())
    assert known[2] == [len(first[i]["image"]) for i in range(12)]
    monkeypatch.setattr(TfdsSource, "_rows", lambda self: pytest.fail("the records were read again"))
    again = open_dataset("tfds:pets", data_dir=tmp_path).parts["train"]
    assert (again.labels.tolist(), list(again.names), again.sizes.tolist()) == known


@pytest.mark.parametrize("damage", [b"", b"no zip file", b"PK\3\4 cut"])
def test_an_index_that_is_damaged_or_of_other_files_is_made_anew(tmp_path, damage):
    write(tmp_path, {"train": 12})
    labels = open_dataset("tfds:pets", data_dir=tmp_path).parts["train"].labels
    [kept] = tmp_path.rglob("resnext_jax-train.npz")
    whole = kept.read_bytes()
    kept.write_bytes(damage)
    np.testing.assert_array_equal(open_dataset("tfds:pets", data_dir=tmp_path).parts["train"].labels, labels)
    assert kept.read_bytes() == whole
    record = next(tmp_path.rglob("*array_record*"))
    os.utime(record, ns=(1, 1))
    open_dataset("tfds:pets", data_dir=tmp_path).parts["train"].labels  # noqa: B018
    assert kept.read_bytes() != whole
