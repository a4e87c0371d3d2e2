"""Folders of images: what is accepted, how it is split, and what is refused in one line."""

import os
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from resnext_jax.data import open_dataset


def save(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, value, value)).save(path, format="PNG")


def make(root, *folders, count=3):
    for number, folder in enumerate(folders):
        for i in range(count):
            save(root / folder / f"{i}.png", number)
    return root


def test_class_folders(image_folder):
    dataset = open_dataset(str(image_folder))
    assert dataset.classes == ("left", "right")
    assert (len(dataset.train), len(dataset.val), dataset.test) == (16, 4, None)
    assert np.bincount(dataset.val.labels).tolist() == [2, 2]
    for source in (dataset.train, dataset.val):
        assert source.labels.dtype == np.int32
        for i, key in enumerate(source.keys):
            record = source[i]
            assert record["key"] == key
            assert record["label"] == source.labels[i] == dataset.classes.index(key.split("/")[0])
            assert record["image"] == (image_folder / key).read_bytes()
    everything = dataset.split("all")
    assert sorted(everything.keys) == sorted([*dataset.train.keys, *dataset.val.keys])
    assert [everything[i]["key"] for i in range(20)] == list(everything.keys)
    assert [everything[i]["label"] for i in range(20)] == everything.labels.tolist()


def test_groups_stay_on_one_side(image_folder):
    dataset = open_dataset(str(image_folder), group_by=r"^(P\d+)_")
    groups = [{key.split("/")[1][:3] for key in source.keys} for source in (dataset.train, dataset.val)]
    assert not groups[0] & groups[1]


def test_the_place_of_the_folder_does_not_change_the_split(image_folder, tmp_path):
    moved = shutil.copytree(image_folder, tmp_path / "elsewhere" / "copy")
    splits = [open_dataset(str(folder)).val.keys for folder in (image_folder, moved)]
    assert splits[0] == splits[1]


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_split_folders(tmp_path, val):
    make(tmp_path, "train/a", "train/b", f"{val}/a", f"{val}/b", "test/a", "test/b", "notes")
    dataset = open_dataset(str(tmp_path))
    assert dataset.classes == ("a", "b")
    assert [len(s) for s in (dataset.train, dataset.val, dataset.test)] == [6, 6, 6]
    assert dataset.val.keys[0] == f"{val}/a/0.png"
    assert len(dataset.split("all")) == 18


def test_test_serves_as_val_where_there_is_none(tmp_path):
    dataset = open_dataset(str(make(tmp_path, "train/a", "train/b", "test/a", "test/b")))
    assert dataset.val is dataset.test
    assert len(dataset.split("all")) == 12


def test_train_alone_is_split(tmp_path):
    dataset = open_dataset(str(make(tmp_path, "train/a", "train/b", count=10)), group_by=r"^(\d)")
    assert (len(dataset.train), len(dataset.val), dataset.test) == (16, 4, None)


def test_test_alone_can_be_evaluated(tmp_path):
    dataset = open_dataset(str(make(tmp_path, "test/a", "test/b")))
    assert len(dataset.split("test")) == 6
    with pytest.raises(ValueError, match="has no train split: expected one of val, test or all"):
        dataset.split("train")


def test_any_suffix_case_any_depth_nothing_hidden(tmp_path):
    for name in ("a/1.JPG", "a/p1/2.Jpeg", "a/3.webp", "b/1.BMP", "b/deep/er/2.png", "b/x.PNG"):
        save(tmp_path / name)
    for name in ("a/.hidden.png", "a/note.txt", ".git/1.png", "__MACOSX/a/1.png", "a/._1.jpg"):
        save(tmp_path / name)
    keys = open_dataset(str(tmp_path)).split("all").keys
    assert sorted(keys) == sorted(
        ["a/1.JPG", "a/p1/2.Jpeg", "a/3.webp", "b/1.BMP", "b/deep/er/2.png", "b/x.PNG"]
    )


def test_class_folders_may_be_links(tmp_path):
    make(tmp_path / "store", "x", "y")
    (tmp_path / "set").mkdir()
    for name in "xy":
        (tmp_path / "set" / name).symlink_to(tmp_path / "store" / name)
    assert len(open_dataset(str(tmp_path / "set")).split("all")) == 6


def test_class_names_in_any_script(tmp_path):
    assert open_dataset(str(make(tmp_path, "猴痘", "其他"))).classes == ("其他", "猴痘")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ((), "holds no class folders"),
        (("a",), "has one class only, a"),
        (("train/a", "train/b", "val/a", "val/c"), "differ: only one of them has b, c"),
        (("train/a", "train/b", "val/a", "val/b", "validation/a"), "two folders for one split"),
        (("train/a", "val/a"), "has one class only, a"),
    ],
)
def test_folders_that_are_no_data_set(tmp_path, folders, message):
    with pytest.raises(ValueError, match=message) as caught:
        open_dataset(str(make(tmp_path, *folders)))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_missing_folder_and_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        open_dataset(str(tmp_path / "nowhere"))
    save(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        open_dataset(str(tmp_path / "a.png"))
    with pytest.raises(ValueError, match="holds images but no class folders"):
        open_dataset(str(tmp_path))


def test_every_empty_class_is_named(tmp_path):
    make(tmp_path, "a", "b")
    for name in ("c", "d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "readme.txt").write_text("no image")
    with pytest.raises(ValueError, match="for c, d: expected JPEG"):
        open_dataset(str(tmp_path))


def test_group_by_must_match_every_image(tmp_path):
    make(tmp_path, "a", "b")
    save(tmp_path / "b" / "odd.png")
    with pytest.raises(ValueError, match=r"nothing in 'odd\.png'"):
        open_dataset(str(tmp_path), group_by=r"^(\d)")


def test_group_by_where_nothing_is_divided(tmp_path):
    make(tmp_path, "train/a", "train/b", "val/a", "val/b")
    with pytest.raises(ValueError, match="already divided into train and val"):
        open_dataset(str(tmp_path), group_by="(.)")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read(tmp_path):
    make(tmp_path, "a", "b")
    (tmp_path / "a").chmod(0)
    try:
        with pytest.raises(PermissionError):
            open_dataset(str(tmp_path))
    finally:
        (tmp_path / "a").chmod(0o755)


@pytest.mark.needs_data
@pytest.mark.parametrize("group_by", [None, r"^(N?M\d+)_", r"^(N?M\d+_\d+)_"])
def test_monkeypox(shared_data, group_by):
    dataset = open_dataset(str(shared_data / "monkeypox"), group_by=group_by)
    assert dataset.classes == ("Monkeypox", "Others")
    totals = np.array([980, 1162])
    held = np.bincount(dataset.val.labels)
    np.testing.assert_array_equal(held + np.bincount(dataset.train.labels), totals)
    np.testing.assert_allclose(held / totals, 0.2, atol=0.02 if group_by else 0.0005)
    patients = [
        Counter(key.split("/")[1].split("_")[0] for key in s.keys) for s in (dataset.train, dataset.val)
    ]
    if group_by == r"^(N?M\d+)_":
        assert not patients[0].keys() & patients[1].keys()
    elif group_by is None:
        assert patients[0].keys() & patients[1].keys()  # why such a split flatters
