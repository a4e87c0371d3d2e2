"""What is kept of a run's images: enough to find that one was moved, renamed, replaced, gone or new."""

import gzip
import shutil
import unicodedata

import numpy as np
import pytest

from resnext_jax.data import Fingerprint, check_same_images, open_dataset


def fingerprint(folder, checksums=None, **options):
    dataset = open_dataset(str(folder), **options)
    return Fingerprint.of({"train": dataset.train, "val": dataset.val}, checksums)


@pytest.fixture
def saved(image_folder, tmp_path):
    """Summary of the images, with their table in the folder `run`."""
    (tmp_path / "run").mkdir()
    of_run = fingerprint(image_folder)
    of_run.write(tmp_path / "run")
    return of_run.summary


def test_the_place_is_no_part_of_it(image_folder, saved, tmp_path):
    moved = shutil.copytree(image_folder, tmp_path / "elsewhere" / "set")
    assert fingerprint(moved).summary == saved
    assert saved["images"] == {"train": 16, "val": 4}
    check_same_images(fingerprint(moved), saved, "elsewhere", tmp_path / "run")


def rename(folder):
    (folder / "left/P00_0.jpg").rename(folder / "left/Q00_0.jpg")


def move(folder):
    (folder / "left/P00_0.jpg").rename(folder / "right/P99_9.jpg")


def replace(folder):
    (folder / "left/P00_0.jpg").write_bytes((folder / "right/P00_0.jpg").read_bytes() + b" ")


def swap(folder):
    for old, new in (("left", "x"), ("right", "left"), ("x", "right")):
        (folder / old).rename(folder / new)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (rename, ["gone: 1, left/P00_0.jpg", "new: 1, left/Q00_0.jpg"]),
        (move, ["gone: 1, left/P00_0.jpg", "new: 1, right/P99_9.jpg"]),
        (replace, ["of another size in bytes: 1, left/P00_0.jpg ("]),
        (swap, ["of another size in bytes: ", "left/P00_0.jpg"]),
        (lambda folder: (folder / "left/P00_0.jpg").unlink(), ["gone: 1, left/P00_0.jpg"]),
    ],
)
def test_every_change_is_told_and_named(image_folder, saved, tmp_path, change, told):
    change(image_folder)
    with pytest.raises(ValueError, match=r"not the images that the run in .* was trained on") as caught:
        check_same_images(fingerprint(image_folder), saved, "the data", tmp_path / "run")
    for words in told:
        assert words in str(caught.value)
    table = gzip.compress(b"no table")
    for damaged in (table[:-9], table[:10] + b"\xff" * 8 + table[18:]):
        (tmp_path / "run" / "images.csv.gz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"other (names|size)"):
            check_same_images(fingerprint(image_folder), saved, "the data", tmp_path / "run")


def test_another_split_is_told(image_folder, saved, tmp_path):
    [told] = fingerprint(image_folder, split_seed=5).differences(saved, tmp_path / "run")
    assert told.startswith("in another split: ")
    assert "(train -> val)" in told


def test_labels_of_a_table(tmp_path, image_folder):
    def table(*labels):
        rows = "".join(f"left/P0{i}_0.jpg,{label}\n" for i, label in enumerate(labels))
        (image_folder / "t.csv").write_text("image,label\n" + rows)
        dataset = open_dataset(str(image_folder / "t.csv"))
        return Fingerprint.of({"all": dataset.split("all")})

    first = table(*"aabb")
    first.write(tmp_path)
    assert table(*"abbb").differences(first.summary, tmp_path) == [
        "of another class: 1, left/P01_0.jpg (a -> b)"
    ]


def test_contents_count_where_both_are_known(image_folder, tmp_path):
    sums = {"train": np.arange(1, 17, dtype=np.uint32), "val": np.arange(1, 5, dtype=np.uint32)}
    known = fingerprint(image_folder, sums)
    known.write(tmp_path)
    assert not fingerprint(image_folder).differences(known.summary, tmp_path)
    other = sums | {"val": sums["val"] + np.array([0, 0, 9, 0], np.uint32)}
    [told] = fingerprint(image_folder, other).differences(known.summary, tmp_path)
    assert told.startswith("of another content: 1, ")


def test_names_in_any_form(tmp_path):
    """An accent as one character or as two; bytes that are no UTF-8."""
    digests = []
    for form in ("NFC", "NFD"):
        folder = tmp_path / form
        for name in ("a", "b"):
            (folder / name).mkdir(parents=True)
            (folder / name / (unicodedata.normalize(form, f"é{name}") + ".png")).touch()
            (folder / name / "1.png").touch()
        digests.append(fingerprint(folder).summary)
    assert digests[0] == digests[1]
    with open(bytes(folder / "a") + b"/caf\xe9,\n.png", "wb"):
        pass
    odd = fingerprint(folder)
    odd.write(tmp_path)
    assert (
        odd.differences(digests[1] | {"digests": dict.fromkeys(digests[1]["digests"], "x")}, tmp_path) == []
    )
    assert "a/caf\\xe9,\n.png" in gzip.decompress(odd.table).decode()
