"""Runs and their data: moved, changed, unreadable, streamed."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import resnext_jax as rj


@pytest.fixture
def finished(small_run):
    """A run of one epoch."""
    config = replace(small_run, epochs=1)
    rj.fit(config, quiet=True)
    return config


def test_a_moved_set_goes_on_and_a_changed_one_does_not(finished, image_folder, tmp_path):
    moved = shutil.copytree(image_folder, tmp_path / "moved")
    shutil.rmtree(image_folder)
    result = rj.fit(replace(finished, data=str(moved), resume=True, epochs=2), quiet=True)
    assert len(result.history) == 2
    assert rj.load_run(finished.out).evaluate("val", data=str(moved))["images"] == 4
    assert json.loads((finished.out / "config.json").read_text())["config"]["data"] == str(moved)

    (moved / "left/P00_0.jpg").rename(moved / "right/P00_9.jpg")
    with pytest.raises(rj.BadInput, match=r"gone: 1, left/P00_0\.jpg; new: 1, right/P00_9\.jpg"):
        rj.fit(replace(finished, data=str(moved), resume=True, epochs=3), quiet=True)
    run = rj.load_run(finished.out)
    with pytest.raises(rj.BadInput, match=r"gone: 1, left/P00_0\.jpg"):
        run.evaluate("val")
    assert run.evaluate("all")["images"] == 20
    assert run.evaluate("val", split_seed=3)["images"] == 4  # divided otherwise on purpose


def test_replaced_bytes_of_the_same_size(finished, image_folder):
    """Found if the images are read at once; a streamed run would have to read them all for it."""
    file = image_folder / "left/P00_0.jpg"
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    with pytest.raises(rj.BadInput, match=r"of another content: 1, left/P00_0\.jpg"):
        rj.fit(replace(finished, resume=True, epochs=2), quiet=True)
    assert rj.fit(replace(finished, resume=True, epochs=2, cache_gib=0), quiet=True).history


def test_a_run_from_before_fingerprints(finished, image_folder, tmp_path):
    path = finished.out / "config.json"
    old = json.loads(path.read_text())
    del old["data"]
    path.write_text(json.dumps(old))
    moved = shutil.copytree(image_folder, tmp_path / "moved")
    with pytest.raises(rj.BadInput, match="does not say what images it was trained on"):
        rj.fit(replace(finished, data=str(moved), resume=True, epochs=2), quiet=True)
    assert len(rj.fit(replace(finished, resume=True, epochs=2), quiet=True).history) == 2


def test_streaming_changes_nothing_but_the_time(small_run, tmp_path):
    histories = []
    for cache_gib in (1.0, 0.0):
        config = replace(small_run, epochs=2, cache_gib=cache_gib, out=tmp_path / f"run{cache_gib}")
        rows = rj.fit(config, quiet=True).history
        histories.append([{k: v for k, v in row.items() if "second" not in k} for row in rows])
    assert histories[0] == histories[1]


@pytest.mark.parametrize("cache_gib", [1.0, 0.0])
def test_skipped_images_are_written_to_the_run(small_run, image_folder, cache_gib):
    (image_folder / "left/P00_0.jpg").write_bytes(b"no image")
    (image_folder / "right/bad\x1b.jpg").write_bytes(b"")
    config = replace(small_run, epochs=1, cache_gib=cache_gib)
    with pytest.raises(rj.BadInput, match=r"images cannot be read \(skip_bad_images=True goes on"):
        rj.fit(config, quiet=True)
    shutil.rmtree(config.out, ignore_errors=True)
    rj.fit(replace(config, skip_bad_images=True, batch_size=2), quiet=True)
    lines = (config.out / "bad_images.txt").read_text().splitlines()
    assert {line.split(":")[0] for line in lines} == {"left/P00_0.jpg", "right/bad\\x1b.jpg"}


def test_evaluating_on_fewer_classes_one_image_each_and_bad_images(finished, tmp_path, caplog):
    for name in ("right/1.png", "right/2.png"):
        (tmp_path / "other" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9, 3), 80, np.uint8)).save(tmp_path / "other" / name)
    run = rj.load_run(finished.out)
    metrics = run.evaluate("all", data=str(tmp_path / "other"))
    assert (metrics["images"], metrics["confusion"][0]) == (2, [0, 0])
    assert "no images of left" in caplog.text
    assert metrics["per_class"]["right"]["support"] == 2
    (tmp_path / "other/right/2.png").write_bytes(b"")
    for cache_gib in (1.0, 0.0):
        options = {"data": str(tmp_path / "other"), "cache_gib": cache_gib}
        with pytest.raises(rj.BadInput, match="1 of"):
            run.evaluate("all", **options)
        found = run.predict_split("all", skip_bad_images=True, **options)
        assert found.keys == ["right/1.png"]
        assert found.labels.tolist() == [1]
        assert len(found.log_probabilities) == 1
    (tmp_path / "other/up").mkdir()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "other/up/1.png")
    with pytest.raises(rj.BadInput, match="and does not know up"):
        run.evaluate("all", data=str(tmp_path / "other"))


def test_a_run_on_a_table_is_evaluated_on_another_and_on_a_folder(small_run, image_folder, tmp_path):
    def table(name, image, label):
        rows = [
            f"{file.relative_to(image_folder)},{file.parent.name}\n"
            for file in sorted(image_folder.rglob("*.jpg"))
        ]
        (image_folder / name).write_text("".join([f"{image},{label}\n", *rows]))
        return str(image_folder / name)

    config = replace(small_run, epochs=1, data=table("a.csv", "where", "what"))
    config = replace(config, image_column="where", label_column="what")
    rj.fit(config, quiet=True)
    run = rj.load_run(config.out)
    assert run.evaluate("val")["images"] == 4
    other = table("b.csv", "file", "kind")
    columns = {"image_column": "file", "label_column": "kind"}
    assert run.evaluate("val", data=other, **columns)["images"] == 4
    assert run.evaluate("all", data=str(image_folder))["images"] == 20


@pytest.mark.parametrize("monitor", ["top1", "loss", "balanced_accuracy", "macro_f1", "roc_auc"])
def test_what_is_monitored_makes_the_best_epoch(small_run, monitor):
    result = rj.fit(replace(small_run, epochs=3, monitor=monitor), quiet=True)
    sign = -1 if monitor == "loss" else 1
    keys = [(sign * row[f"val_{monitor}"], -row["val_loss"], -row["epoch"]) for row in result.history]
    best = result.history[keys.index(max(keys))]
    assert result.summary["best_epoch"] == best["epoch"]
    assert result.summary[f"best_val_{monitor}"] == best[f"val_{monitor}"]
    run = rj.load_run(small_run.out)
    assert run.step == best["step"]
    metrics = run.evaluate("val")
    measured = metrics["macro"]["f1"] if monitor == "macro_f1" else metrics[monitor]
    assert measured == pytest.approx(best[f"val_{monitor}"], abs=1e-5)
