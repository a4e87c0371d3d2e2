"""Tables of images and labels: columns by name, files by path or id, one clear line for all that is wrong."""

import csv
import logging

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from resnext_jax.data import DataConfig, open_dataset
from resnext_jax.errors import BadInput

CLASSES = ("cat", "dog")


def save(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (value, 0, 0)).save(path, format="PNG")


@pytest.fixture
def folder(tmp_path):
    """Twelve images, `images/000.png` on."""
    for i in range(12):
        save(tmp_path / "images" / f"{i:03d}.png", i)
    return tmp_path


def write(file, header, rows, delimiter=","):
    with file.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, delimiter=delimiter)
        table.writerow(header)
        table.writerows(rows)
    return str(file)


def plain(folder, form="{:03d}", **options):
    rows = [[form.format(i), CLASSES[i % 2], f"P{i // 4}"] for i in range(12)]
    return write(folder / "labels.csv", ("id", "label", "patient"), rows, **options)


def contents(source):
    """Number in the red of each image, and its class."""
    from resnext_jax.data.images import decode

    records = [source[i] for i in range(len(source))]
    return {int(decode(r["image"], r["key"])[0, 0, 0]): source.classes[r["label"]] for r in records}


@pytest.mark.parametrize(
    "form",
    [
        "{:03d}",
        "{:03d}.png",
        "images/{:03d}",
        "images/{:03d}.png",
        "./images/{:03d}.png",
        "images\\{:03d}.png",
        "/elsewhere/set/images/{:03d}.png",
    ],
)
def test_images_are_found_by_path_or_id(folder, form, caplog):
    caplog.set_level(logging.INFO)
    dataset = open_dataset(plain(folder, form))
    assert dataset.classes == CLASSES
    assert dataset.undivided
    everything = dataset.split("all")
    assert contents(everything) == {i: CLASSES[i % 2] for i in range(12)}
    assert everything.keys[3] == "images/003.png"
    assert everything.sizes[3] == (folder / "images/003.png").stat().st_size
    assert caplog.messages == [
        f"{folder / 'labels.csv'}: images by 'id', labels by 'label', groups by 'patient'"
    ]


@pytest.mark.parametrize("form", ["{:03d}.jpg", "{:03d}.PNG", "{:d}", "old/images/{:d}.tif"])
def test_ids_that_lost_their_zeros_and_files_in_another_format(folder, form, caplog):
    everything = open_dataset(plain(folder, form)).split("all")
    assert contents(everything) == {i: CLASSES[i % 2] for i in range(12)}
    assert " images have another suffix, case or number of zeros than in the table" in caplog.text


def test_ids_without_zeros_that_may_mean_two_files(folder):
    save(folder / "images" / "03.png")
    with pytest.raises(ValueError, match=r"line 5 \(3\): images/003.png, images/03.png may each be it"):
        open_dataset(plain(folder, "{:d}"))


@pytest.mark.parametrize(("yes", "no"), [("1", "0"), ("1.0", "0.0"), ("True", "False")])
def test_a_column_for_each_class(folder, yes, no, caplog):
    """As the challenges of ISIC write their labels: one column of 0 and 1 for each class."""
    header = ("image", "MEL", "NV", "BCC", "patient")
    rows = [
        [f"{i:03d}", *(yes if i % 3 == column else no for column in range(3)), f"P{i}"] for i in range(12)
    ]
    caplog.set_level(logging.INFO)
    everything = open_dataset(write(folder / "a.csv", header, rows)).split("all")
    assert contents(everything) == {i: header[1 + i % 3] for i in range(12)}
    assert "its classes are the columns MEL, NV, BCC" in caplog.text
    rows[4][3] = yes
    with pytest.raises(
        ValueError, match=r"MEL, NV, BCC hold 0 and 1 .* 1 rows have several 1 or none: line 6"
    ):
        open_dataset(write(folder / "b.csv", header, rows))


def test_columns_of_0_and_1_beside_others_are_no_classes(folder):
    rows = [[f"{i:03d}", i % 2, 1 - i % 2, "text"] for i in range(12)]
    with pytest.raises(ValueError, match=r"which column has the labels\? it has image, male, female, note"):
        open_dataset(write(folder / "a.csv", ("image", "male", "female", "note"), rows))


def test_numbers_as_labels_are_in_their_order(folder):
    rows = [[f"{i:03d}", f"{i}.0"] for i in range(12)]
    dataset = open_dataset(write(folder / "a.csv", ("image", "label"), rows))
    assert dataset.classes == tuple(f"{i}.0" for i in range(12))


@pytest.mark.parametrize("missing", ["", " ", "nan", "NaN"])
def test_a_row_without_a_label(folder, missing):
    rows = [[f"{i:03d}", missing if i == 3 else "a"] for i in range(12)]
    with pytest.raises(ValueError, match=r"1 of 12 rows have no label: line 5; label them or delete them"):
        open_dataset(write(folder / "a.csv", ("image", "label"), rows))


def test_text_of_spreadsheets(folder):
    """UTF-16 with tabs, and lines that end as on Windows."""
    lines = ["id\tlabel", *(f"{i:03d}\t{CLASSES[i % 2]}" for i in range(12))]
    (folder / "a.csv").write_bytes("\r\n".join(lines).encode("utf-16"))
    everything = open_dataset(str(folder / "a.csv")).split("all")
    assert contents(everything) == {i: CLASSES[i % 2] for i in range(12)}


def test_a_table_without_names_of_columns(folder):
    rows = [[f"images/{i:03d}.png", "a"] for i in range(12)]
    with pytest.raises(ValueError, match=r"its first row is images/000.png, a; expected names of columns"):
        open_dataset(write(folder / "a.csv", rows[0], rows[1:]))


def test_groups_of_a_column_stay_on_one_side(folder):
    table = plain(folder)
    for dataset in (
        open_dataset(table, val_fraction=0.3),
        open_dataset(table, val_fraction=0.3, group_column="patient"),
        open_dataset(table, val_fraction=0.3, group_column="", group_by=None),
    ):
        sides = [{int(key[-7:-4]) // 4 for key in dataset.split(name).keys} for name in ("train", "val")]
        assert bool(sides[0] & sides[1]) == (dataset.parts["train"].groups is None)
    assert dataset.parts["train"].groups is None
    by_regex = open_dataset(table, group_by=r"(\d\d)\d\.png")
    assert len({key[-7:-5] for key in by_regex.split("val").keys}) == 1
    with pytest.raises(ValueError, match="choose one"):
        DataConfig(data=table, group_by="(.)", group_column="patient").check()


def test_columns_of_other_names(folder, caplog):
    header = ("nr", "Image Path", "Diagnosis", "weight")
    rows = [[i, f"images/{i:03d}.png", CLASSES[i % 2], 0.5] for i in range(12)]
    assert len(open_dataset(write(folder / "t.csv", header, rows)).split("all")) == 12
    header = ("a", "b", "c", "d")
    rows = [[f"{i:03d}", CLASSES[i % 2], ("train", "dev")[i % 4 == 3], i // 3] for i in range(12)]
    file = write(folder / "t.csv", header, rows)
    with pytest.raises(
        ValueError, match=r"which column has the images\? it has a, b, c, d; name it by image_column"
    ):
        open_dataset(file)
    columns = {"image_column": "a", "label_column": "b", "split_column": "c", "group_column": "d"}
    dataset = open_dataset(file, **columns)
    assert [len(dataset.split(name)) for name in dataset.splits] == [9, 3]
    assert dataset.parts["val"].groups == ["1", "2", "3"]
    with pytest.raises(ValueError, match="label_column='x': no column of"):
        open_dataset(file, **columns | {"label_column": "x"})


def test_columns_that_may_each_be_it(folder, caplog):
    """An id beside a file name: the one that names files. Two that may be groups: none, and said."""
    header = ("id", "filename", "label", "patient", "lesion_id")
    rows = [[1000 + i, f"{i:03d}.png", CLASSES[i % 2], i // 2, i] for i in range(12)]
    dataset = open_dataset(write(folder / "t.csv", header, rows))
    assert dataset.split("all").keys[0] == "images/000.png"
    assert dataset.parts["train"].groups is None
    assert "patient, lesion_id may each name the groups" in caplog.text
    rows = [[f"{i:03d}", f"{i:03d}", *CLASSES] for i in range(12)]
    with pytest.raises(ValueError, match=r"which column has the images\? id, image may each be it"):
        open_dataset(write(folder / "t.csv", ("id", "image", "label", "class"), rows))
    with pytest.raises(ValueError, match=r"which column has the labels\? label, class may each be it"):
        open_dataset(write(folder / "t.csv", ("id", "image", "label", "class"), rows), image_column="id")


def test_splits_of_a_column(folder, caplog):
    words = ["Training"] * 6 + ["VAL"] * 2 + ["test set"] * 4
    rows = [[f"{i:03d}", CLASSES[i % 2] if i < 8 else "", words[i]] for i in range(12)]
    dataset = open_dataset(write(folder / "t.csv", ("id", "label", "split"), rows))
    assert [len(dataset.split(name)) for name in dataset.splits] == [6, 2]
    assert "its 4 test images have no label" in caplog.text
    rows[2][1] = ""
    with pytest.raises(ValueError, match=r"5 of 12 rows have no label: line 4, line 10"):
        open_dataset(write(folder / "t.csv", ("id", "label", "split"), rows))
    rows = [[f"{i:03d}", CLASSES[i % 2], "train" if i else "holdout"] for i in range(12)]
    with pytest.raises(ValueError, match=r"line 2 \(holdout\): names no split"):
        open_dataset(write(folder / "t.csv", ("id", "label", "split"), rows))
    rows = [
        [f"{i:03d}", "cow" if i == 11 else CLASSES[i % 2], "test" if i > 8 else "train"] for i in range(12)
    ]
    with pytest.raises(ValueError, match="no train row is of class cow"):
        open_dataset(write(folder / "t.csv", ("id", "label", "split"), rows))


def test_missing_files_are_named(folder):
    rows = [[f"{i:03d}", CLASSES[i % 2]] for i in range(12)] + [["998", "cat"], ["x/001", "dog"]]
    with pytest.raises(
        FileNotFoundError, match=r"2 of 14 images are not in .*line 14 \(998\), line 15 \(x/001\)"
    ):
        open_dataset(write(folder / "t.csv", ("id", "label"), rows))


def test_two_files_that_a_row_may_mean(folder):
    save(folder / "masks" / "001.png")
    with pytest.raises(ValueError, match=r"line 3 \(001\): images/001\.png, masks/001\.png may each be it"):
        open_dataset(plain(folder))
    for dataset in (
        open_dataset(plain(folder), image_dir=folder / "images"),
        open_dataset(plain(folder, "images/{:03d}")),
    ):
        assert contents(dataset.split("all")) == {i: CLASSES[i % 2] for i in range(12)}


def test_an_image_in_two_rows(folder, caplog):
    rows = [[f"{i:03d}", CLASSES[i % 2]] for i in range(12)] + [["images/003.png", "dog"]]
    assert len(open_dataset(write(folder / "t.csv", ("id", "label"), rows)).split("all")) == 12
    assert "1 rows repeat others" in caplog.text
    rows[-1][1] = "cat"
    with pytest.raises(
        ValueError, match=r"images/003\.png has two values of label, line 5 \(dog\), line 14 \(cat\)"
    ):
        open_dataset(write(folder / "t.csv", ("id", "label"), rows))


@pytest.mark.parametrize(
    ("suffix", "delimiter"), [("csv", ","), ("csv", ";"), ("csv", "|"), ("csv", "\t"), ("tsv", "\t")]
)
def test_delimiters_and_a_byte_order_mark(folder, suffix, delimiter):
    file = folder / f"t.{suffix}"
    write(
        file,
        ("id", "label", "note"),
        [[f"{i:03d}", CLASSES[i % 2], "a, b; c\td"] for i in range(12)],
        delimiter,
    )
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(open_dataset(str(file)).split("all")) == 12


def test_parquet(folder):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {
        "image": [f"{i:03d}.png" for i in range(12)],
        "label": [10 if i % 2 else 9 for i in range(12)],
        "patient": [None if i == 5 else float(i // 4) for i in range(12)],
        "box": [[1, 2]] * 12,
    }
    parquet.write_table(pa.table(columns), folder / "t.parquet")
    dataset = open_dataset(str(folder / "t.parquet"))
    assert dataset.classes == ("9", "10")  # numbers in their order
    assert dataset.parts["train"].groups[4:7] == ["1.0", "images/005.png", "1.0"]
    (folder / "bad.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(ValueError, match="not a Parquet file that can be read"):
        open_dataset(str(folder / "bad.parquet"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no rows"),
        (b"id,label\n", "no rows"),
        (b"id,id\n1,2\n", "two columns are called id"),
        (b"id,label\n000,cat,1\n", "line 2: 3 cells, but the first row names 2 columns"),
        (b"id,label\n\xff\xfe,cat\n", "not a table of text; save it as CSV in UTF-8"),
        (b'id,label\n"000,cat\n', "not a table of text"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not a table of text"),
        (b"id,label\n,cat\n", "1 of 1 images are not in"),
    ],
)
def test_what_is_no_table(folder, content, message):
    (folder / "t.csv").write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        open_dataset(str(folder / "t.csv"))
    assert "\n" not in str(caught.value)


def test_columns_go_with_a_table(folder):
    for options in ({"label_column": "label"}, {"image_dir": folder}):
        with pytest.raises(ValueError, match="it goes with a table"):
            open_dataset(str(folder), **options)
    with pytest.raises(FileNotFoundError, match="no such table"):
        open_dataset(str(folder / "absent.csv"))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        open_dataset(plain(folder), image_dir=folder / "absent")


@pytest.mark.filterwarnings("error")
@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_table_opens_or_is_refused_in_one_line(folder, data):
    cell = st.sampled_from(
        ["000", "001.png", "images/002.png", "x", "", "cat", "train", "test", "1", "é", 'a"b', "\0"]
    )
    name = st.sampled_from(["id", "image", "label", "class", "split", "patient", "set", "", "other"])
    width = data.draw(st.integers(1, 5))
    rows = data.draw(st.lists(st.lists(cell, min_size=width, max_size=width), max_size=8))
    header = data.draw(st.lists(name, min_size=width, max_size=width))
    file = write(folder / "any.csv", header, rows)
    noise = data.draw(st.binary(max_size=6))
    at = data.draw(st.integers(0, (folder / "any.csv").stat().st_size))
    raw = (folder / "any.csv").read_bytes()
    (folder / "any.csv").write_bytes(raw[:at] + noise + raw[at:])
    try:
        source = open_dataset(file).split("all")
    except (BadInput, FileNotFoundError) as error:
        message = str(error)
    else:
        message = ""
        assert len(source.keys) == len(source.labels) == len(source.sizes) > 0
        assert source.labels.max() < len(source.classes)
        assert np.unique(source.keys).size == len(source)
    assert "\n" not in message
