"""Folders of images: what is accepted, how it is split, and what is refused in one line."""

import os
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from resnext_jax.data import Preprocessing, load_images, open_dataset


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


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Training", "validation", "Testing"),
        ("TRAIN", "valid", "test_set"),
        ("train_set", "Dev", "test"),
        ("trainset", "validation-images", "TestData"),
        ("train2017", "val2017", "test2017"),
        ("seg_train", "seg_val", "seg_test"),
    ],
)
def test_split_folders(tmp_path, train, val, test, caplog):
    make(tmp_path, *(f"{split}/{name}" for split in (train, val, test) for name in "ab"), "notes")
    dataset = open_dataset(str(tmp_path))
    assert dataset.classes == ("a", "b")
    assert [len(s) for s in (dataset.train, dataset.val, dataset.test)] == [6, 6, 6]
    assert dataset.train.keys[0] == f"{train}/a/0.png"
    assert dataset.val.keys[0] == f"{val}/a/0.png"
    assert len(dataset.split("all")) == 18
    assert [record.args[1] for record in caplog.records] == ["notes"]  # it holds images: left out, and said


@pytest.mark.parametrize(
    "folders",
    [
        ("data/train/a", "data/train/b", "data/test/a", "data/test/b"),  # all in one folder
        ("x/y/train/a", "x/y/train/b", "x/y/test/a", "x/y/test/b"),
        ("train/train/a", "train/train/b", "test/test/a", "test/test/b"),  # each in a folder of its own name
        ("images/train/a", "images/train/b", "images/test/a", "images/test/b", "masks"),  # beside others
        ("a/train", "b/train", "a/test", "b/test"),  # below the classes
    ],
)
def test_splits_further_down(tmp_path, folders):
    dataset = open_dataset(str(make(tmp_path, *folders)))
    assert dataset.classes == ("a", "b")
    assert dataset.splits == ("train", "val", "test")
    for split in ("train", "test"):
        keys = dataset.split(split).keys
        assert len(keys) == 6
        assert all(f"{split}/" in key and (tmp_path / key).is_file() for key in keys)
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_classes_in_one_folder(tmp_path, caplog):
    caplog.set_level("INFO")
    dataset = open_dataset(str(make(tmp_path, "set/a", "set/b")))
    assert dataset.classes == ("a", "b")
    assert dataset.split("all").keys[0] == "set/a/0.png"
    assert "the only folder there is" in caplog.text


@pytest.mark.parametrize(
    "folders", [("one/a", "one/b", "two/a", "two/b"), ("train/o/a", "train/o/b", "train/p/a", "train/p/b")]
)
def test_folders_that_hold_the_same_folders_are_no_classes(tmp_path, folders):
    with pytest.raises(ValueError, match="all hold the same folders, a, b, so they look like splits"):
        open_dataset(str(make(tmp_path, *folders)))


@pytest.mark.parametrize(
    "folders",
    [
        ("train", "test"),
        ("train",),
        ("images", "masks"),
        ("images/train", "images/val", "labels/train", "labels/val"),
        ("train/images", "train/labels", "valid/images", "valid/labels"),
        ("train2017", "val2017", "annotations"),
        ("JPEGImages", "Annotations"),
    ],
)
def test_splits_and_parts_of_other_data_sets_are_no_classes(tmp_path, folders):
    """Images without class folders, and data for detection and segmentation (YOLO, COCO, VOC)."""
    make(tmp_path, *folders)
    for file in tmp_path.rglob("*.png"):
        if {"labels", "annotations"} & {part.lower() for part in file.parts}:
            file.rename(file.with_suffix(".txt"))
    with pytest.raises(ValueError, match=r"class folders.*expected one folder of images for each class"):
        open_dataset(str(tmp_path))


def test_a_table_beside_images_is_pointed_to(tmp_path):
    make(tmp_path, "train")
    (tmp_path / "train" / "metadata.csv").touch()
    with pytest.raises(ValueError, match=r"or a table of images and labels \(is .*metadata\.csv one\?\)"):
        open_dataset(str(tmp_path))


def test_classes_of_a_split_in_other_letters(tmp_path, caplog):
    """In another case, or with the accents in characters of their own, as macOS writes them."""
    caplog.set_level("INFO")
    dataset = open_dataset(str(make(tmp_path, "train/Café", "train/b", "val/cafe\u0301", "val/B")))
    assert dataset.classes == ("Café", "b")
    assert [dataset.val.keys[i] for i in (0, 3)] == ["val/cafe\u0301/0.png", "val/B/0.png"]
    assert dataset.val.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert "images of B, cafe\u0301 are taken for those of b, Café" in caplog.text


def test_classes_that_differ_in_case_alone_stay_two(tmp_path):
    make(tmp_path, *(f"{split}/{name}" for split in ("train", "val") for name in ("a", "A", "b")))
    if len(list((tmp_path / "train").iterdir())) < 3:
        pytest.skip("this file system knows no case")
    assert open_dataset(str(tmp_path)).classes == ("A", "a", "b")


def test_a_prepared_tfds_folder_is_named_otherwise(tmp_path):
    (tmp_path / "dataset_info.json").touch()
    with pytest.raises(ValueError, match=r"name it tfds:NAME"):
        open_dataset(str(tmp_path))


def test_classes_that_hold_one_folder_each_are_classes(tmp_path):
    """As in Tiny ImageNet."""
    dataset = open_dataset(
        str(make(tmp_path, "train/n1/images", "train/n2/images", "val/n1/images", "val/n2/images"))
    )
    assert dataset.classes == ("n1", "n2")
    assert dataset.val.keys[0] == "val/n1/images/0.png"


def test_a_class_that_is_called_as_a_split(tmp_path):
    assert open_dataset(str(make(tmp_path, "car", "train", "plane"))).classes == ("car", "plane", "train")


@pytest.mark.parametrize("folder", ["test", "test/images"])
def test_images_without_labels_are_left_out_and_said(tmp_path, caplog, folder):
    make(tmp_path, "train/a", "train/b", folder)
    dataset = open_dataset(str(tmp_path))
    assert dataset.splits == ("train", "val")
    assert len(dataset.split("all")) == 6
    [record] = caplog.records
    assert "its 3 images lie in no class folders" in record.getMessage()
    assert str(tmp_path / "test") in record.getMessage()


def test_a_split_may_lack_a_class_but_not_have_one_more(tmp_path, caplog):
    make(tmp_path, "train/a", "train/b", "train/c", "test/a", "test/c")
    dataset = open_dataset(str(tmp_path))
    assert dataset.test.labels.tolist() == [0, 0, 0, 2, 2, 2]
    assert "no test images of b" in caplog.text


def test_a_set_of_one_class_or_one_image_each_need_not_be_divided(tmp_path):
    """It can be evaluated on, and is refused only where it would have to be divided."""
    assert len(open_dataset(str(make(tmp_path / "one", "a"))).split("all")) == 3
    dataset = open_dataset(str(make(tmp_path / "each", "a", "b", count=1)), group_by="(nothing)", fold=(0, 3))
    assert len(dataset.split("all")) == 2
    with pytest.raises(ValueError, match="captures nothing"):
        dataset.split("val")
    with pytest.raises(ValueError, match="class 'a' has 1 image in 1 group"):
        open_dataset(str(tmp_path / "each")).split("val")


def test_litter_at_every_depth_is_not_seen(tmp_path, caplog):
    make(tmp_path, "a", "b", "@eaDir/a", "lost+found", "a/@eaDir/0.png", "b/.ipynb_checkpoints", "a/__MACOSX")
    make(tmp_path, "b/#recycle/x", "$RECYCLE.BIN", "a/System Volume Information")
    for name in ("a/.DS_Store", "b/Thumbs.db", "a/x.txt", "b/y.txt", "b/noname"):
        (tmp_path / name).write_bytes(b"\0")
    caplog.set_level("INFO")
    assert len(open_dataset(str(tmp_path)).split("all")) == 6
    [record] = caplog.records
    assert record.getMessage().endswith("left out as no images: 2 .txt, 1 .db, 1 without a suffix")


def test_links_are_followed_but_in_no_circle(tmp_path):
    make(tmp_path / "store", "x", "y", "more/deep")
    make(tmp_path / "set", "a", "b")
    links = {"a/x": "store/x", "a/more": "store/more", "b/up": "set", "b/b": "set/b", "a/again": "set/a"}
    for name, target in links.items():
        (tmp_path / "set" / name).symlink_to(tmp_path / target)
    (tmp_path / "store/more/back").symlink_to(tmp_path / "store/more")
    (tmp_path / "set/a/copy").symlink_to(tmp_path / "store/x")  # the same folder twice
    (tmp_path / "set/b/p").mkdir()
    save(tmp_path / "set/b/p/own.png")
    (tmp_path / "set/b/a_link").symlink_to(tmp_path / "set/b/p")  # by its own path rather than by the link
    dataset = open_dataset(str(tmp_path / "set"))
    keys = dataset.split("all").keys
    assert keys == [
        *(f"a/{i}.png" for i in range(3)),
        *(f"a/copy/{i}.png" for i in range(3)),
        *(f"a/more/deep/{i}.png" for i in range(3)),
        *(f"b/{i}.png" for i in range(3)),
        "b/p/own.png",
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_regular_file_is_an_image_that_cannot_be_read(tmp_path):
    make(tmp_path, "a", "b")
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    (tmp_path / "a" / "broken.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a" / "folder.jpg").mkdir()
    source = open_dataset(str(tmp_path)).split("all")
    assert len(source) == 8
    for name, reason in (("pipe", "not a regular file"), ("broken", "No such file")):
        with pytest.raises(OSError, match=reason):
            source[source.keys.index(f"a/{name}.jpg")]
    with pytest.raises(ValueError, match="2 of 8 images cannot be read"):
        load_images(source, Preprocessing(8), budget_bytes=1 << 20)


def test_sizes_are_those_of_the_files(image_folder):
    source = open_dataset(str(image_folder)).train
    assert source.sizes.tolist() == [(image_folder / key).stat().st_size for key in source.keys]


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
        open_dataset(str(make(tmp_path, *folders))).split("train")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_missing_folder_and_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        open_dataset(str(tmp_path / "nowhere"))
    save(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match="is neither a folder nor a table"):
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
        open_dataset(str(tmp_path), group_by=r"^(\d)").split("train")


def test_group_by_where_nothing_is_divided(tmp_path):
    make(tmp_path, "train/a", "train/b", "val/a", "val/b")
    with pytest.raises(ValueError, match="already divided into train and val"):
        open_dataset(str(tmp_path), group_by="(.)").split("val")


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
