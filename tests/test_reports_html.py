"""The page about a run: complete, self-contained, safe with any class name, honest about small sets."""

import platform
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from small_models import labelled, small_model, small_spec

from resnext_jax import BadInput, runs
from resnext_jax.data import open_dataset
from resnext_jax.errors import MissingPackage
from resnext_jax.inference import LabelledPredictions, Predictor
from resnext_jax.runs import ModelSpec

pytest.importorskip("jinja2")
from resnext_jax.reports.html import write_report
from resnext_jax.reports.trained_on import trained_on

EVIL = "<script>alert('x')</script> & $\\frac"


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self, file: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


HISTORY = [
    {"epoch": epoch, "step": 9 * epoch, "lr": 0.1, "train_loss": 1 / epoch, "train_top1": 0.5}
    | {"val_loss": 1.5 / epoch, "val_top1": 0.3 + 0.1 * epoch, "seconds": 2.0, "images_per_second": 99.0}
    for epoch in (1, 2, 3)
]


def page_of(
    directory: Path, classes=("ring", EVIL, "猴痘"), history=HISTORY, groups=None, settings=None
) -> Page:
    """Of a real model's predictions for 40 images."""
    spec = small_spec("cifar")
    spec = ModelSpec(spec.name, spec.architecture, classes, spec.preprocessing)
    settings = settings or {"data": "demo", "epochs": 3, "monitor": "top1", "lr": 0.1}
    runs.start(directory, spec, settings)
    runs.write_history(directory, history)
    predictor = Predictor(small_model("cifar", num_classes=len(classes)), spec, settings, 27)
    images = labelled(np.arange(40) % len(classes), classes, "photo {} <i>.jpg")
    probabilities = predictor.probabilities(images.gather(np.arange(40)))
    predictions = LabelledPredictions(images, np.log(probabilities), classes, groups)
    write_report(
        predictor,
        predictions,
        directory,
        directory / "report.html",
        split="val",
        data="demo",
        command="again <now>",
    )
    return Page(directory / "report.html")


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    return page_of(tmp_path_factory.mktemp("report") / "my run")


def test_nothing_is_loaded_from_anywhere(page):
    sources = [tag.get("src") for tag in page.all("img")]
    assert len(sources) >= 40
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not any(
        "loading" in tag for tag in page.all("img")
    )  # what was never scrolled to would not be printed
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    links = [tag["href"] for tag in page.all("a")]
    assert all(link.startswith("#") for link in links)
    assert "url(" not in page.text  # of the style


def test_every_picture_has_words_for_it(page):
    assert all(tag.get("alt") for tag in page.all("img"))
    charts = [tag for tag in page.all("svg") if "role" in tag]
    assert len(charts) == 6
    assert all(tag["role"] == "img" and tag["aria-label"] for tag in charts)
    assert page.all("html")[0]["lang"] == "en"
    assert any(tag.get("name") == "viewport" for tag in page.all("meta"))


def test_the_page_tells_the_run(page):
    for words in ("my run", "ring", EVIL, "猴痘", "40 images", "Wilson", "macro F1", "PR-AUC", "again <now>"):
        assert words in page.text, words
    assert "0.1" in page.text  # the rate, among the settings
    assert "chosen by these very images" in page.text
    assert "1000 resamples of the 40 images" in page.text
    assert "the best one is epoch 3" in page.text


def test_names_are_text_and_never_markup(page):
    assert "script" not in {tag for tag, _ in page.tags}
    assert not page.all("i")
    assert any(EVIL in (tag["alt"] or "") for tag in page.all("img"))


def test_charts_take_the_pages_colours(tmp_path):
    page_of(tmp_path / "run")
    text = (tmp_path / "run" / "report.html").read_text()
    assert "currentColor" in text
    assert "#010203" not in text
    assert "prefers-color-scheme: dark" in text
    assert "Verdana" not in text  # the page's own font
    assert len(text) < 5 * 2**20


def test_two_classes_groups_and_no_history(tmp_path):
    groups = [f"P{i // 4}" for i in range(40)]
    page = page_of(tmp_path / "run", ("well", "ill"), [], groups, {"data": "", "weights": "x.pth"})
    for words in ("To be detected: ill", "sensitivity", "10 groups", "trained elsewhere"):
        assert words in page.text
    assert not [tag for tag in page.all("section") if tag.get("id") == "training"]
    assert "chosen by these very images" not in page.text


def test_many_classes(tmp_path):
    classes = tuple(f"class {i}" for i in range(30))
    page = page_of(tmp_path / "run", classes)
    assert not [tag for tag in page.all("table") if tag.get("class") == "matrix"]
    assert "Most frequent confusions" in page.text
    assert "top-5" in page.text
    assert "those that are hardest" in page.text


def test_training_data_that_are_gone(tmp_path):
    page = page_of(tmp_path / "run", settings={"data": str(tmp_path / "gone"), "epochs": 3})
    assert "cannot be read any more" in page.text
    assert "gone does not exist" in page.text


def test_what_a_cheap_look_at_the_data_finds(image_folder, tmp_path):
    """Two photos of each of five patients, of which the split knows nothing; a copy of all on both sides."""
    photos = sorted((image_folder / "left").iterdir())
    for photo in photos:
        photo.with_name(f"copy of {photo.name}").write_bytes(photo.read_bytes())
    settings = {"data": str(image_folder), "val_fraction": 0.5}
    text = page_of(tmp_path / "run", ("left", "right"), settings=settings).text
    assert "exact copies across the split" in text
    [share] = re.findall(r"exact copies across the split([\d.]+) %", text)
    dataset = open_dataset(str(image_folder), val_fraction=0.5)
    contents = [
        [dataset.split(s)[i]["image"] for i in range(len(dataset.split(s)))] for s in ("train", "val")
    ]
    expected = sum(content in contents[0] for content in contents[1]) / len(contents[1])
    assert expected > 0
    assert float(share) == pytest.approx(100 * expected, abs=0.05)
    assert "--check-data" in text
    for photo in photos:
        photo.with_name(f"copy of {photo.name}").unlink()
    text = page_of(tmp_path / "run", ("left", "right"), settings=settings).text
    assert re.search(r"groups by their names5at most 4 images in one; .*this split ignores them", text)
    assert re.search(r"exact copies across the split0\.0 %", text)


def test_where_a_run_was_trained_and_what_it_left_out(tmp_path):
    directory = tmp_path / "run"
    page_of(directory)
    (directory / "bad_images.txt").write_text("a/1.jpg: truncated\nb/2.jpg: no image\n", encoding="utf-8")
    gone = {"data": str(tmp_path / "gone")}
    spec, predictor = small_spec("cifar"), small_model("cifar")
    found = trained_on(Predictor(predictor, spec, gone, 27, directory))
    assert found["findings"] == [
        ("unreadable, left out of training", "2", "a/1.jpg: truncated; b/2.jpg: no image")
    ]
    assert "cannot be read any more" in found["division"]
    machine = runs.read_config(directory)["machine"]
    page = page_of(directory)
    assert re.search(rf"\d x cpu; {machine['cpus']} CPUs?, {re.escape(platform.platform())}", page.text)


def test_a_failed_validation_leaves_the_other_curves(tmp_path):
    failed = HISTORY[0] | {"epoch": 4, "val_loss": float("nan"), "val_top1": float("nan")}
    page = page_of(tmp_path / "run", history=[*HISTORY, failed])
    assert "the best one is epoch 3" in page.text


def test_jinja_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingPackage, match=r"resnext-jax\[report\]"):
        page_of(tmp_path / "run")


def test_a_positive_class_that_is_none():
    classes = ("a", "b", "c")
    predictions = LabelledPredictions(labelled([0, 1], classes), np.log(np.full((2, 3), 1 / 3)), classes)
    with pytest.raises(BadInput, match="positive='ill'"):
        predictions.metrics("ill")


def test_of_mistakes_the_surest_of_each_group_comes_first():
    sure = np.array([0.9, 0.99, 0.6, 0.8, 0.7])
    log_probabilities = np.log(np.stack([sure, 1 - sure], 1))
    images = labelled([1, 1, 1, 1, 0], ("a", "b"))
    alone = LabelledPredictions(images, log_probabilities, ("a", "b"))
    assert alone.mistakes(9).tolist() == [1, 0, 3, 2]
    grouped = LabelledPredictions(images, log_probabilities, ("a", "b"), ["x", "x", "y", "y", "y"])
    assert grouped.mistakes(3).tolist() == [1, 3, 0]
