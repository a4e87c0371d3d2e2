"""Copies: the hash is imagehash's, all that survives is found, and names tell their groups."""

import dataclasses
import io
import json
import re

import numpy as np
import pytest
from PIL import Image, ImageFilter

import resnext_jax as rj
from resnext_jax import cli
from resnext_jax.data import decode, open_dataset
from resnext_jax.data.copies import (
    copied_share,
    copies_found,
    hashes,
    join,
    low_frequencies,
    near_copies,
    suggest_groups,
    thumbnail,
)


def photo(seed, size=96):
    """Smooth random shades: no two are alike."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)


def pairs_of(*images):
    pairs, _ = near_copies(np.stack([thumbnail(np.asarray(image)) for image in images]))
    return {tuple(pair) for pair in pairs.tolist()}


def test_the_hash_is_imagehashs():
    imagehash = pytest.importorskip("imagehash")
    for seed in range(20):
        image = photo(seed)
        ours = hashes(low_frequencies(thumbnail(np.asarray(image))[None]))[0].reshape(8, 8) > 0
        np.testing.assert_array_equal(ours, imagehash.phash(image).hash)


def compressed(image):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=30)
    return Image.open(stream).convert("RGB")


@pytest.mark.parametrize(
    "change",
    [
        *(lambda image, turn=turn: image.transpose(turn) for turn in Image.Transpose),
        lambda image: image.point(lambda value: min(255, int(value * 1.25))),
        lambda image: image.point(lambda value: value // 2),
        lambda image: image.resize((300, 300)),
        lambda image: image.filter(ImageFilter.GaussianBlur(2)),
        compressed,
    ],
)
def test_what_a_copy_may_be(change):
    photos = [photo(seed) for seed in range(8)]
    assert pairs_of(*photos, *map(change, photos)) == {(i, 8 + i) for i in range(8)}


def test_black_borders_make_no_copies():
    framed = []
    for seed in range(12):
        image = Image.new("RGB", (96, 96))
        image.paste(photo(seed), (20, 25))
        framed.append(image)
    assert not pairs_of(*framed)


def test_blocks_change_nothing(monkeypatch):
    thumbnails = np.stack([thumbnail(np.asarray(photo(i % 7))) for i in range(20)])
    whole = near_copies(thumbnails)
    monkeypatch.setattr("resnext_jax.data.copies._BLOCK", 3)
    for ours, theirs in zip(near_copies(thumbnails), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    expected = [[i, j] for i in range(20) for j in range(i + 1, 20) if i % 7 == j % 7]
    assert whole[0].tolist() == expected
    assert len(near_copies(thumbnails[:0])[0]) == 0


def test_join():
    groups = join(6, np.array([[4, 5], [1, 3], [3, 4]]))
    assert groups.tolist() == [0, 1, 2, 1, 1, 1]


NAMES = {
    "photo_1.jpg": ([f"p{i}_{j}.jpg" for i in range(10) for j in range(3)], 10),
    "with its original": ([f"p{i}{end}.jpg" for i in range(10) for end in ("", "_1", "_2")], 10),
    "photo (2).jpg": ([f"p{i} ({j}).jpg" for i in range(10) for j in range(3)], 10),
    "left and right": ([f"{i}_{side}.jpeg" for i in range(10) for side in ("left", "right", "top")], 10),
    "Roboflow": ([f"p{i}_jpg.rf.{97 * i + j:010x}.jpg" for i in range(10) for j in range(3)], None),
    "folders of patients": ([f"P{i}/{j}.jpg" for i in range(10) for j in range(3)], 10),
    "numbered": ([f"{i:03}.jpg" for i in range(30)], None),
    "numbered by class": ([f"cat_{i:03}.jpg" for i in range(30)], None),
    "by time": ([f"IMG_{i}_{i * 7919}.jpg" for i in range(30)], None),
}


@pytest.mark.parametrize(("names", "groups"), NAMES.values(), ids=NAMES)
def test_groups_by_names(names, groups):
    found = suggest_groups(names, np.arange(30) // 3 % 2)
    assert (found[0].groups if found else None) == groups


@pytest.mark.needs_data
def test_names_of_the_monkeypox_images(shared_data):
    folder = str(shared_data / "monkeypox")
    source = open_dataset(folder).parts["train"]
    assert [each.groups for each in suggest_groups(source.names, source.labels)] == [153, 103]
    dataset = open_dataset(folder, group_by="auto")
    photos = [{key.rsplit("_", 1)[0] for key in part.keys} for part in (dataset.train, dataset.val)]
    assert not photos[0] & photos[1]


@pytest.mark.needs_data
def test_pixels_of_the_monkeypox_images(shared_data):
    """By pixels alone, against the photos that the names tell: many copies are turned by other angles."""
    source = open_dataset(str(shared_data / "monkeypox")).parts["train"]
    thumbnails = np.stack([thumbnail(decode(source[i]["image"], "x")) for i in range(len(source))])
    pairs, _ = near_copies(thumbnails)
    photo_of = np.unique([key.rsplit("_", 1)[0] for key in source.keys], return_inverse=True)[1]
    right = (photo_of[pairs[:, 0]] == photo_of[pairs[:, 1]]).sum()
    sizes = np.bincount(photo_of)
    assert right / len(pairs) > 0.98
    assert right / (sizes * (sizes - 1) // 2).sum() > 0.54
    assert (source.labels[pairs[:, 0]] == source.labels[pairs[:, 1]]).all()


@pytest.fixture
def copies(tmp_path):
    """Ten photos a class, each three times; one of class a under b, too; a file that is no image."""
    for kind in "ab":
        (tmp_path / kind).mkdir()
        for i in range(10):
            image = photo(100 * ord(kind) + i)
            for j, each in enumerate((image, image.transpose(Image.Transpose.ROTATE_90), compressed(image))):
                each.save(tmp_path / kind / f"P{i}_{j}.png")
    photo(100 * ord("a")).save(tmp_path / "b" / "P0_9.png")
    (tmp_path / "b" / "P1_9.png").write_bytes(b"no image")
    Image.new("RGB", (9, 200)).save(tmp_path / "a" / "P3_9.png")
    return tmp_path


def test_many_images_that_are_all_the_same_are_one_group_of_few_pairs():
    """Blank images, say: each with each other would be quadratic in number."""
    thumbnails = np.full((1500, 32, 32), 200, np.uint8)
    thumbnails[:, :16] += np.uint8(20)
    thumbnails[[0, 700, 1499]] = np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)
    pairs, different = near_copies(thumbnails)
    assert len(pairs) == len(different) < 100 * len(thumbnails)
    assert not different.any()
    groups = join(len(thumbnails), pairs)
    assert (groups == 1).sum() == 1497
    assert (groups == np.arange(1500)).sum() == 4


def test_check_data(copies):
    seen = []
    report = rj.check_data(str(copies), progress=lambda *done: seen.append(done))
    assert report.classes == {"a": 31, "b": 32}
    assert report.unreadable.keys() == {"b/P1_9.png"}
    assert report.odd == {"a/P3_9.png": "one colour only"}
    assert report.exact_copies == [["a/P0_0.png", "b/P0_9.png"]]
    assert sorted(map(len, report.near_copies)) == [3] * 19 + [4]
    assert set(report.conflicts) == {(f"a/P0_{j}.png", "b/P0_9.png") for j in range(3)}
    assert report.groups[0].groups == 10
    assert report.copied > 0.5
    assert seen[-1] == (63, 63)
    assert json.loads(json.dumps(report.to_dict()))["split"] == {"train": 51, "val": 12}
    assert rj.check_data(str(copies), group_by="copies").copied == 0
    single = rj.check_data(str(copies), fold=(0, 40))
    assert (single.split, single.copied) == (None, None)
    assert "groups" in single.undivided


def test_data_check_opens_the_data_once(copies, capsys, monkeypatch):
    """What is said of the layout is said once."""
    copies = copies.rename(copies.parent / "dataset")
    (copies.parent / "around" / "inner").mkdir(parents=True)
    copies.rename(copies.parent / "around" / "inner" / "dataset")
    monkeypatch.chdir(copies.parent)
    cli.main(["data", "check", "around", "--grid", "pairs.png"])
    assert capsys.readouterr().err.count("around/inner: the only folder there is") == 1


def test_large_images_are_read_without_a_warning(copies, monkeypatch, recwarn):
    with Image.open(copies / "a" / "P0_0.png") as photo:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", photo.width * photo.height - 1)
    cli.main(["data", "check", str(copies), "--json"])
    assert [str(each.message) for each in recwarn.list] == []


def test_groups_by_copies_and_by_suggestion(copies, caplog):
    for how in ("copies", "auto"):
        dataset = open_dataset(str(copies), group_by=how, val_fraction=0.3)
        parts = (dataset.train, dataset.val)
        sides = [{key.rsplit("_", 1)[0] for key in part.keys if "_9" not in key} for part in parts]
        assert not sides[0] & sides[1]
    caplog.clear()
    for file in sorted(copies.rglob("*.png")):
        file.rename(file.with_name(f"{hash(file.name) % 10**9}.png"))
    open_dataset(str(copies), group_by="auto").split("train")
    assert "suggest no groups" in caplog.text


def test_a_cheap_look_for_exact_copies(copies):
    dataset = open_dataset(str(copies))
    assert 0 <= copied_share(dataset.train, dataset.val) <= 1 / len(dataset.val)
    train = dataset.train
    assert copied_share(train, train) > 0.9  # but for the file that is no image, perhaps
    assert copied_share(open_dataset("demo").train, open_dataset("demo").val) == 0


def test_what_a_cheap_look_tells(copies):
    [line, *_] = copies_found(open_dataset(str(copies)))
    assert "the names suggest 10 groups" in line
    assert "group_by=auto" in line
    assert not copies_found(open_dataset(str(copies), group_by="copies"))
    assert not copies_found(open_dataset("demo"))
    for name in ("train", "val"):
        for kind in "ab":
            (copies / "set" / name / kind).mkdir(parents=True)
            photo(ord(kind)).save(copies / "set" / name / kind / f"{name}.png")
    [line] = copies_found(open_dataset(str(copies / "set")))
    assert "at least 100.0 % of the validation images are exact copies" in line


def test_training_warns_in_its_first_lines(small_run, caplog):
    """The fixture's images are P00_0.jpg, P00_1.jpg, ...: two of each of five patients."""
    rj.fit(dataclasses.replace(small_run, epochs=1))
    assert caplog.messages[0].startswith("warning: the names suggest 5 groups of images")
    assert "group_by=auto keeps each on one side" in caplog.messages[0]


def test_the_command_line_names_the_flag_also_when_nothing_was_saved_yet(small_run, capsys):
    flags = ["--image-size", "16", "--batch-size", "4", "--epochs", "1", "--devices", "1", "--resume"]
    data = ["--data", small_run.data, "--model", small_run.model, "--out", str(small_run.out)]
    cli.main(["train", *data, *flags])
    shown = capsys.readouterr()
    assert "warning: the names suggest 5 groups of images" in shown.err
    assert re.search(r"; --group-by=auto keeps each on one side, as does --group-by='\^", shown.err)
    assert "--out=" in shown.err  # what is logged names flags, too: nothing was saved there yet
    assert "nothing was saved" in shown.err
