"""The command line: every command on real input, in this process and as a process of its own."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnext_jax import cli, create_model, load_run
from resnext_jax.cli.messages import with_flags
from resnext_jax.errors import BadInput
from resnext_jax.models import list_models
from resnext_jax.training import Interrupted


def run(*arguments) -> None:
    cli.main([str(argument) for argument in arguments])


def error_of(capsys, *arguments) -> str:
    """The one line that a refused command leaves on standard error."""
    capsys.readouterr()  # what came before it
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err
    return captured.err


@pytest.fixture
def trained(tiny, image_folder, tmp_path):
    flags = ["--image-size", 16, "--batch-size", 4, "--epochs", 2, "--lr", 0.02, "--devices", 1]
    run("train", "--data", image_folder, "--model", tiny, *flags, "--out", tmp_path / "run")
    return tmp_path / "run"


def test_train_evaluate_predict(trained, image_folder, tmp_path, capsys):
    assert Image.open(trained / "curves.png").size[0] > 600

    run("evaluate", trained, "--json", "--positive", "left", "--confusion", tmp_path / "confusion.png")
    values = json.loads(capsys.readouterr().out)
    summary = json.loads((trained / "summary.json").read_text())
    assert values["top1"] == summary["best_val_top1"]
    assert values["split"] == "val"
    assert values["sensitivity"] == values["per_class"]["left"]["recall"]
    assert sum(map(sum, values["confusion"])) == values["images"] == 4
    assert Image.open(tmp_path / "confusion.png").size[0] > 300
    run("evaluate", trained, "--checkpoint", "latest", "--split", "train")
    shown = capsys.readouterr().out
    assert "16 images of split train" in shown
    assert "sensitivity" in shown
    assert "precision" in shown
    run("evaluate", trained, "--data", image_folder)
    assert "20 images of split all" in capsys.readouterr().out

    run(
        "predict",
        trained,
        image_folder,
        "--csv",
        tmp_path / "p.csv",
        "--grid",
        tmp_path / "p.png",
        "--top-k",
        2,
    )
    assert "P03_1.jpg" in capsys.readouterr().out
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    assert all(abs(float(row["left"]) + float(row["right"]) - 1) < 1e-5 for row in rows)
    assert all(row["class"] == max(("left", "right"), key=lambda c, row=row: float(row[c])) for row in rows)
    colors = Image.open(tmp_path / "p.png").convert("RGB").getcolors(1 << 24)
    assert len(colors) > 1000, "the grid shows no images"


def test_resume_takes_the_runs_own_settings(trained, capsys):
    run("train", "--resume", "--out", trained, "--epochs", 3)
    shown = capsys.readouterr().out
    assert "resuming after 8 steps" in shown
    assert "compiled the training step in" in shown
    assert "epoch 3/3" in shown
    assert len((trained / "history.jsonl").read_text().splitlines()) == 3
    assert "lr: 0.02 -> 0.5" in error_of(capsys, "train", "--resume", "--out", trained, "--lr", 0.5)


def test_summary_and_models(capsys):
    run("summary", "resnext50_32x4d", "--freeze", "backbone")
    shown = capsys.readouterr().out
    assert "56 x 56 x 256" in shown
    assert f"{2048 * 1000 + 1000:,}" in shown
    assert "4,230,479,872" in shown  # torchvision: 4.23 GFLOPS
    run("models")
    shown = capsys.readouterr().out
    assert all(name in shown for name in list_models())


def test_data_show_draws_samples(image_folder, tmp_path):
    run("data", "show", image_folder, "--out", tmp_path / "show.png", "--count", 5, "--image-size", 32)
    assert len(Image.open(tmp_path / "show.png").convert("RGB").getcolors(1 << 24)) > 1000


def test_bad_input_is_one_line(trained, image_folder, tmp_path, capsys):
    capsys.readouterr()
    train = ("train", "--data", image_folder, "--out", tmp_path / "new")
    predict = ("predict", trained, image_folder)
    assert "did you mean resnext50_32x4d" in error_of(capsys, *train, "--model", "resnext50")
    assert "error: --lr=-1.0: " in error_of(capsys, *train, "--lr", "-1")
    assert "exists already" in error_of(capsys, "train", "--data", image_folder, "--out", trained)
    assert "does not exist" in error_of(
        capsys, "train", "--data", tmp_path / "none", "--out", tmp_path / "new"
    )
    assert "no run directory" in error_of(capsys, "evaluate", tmp_path / "none")
    assert "no such file" in error_of(capsys, "predict", trained, tmp_path / "none.jpg")
    assert "picture format" in error_of(
        capsys, "predict", trained, image_folder, "--grid", tmp_path / "p.docx"
    )
    assert "--top-k=0: " in error_of(capsys, *predict, "--top-k", 0)
    assert "no test split" in error_of(capsys, "evaluate", trained, "--split", "test")
    (tmp_path / "bad.jpg").write_bytes(b"not an image")
    assert "bad.jpg" in error_of(capsys, "predict", trained, tmp_path / "bad.jpg")
    assert "--image-size=0: " in error_of(capsys, "summary", "resnet18", "--image-size", 0)
    assert "invalid choice 'lion' for argument '--optimizer'" in error_of(
        capsys, *train, "--optimizer", "lion"
    )
    assert "did you mean --optimizer" in error_of(capsys, *train, "--optimzer", "adam")
    assert "unknown command 'evalute': did you mean evaluate?" in error_of(capsys, "evalute", trained)
    assert "unknown command 'data shw': did you mean data show?" in error_of(capsys, "data", "shw", "x")
    assert "Expected one of {data prepare, data show" in error_of(capsys, "data")
    assert "images: expected at least one" in error_of(capsys, "predict", trained)
    assert "did you mean" not in error_of(capsys, "models", "--json")
    assert "--resume with --overwrite: choose" in error_of(
        capsys, "train", "--resume", "--overwrite", "--out", trained
    )
    assert "instantiated from ['fast']" in error_of(capsys, *train, "--lr", "fast")
    assert "Missing from resnext-jax evaluate: RUN" in error_of(capsys, "evaluate")
    assert "--plateau-patience=3 with" in error_of(capsys, *train, "--plateau-patience", 3)
    assert "--positive='up': expected one of" in error_of(capsys, "evaluate", trained, "--positive", "up")
    assert not (tmp_path / "new").exists()


def test_fields_in_messages_become_flags():
    assert with_flags("top_k=0: expected 1") == "--top-k=0: expected 1"
    assert with_flags("resume=True with overwrite=False") == "--resume with --no-overwrite"
    assert (
        with_flags("class_weights='balanced' with mixup=0.2") == "--class-weights='balanced' with --mixup=0.2"
    )
    assert with_flags("a mixed label; use balanced_sampler") == "a mixed label; use --balanced-sampler"
    assert with_flags("`list_models()` lists all") == "`resnext-jax models` lists all"
    assert with_flags("prepare_tfds('tfds:a', '/b')") == "resnext-jax data prepare tfds:a --data-dir /b"
    # Neither positional arguments, nor what only looks like a flag.
    for same in (
        "run=3",
        "/runs/lr=0.1/x.png",
        "a.lr=3",
        "my_lr=3",
        "--file_format=array_record",
        "the data",
        "top_k.png",
    ):
        assert with_flags(same) == same


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (BadInput("lr=3: expected less"), 2, "error: --lr=3: expected less"),
        (FileNotFoundError("x: no such file"), 2, "error: x: no such file"),
        (FloatingPointError("loss nan"), 2, "error: loss nan"),
        (MemoryError(), 2, "error: there is too little memory for this; use a smaller batch or image size"),
        (
            Interrupted(15, "saved", Path("a run")),
            143,
            "interrupted: saved; go on with: resnext-jax train --resume --out 'a run'",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_the_user_can_mend_is_one_line(error, code, line, capsys, monkeypatch):
    monkeypatch.setattr("os._exit", sys.exit)
    with pytest.raises(SystemExit) as stop, cli.clean_exit():
        raise error
    assert stop.value.code == code
    assert capsys.readouterr().err == line + "\n"
    monkeypatch.setenv("RESNEXT_JAX_TRACEBACK", "1")
    with pytest.raises(type(error)), cli.clean_exit():
        raise error


def test_a_bug_shows_its_trace_and_exits_with_1():
    code = "from resnext_jax.cli import clean_exit\nwith clean_exit():\n    raise ValueError('shapes differ')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("ValueError: shapes differ\n")


def test_convert_a_run_for_torch_and_back(trained, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    run("convert", trained, tmp_path / "tiny.pth")
    run("convert", tmp_path / "tiny.pth", tmp_path / "tiny.safetensors", "--model", "tiny")
    assert "weights of tiny" in capsys.readouterr().out
    state = torch.load(tmp_path / "tiny.pth", weights_only=True)
    predictor = load_run(trained)
    np.testing.assert_array_equal(state["fc.bias"], predictor.model.fc.bias)
    again = create_model("tiny", num_classes=None, weights=tmp_path / "tiny.safetensors")
    np.testing.assert_array_equal(again.conv1.kernel, predictor.model.conv1.kernel)
    assert "no such file" in error_of(capsys, "convert", tmp_path / "none.pth", tmp_path / "x.pth")


def test_other_classes_are_refused(trained, image_folder, capsys):
    (image_folder / "left").rename(image_folder / "up")
    assert "its classes are right, up" in error_of(capsys, "evaluate", trained, "--data", image_folder)


def test_the_command_itself():
    """The installed script: exit code and message of a real process."""
    command = [sys.executable, "-c", "from resnext_jax.cli import main; main()"]
    done = subprocess.run([*command, "train", "--data", "nowhere"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: nowhere does not exist")
    assert done.stderr.count("\n") == 1


def test_help_lists_the_commands_of_a_group(capsys):
    with pytest.raises(SystemExit) as stop:
        run("data", "--help")
    assert not stop.value.code
    shown = capsys.readouterr().out
    assert "data show" in shown
    assert "predict" not in shown


def test_help_explains_the_flags(capsys):
    with pytest.raises(SystemExit) as stop:
        run("train", "--help")
    assert not stop.value.code
    assert "--group-by" in capsys.readouterr().out
