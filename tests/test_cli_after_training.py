"""Each command that comes after training, on a real run."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import resnext_jax as rj
from resnext_jax import cli


def run(*arguments) -> None:
    cli.main([str(argument) for argument in arguments])


def error_of(capsys, *arguments) -> str:
    """The one line that a refused command leaves on standard error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1, error
    return error


@pytest.fixture
def trained(small_run):
    rj.fit(replace(small_run, epochs=2), quiet=True)
    return small_run.out


def test_explain(trained, image_folder, tmp_path, capsys):
    photo = image_folder / "left" / "P00_0.jpg"
    for method in ("grad-cam", "grad-cam++", "occlusion"):
        out = tmp_path / f"{method}.png"
        run("explain", trained, photo, image_folder / "right", "--method", method, "--top-k", 2, "--out", out)
        assert f"{out}: {method} of 11 images" in capsys.readouterr().out
        # A row an image, with two maps; each picture is larger than the 40 x 36 pixels of the original.
        width, height = Image.open(out).size
        assert width > 3 * 190
        assert height > 11 * 220
    run("explain", trained, photo, "--classes", "right", "--stage", "stem", "--out", tmp_path / "one.svg")
    explain = ("explain", trained, photo, "--out", tmp_path / "x.png")
    assert "class 'rihgt': none of the model's 2 classes; did you mean 'right'" in error_of(
        capsys, *explain, "--classes", "rihgt"
    )
    assert "--stage='layer9': expected one of stem, layer1" in error_of(capsys, *explain, "--stage", "layer9")
    assert "--top-k=0" in error_of(capsys, *explain, "--top-k", 0)
    assert "picture format" in error_of(capsys, "explain", trained, photo, "--out", tmp_path / "x.docx")
    assert not (tmp_path / "x.png").exists()


def test_report(trained, tmp_path, capsys):
    pytest.importorskip("jinja2")
    run("report", trained, "--positive", "left")
    assert f"{trained / 'report.html'}:" in capsys.readouterr().out
    page = (trained / "report.html").read_text(encoding="utf-8")
    assert "To be detected: left" in page
    assert "Held out for validation" in page
    assert "groups by their names" in page
    assert "groups of near copies" not in page
    run(
        "report",
        trained,
        "--split",
        "train",
        "--examples",
        2,
        "--check-data",
        "--out",
        tmp_path / "new" / "r.html",
    )
    page = (tmp_path / "new" / "r.html").read_text(encoding="utf-8")
    assert "chosen by these very images" not in page
    assert "groups of near copies" in page
    assert "0.0 % of the 4 validation images have a copy among the 16 training images" in page
    assert "positive='up'" in error_of(capsys, "report", trained, "--positive", "up").replace("--", "")


def test_compare(trained, small_run, tmp_path, capsys):
    other = replace(small_run, out=tmp_path / "other", lr=0.001)
    rj.fit(other, quiet=True)
    run("compare", trained, tmp_path / "other", "--curves", tmp_path / "curves.png")
    shown = capsys.readouterr().out
    for words in ("4 images of split val", "difference from run", "balanced accuracy", "only it is right"):
        assert words in shown
    assert Image.open(tmp_path / "curves.png").size[0] > 600
    run("compare", trained, tmp_path / "other", "--data", other.data, "--json")
    values = json.loads(capsys.readouterr().out)
    assert values["split"] == "all"
    assert values["runs"][0]["metrics"]["images"] == 20
    assert set(values["runs"][1]["difference"]) == {"top1", "balanced_accuracy", "macro.f1", "loss"}
    assert "1 run: expected two or more" in error_of(capsys, "compare", trained)
    rj.fit(replace(small_run, out=tmp_path / "split", split_seed=5), quiet=True)
    assert "--data=... to compare them on the same images" in error_of(
        capsys, "compare", trained, tmp_path / "split"
    )


def test_features(trained, image_folder, tmp_path, capsys):
    run("features", trained, image_folder, "--out", tmp_path / "f.npz")
    with np.load(tmp_path / "f.npz") as saved:
        assert saved["features"].shape == (20, 256)
        assert saved["probabilities"].shape == (20, 2)
        assert saved["keys"][0].endswith("P00_0.jpg")
    assert "20 x 256 of pool" in capsys.readouterr().out
    features = ("features", trained, image_folder)
    assert "expected the ending .npz" in error_of(capsys, *features, "--out", tmp_path / "f.csv")
    assert "--stage='fc'" in error_of(capsys, *features, "--stage", "fc", "--out", tmp_path / "g.npz")


def test_export(trained, tmp_path, capsys):
    pytest.importorskip("onnx")
    for name in ("m.onnx", "m.jaxexport"):
        run("export", trained, tmp_path / name)
        assert "to the probabilities of 2 classes" in capsys.readouterr().out
        assert (tmp_path / name).stat().st_size > 10_000
    assert "expected an ending of .jaxexport, .onnx" in error_of(capsys, "export", trained, tmp_path / "m.pb")


def test_predict_with_views_and_a_threshold(trained, image_folder, tmp_path, capsys):
    files = ("--csv", tmp_path / "p.csv", "--grid", tmp_path / "p.png")
    run("predict", trained, image_folder, "--tta", "--threshold", 1, *files)
    assert capsys.readouterr().out.count("undecided") == 20
    with (tmp_path / "p.csv").open() as file:
        assert {row["class"] for row in csv.DictReader(file)} == {""}
    assert Image.open(tmp_path / "p.png").size[0] > 600
    assert "--threshold=1.5" in error_of(capsys, "predict", trained, image_folder, "--threshold", 1.5)


def test_images_that_cannot_be_read_leave_no_line(trained, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"no image")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run("predict", trained, tmp_path / "bad.png")
    shown = capsys.readouterr()
    assert shown.out.split() == ["image", "class", "probability"]
    assert shown.out.count("\n") == shown.err.count("\n") == 1


def test_mistakes(trained, tmp_path, capsys):
    run("evaluate", trained, "--split", "all", "--mistakes", tmp_path / "m.png", "--json")
    metrics = json.loads(capsys.readouterr().out)
    assert (tmp_path / "m.png").exists() == (metrics["top1"] < 1)
    assert metrics["intervals"]["top1"][0] < metrics["top1"] or metrics["top1"] == 0


def test_the_exit_code_tells_of_a_damaged_checkpoint(trained, image_folder, tmp_path, capsys):
    """The results are those of the other checkpoint, whole; 3 says nothing else."""
    checkpoints = trained / "checkpoints"
    latest, best = checkpoints / "8", checkpoints / "7"
    shutil.copytree(latest, best)
    (best / "checksums.json").unlink()  # as the first version wrote them
    (best / "metrics" / "metrics").write_text('{"val_top1": 1.0, "val_loss": 0.0, "step": 7}')
    csv_file = tmp_path / "p.csv"
    commands = {
        "evaluate": ("evaluate", trained, "--json"),
        "predict": ("predict", trained, image_folder, "--csv", csv_file),
        "convert": ("convert", trained, tmp_path / "w.safetensors"),
    }
    (latest / "meta" / "metadata").write_text("{")
    for arguments in commands.values():
        run(*arguments)  # the best is read by itself
    shutil.rmtree(latest)
    shutil.copytree(best, latest)
    for path in best.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    csv_file.unlink()
    capsys.readouterr()
    for name, arguments in commands.items():
        with pytest.raises(SystemExit) as stop:
            run(*arguments)
        assert stop.value.code == 3, name
        shown = capsys.readouterr()
        assert f"{best}: damaged, it has no model; it does not count as the best" in shown.err
        if name == "evaluate":
            assert json.loads(shown.out)["step"] == 8
        if name == "predict":
            assert len(list(csv.reader(csv_file.open()))) == 21


def test_a_setting_of_the_wrong_type_is_named_with_its_file(trained, capsys):
    config = json.loads((trained / "config.json").read_text())
    config["config"]["data"] = 3
    (trained / "config.json").write_text(json.dumps(config))
    for command in (("evaluate", trained), ("train", "--resume", "--out", trained)):
        assert f"{trained / 'config.json'}: --data=3: expected a text" in error_of(capsys, *command)
