"""Weights from the command line: `convert` in every direction, `train --weights`, and what is refused."""

import json
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from PIL import Image
from test_cli import error_of, run

from resnext_jax import create_model, load_run
from resnext_jax.data import Preprocessing
from resnext_jax.models import abstract_model
from resnext_jax.runs import Checkpoints
from resnext_jax.weights import named, read_weights, write_weights
from resnext_jax.weights.state_dict import torch_shapes

Arrays = dict[str, np.ndarray]


def random_arrays(name: str, **options: int) -> Arrays:
    rng = np.random.default_rng(0)
    shapes = torch_shapes(abstract_model(name, **options))
    # Positive, as variances are.
    return {key: rng.uniform(0.01, 0.1, shape).astype(np.float32) for key, shape in shapes.items()}


@pytest.fixture
def arrays(tiny) -> Arrays:
    return random_arrays(tiny, num_classes=2)


@pytest.fixture
def file(arrays, tmp_path) -> Path:
    write_weights(path := tmp_path / "w.safetensors", arrays)
    return path


def flags(folder: Path, model: str, out: Path, *more: object) -> list[object]:
    size = ("--image-size", 16, "--batch-size", 4, "--epochs", 1, "--lr", 0.001, "--devices", 1)
    split = ("--group-by", r"^(P\d+)_")
    return ["train", "--data", folder, "--model", model, *size, *split, "--out", out, *more]


def test_convert_in_every_direction(tiny, file, tmp_path, capsys):
    """Through each pair of kinds, and back to the first file's very bytes."""
    pytest.importorskip("torch")
    places = [
        file,
        *(tmp_path / name for name in ("a", "b", "c.pth", "d.pth", "e", "f.safetensors", "g.pth")),
    ]
    places += [tmp_path / "h.safetensors", tmp_path / "i.safetensors"]
    for source, destination in pairwise(places):
        run("convert", source, destination, "--model", tiny)
        assert tiny in capsys.readouterr().out
    assert places[-1].read_bytes() == file.read_bytes()
    assert (tmp_path / "c.pth").read_bytes() == (tmp_path / "g.pth").read_bytes()


def test_a_converted_run_predicts(tiny, file, image_folder, tmp_path, capsys):
    (names := tmp_path / "classes.txt").write_text("right\nleft\n\n")
    out = tmp_path / "run"
    run("convert", file, out, "--model", tiny, "--classes", names, "--image-size", 16)
    assert f"{out}: tiny for 2 classes of images of 16 px" in capsys.readouterr().out
    image = image_folder / "left" / "P00_0.jpg"
    run("predict", out, image)
    shown = capsys.readouterr().out
    predictions = load_run(out).predict([image])
    assert predictions.classes == ("right", "left")
    assert predictions.top()[0][0][0] in shown
    model, prepare = create_model(tiny, num_classes=2, weights=out), Preprocessing(16)
    assert model.preprocessing == prepare
    model.eval()
    pixels = (prepare(np.asarray(Image.open(image))) / 255 - prepare.mean) / prepare.std
    expected = jax.nn.softmax(model(jnp.asarray(pixels[None], jnp.float32)))
    np.testing.assert_allclose(predictions.probabilities, expected, rtol=1e-5)

    # Evaluation and resuming need what weights do not tell.
    assert "--data='': expected `demo`, a folder" in error_of(capsys, "evaluate", out)
    # The folder has the same classes in another order: labels follow the names.
    evaluated = load_run(out).evaluate("all", data=str(image_folder))
    by_name = load_run(out).predict([image_folder])
    hits = [top[0][0] == true for top, true in zip(by_name.top(), by_name.true_classes(), strict=True)]
    assert evaluated["top1"] == pytest.approx(np.mean(hits))
    assert "start one with --weights=" in error_of(capsys, "train", "--resume", "--out", out)
    # A folder for the hub keeps what this run was told, and so does a run made of it.
    run("convert", out, tmp_path / "folder")
    assert "only resnext_jax reads this folder" in capsys.readouterr().err
    run("convert", tmp_path / "folder", tmp_path / "again")
    assert load_run(tmp_path / "again").classes == ("right", "left")
    assert load_run(tmp_path / "again").preprocessing == prepare
    np.testing.assert_array_equal(
        load_run(tmp_path / "again").predict([image]).probabilities, predictions.probabilities
    )


def test_conversions_that_are_refused(tiny, file, tmp_path, capsys):
    to_run = ("convert", file, tmp_path / "run", "--model", tiny)
    (names := tmp_path / "classes.txt").write_text("a\nb\nb\n")
    assert "3 names of classes, 2 of them different; the weights tell 2 classes apart" in error_of(
        capsys, *to_run, "--classes", names
    )
    assert "gone.txt" in error_of(capsys, *to_run, "--classes", tmp_path / "gone.txt")
    assert "--image-size=-1: expected" in error_of(capsys, *to_run, "--image-size", -1)
    assert "exists already" in error_of(capsys, "convert", file, tmp_path, "--model", tiny)
    assert "it goes with a run directory" in error_of(
        capsys, "convert", file, tmp_path / "v.safetensors", "--classes", names
    )
    assert "name the model whose weights they are (--model=NAME)" in error_of(
        capsys, "convert", "IMAGENET1K_V2", tmp_path / "run"
    )
    write_weights(grey := tmp_path / "grey.safetensors", random_arrays(tiny, num_classes=2, in_channels=1))
    assert "for images of 1 channels; a run reads RGB images" in error_of(
        capsys, "convert", grey, tmp_path / "run", "--model", tiny
    )
    backbone = {name: array for name, array in read_weights(file).items() if not name.startswith("fc.")}
    write_weights(headless := tmp_path / "backbone.safetensors", backbone)
    assert "the weights have no head (fc.weight)" in error_of(
        capsys, "convert", headless, tmp_path / "run", "--model", tiny
    )
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "v.safetensors").exists()


def test_raw_weights_of_a_run_with_an_average(tiny, image_folder, tmp_path, capsys):
    """`--no-ema` to a file and to a folder for the hub: what the optimiser moved, not the average of it."""
    out = tmp_path / "run"
    run(*flags(image_folder, tiny, out, "--ema-decay", 0.9))
    files = {}
    for ema in ("--ema", "--no-ema"):
        run("convert", out, tmp_path / f"w{ema}.safetensors", ema)
        run("convert", out, tmp_path / f"folder{ema}", ema)
        files[ema] = read_weights(tmp_path / f"w{ema}.safetensors")
        in_folder = read_weights(tmp_path / f"folder{ema}" / "model.safetensors")
        assert in_folder.keys() == files[ema].keys()
        for name, array in in_folder.items():
            np.testing.assert_array_equal(array, files[ema][name])
    with Checkpoints(out) as checkpoints:
        moved = checkpoints.read_optimizer(checkpoints.step_of("best"))["params"]
    np.testing.assert_array_equal(files["--no-ema"]["fc.weight"], moved["fc"]["kernel"].T)
    assert np.abs(files["--ema"]["fc.weight"] - files["--no-ema"]["fc.weight"]).max() > 1e-5
    cards = [(tmp_path / f"folder{ema}" / "README.md").read_text() for ema in files]
    assert ["Validation top-1" in card for card in cards] == [True, False]
    assert "not measured: the run validated the moving average" in cards[1]


# What each flag of `convert` goes with: a file, a run directory of other weights, a folder made of a run.
FLAGS = {
    ("--license", "mit"): {"folder"},
    ("--dtype", "float16"): {"file", "folder"},
    ("--classes", "classes.txt"): {"run"},
    ("--image-size", 20): {"run"},
    ("--resize-size", 256): {"run"},
    ("--crop-pct", 0.9): {"run"},
    ("--interpolation", "bicubic"): {"run"},
    ("--mean", 0.1, 0.2, 0.3): {"run"},
    ("--std", 0.1, 0.2, 0.3): {"run"},
    ("--no-ema",): set(),  # there is no average here
}


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag[0])
def test_a_flag_of_convert_has_an_effect_or_is_refused(tiny, file, tmp_path, monkeypatch, capsys, flag):
    monkeypatch.chdir(tmp_path)
    Path("classes.txt").write_text("right\nleft\n")
    run("convert", file, "of_weights", "--model", tiny)
    conversions = {
        "file": [(file, "a.safetensors"), ("of_weights", "b.safetensors")],
        "run": [(file, "new_run")],
        "folder": [("of_weights", "new_folder")],
    }
    for kind, ways in conversions.items():
        for source, destination in ways:
            command = ("convert", source, destination, "--model", tiny)
            if kind not in FLAGS[flag]:
                assert str(flag[0]) in error_of(capsys, *command, *flag)
                assert not Path(destination).exists()
                continue
            run(*command, *flag)
            path = Path(destination)
            plain = path.with_name(f"plain_{path.name}")
            run("convert", source, plain, "--model", tiny)
            assert _content(path) != _content(plain)


def _content(path: Path) -> list[object]:
    """What is in a file, or in a folder but for the command that made it."""
    if path.is_file():
        return [path.read_bytes()]
    config = json.loads((path / "config.json").read_text())
    config.pop("command", None)
    return [config, *(file.read_bytes() for file in path.glob("*.safetensors"))]


def test_metadata_of_safetensors_is_kept_or_said_to_be_lost(tiny, arrays, tmp_path, capsys):
    told = {"license": "cc-by-4.0", "labels": "left, right"}
    write_weights(source := tmp_path / "w.safetensors", arrays, metadata=told)
    run("convert", source, tmp_path / "v.safetensors", "--model", tiny)
    with safetensors.safe_open(tmp_path / "v.safetensors", "numpy") as copy:
        assert copy.metadata() == told | {"format": "pt"}
    assert "stays behind" not in capsys.readouterr().err

    run("convert", source, tmp_path / "run", "--model", tiny)
    assert "what the file's metadata says of labels stays behind" in capsys.readouterr().err
    run("convert", tmp_path / "run", tmp_path / "folder")
    assert "license: cc-by-4.0" in (tmp_path / "folder" / "README.md").read_text()
    run("convert", tmp_path / "run", tmp_path / "u.safetensors")
    lost = "weights alone; what the source says of preprocessing, class names, licence stays behind"
    assert lost in capsys.readouterr().err
    pytest.importorskip("torch")
    run("convert", source, tmp_path / "w.pth", "--model", tiny)
    assert "what the source says of licence, labels stays behind" in capsys.readouterr().err


def test_what_reading_changes_is_said(tiny, arrays, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    half = {f"module.{name}": torch.tensor(array).half() for name, array in arrays.items()}
    half["module.fc.bias"][0] = float("nan")
    torch.save({"state_dict": half, "epoch": 3}, tmp_path / "w.pth")
    run("convert", tmp_path / "w.pth", tmp_path / "v.safetensors", "--model", tiny)
    assert capsys.readouterr().err.splitlines() == [
        "state dict: taken from under the key 'state_dict'",
        "state dict: removed the prefix 'module.' from every name",
        f"state dict: {len(arrays)} arrays cast from float16 to float32",
        "not finite (NaN or infinity): fc.bias",
    ]


def test_train_replaces_the_head_only_when_asked(tiny, arrays, image_folder, tmp_path, capsys):
    other = random_arrays(tiny, num_classes=7)
    write_weights(seven := tmp_path / "seven.safetensors", other)
    write_weights(two := tmp_path / "two.safetensors", arrays)
    train = flags(image_folder, tiny, tmp_path / "new")
    error = error_of(capsys, *train, "--weights", seven)
    assert "fc.weight expected [2, 256], found [7, 256]; the number of classes differs; --new-head" in error
    assert "--new-head without weights" in error_of(capsys, *train, "--new-head")
    assert not (tmp_path / "new").exists()

    run(*train, "--weights", seven, "--new-head", "--freeze", "backbone")
    trained = read_weights(tmp_path / "new")
    assert trained["fc.weight"].shape == (2, 256)
    np.testing.assert_array_equal(trained["conv1.weight"], other["conv1.weight"])
    # The number of classes alone does not make the head another one.
    run(*flags(image_folder, tiny, tmp_path / "kept", "--weights", two, "--freeze", "fc,layer1"))
    kept = read_weights(tmp_path / "kept")
    np.testing.assert_array_equal(kept["fc.weight"], arrays["fc.weight"])
    np.testing.assert_array_equal(kept["layer1.0.bn1.running_mean"], arrays["layer1.0.bn1.running_mean"])
    assert not np.array_equal(kept["conv1.weight"], arrays["conv1.weight"])


def test_weights_that_cannot_be_had_are_one_line(tiny, image_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RESNEXT_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(named, "BASE_URL", "http://127.0.0.1:9/")
    train = flags(image_folder, "resnet18", tmp_path / "new", "--weights")
    assert "cannot download http://127.0.0.1:9/resnet18-f37072fd.pth: Connection refused; or put" in error_of(
        capsys, *train, "DEFAULT", "--new-head"
    )
    assert "resnet18 has no weights of that name" in error_of(capsys, *train, "IMAGENET1K_V2", "--new-head")
    assert "no such file or directory" in error_of(capsys, *train, tmp_path / "gone.pth")
    assert "no run here" in error_of(capsys, *train, image_folder)
    assert not (tmp_path / "new").exists()


def test_a_trained_model_goes_back_to_torch(tiny, torchvision, image_folder, tmp_path):
    """What was trained here, converted, predicts in torchvision's ResNet what it predicts here."""
    import torch
    from torch import nn

    run(*flags(image_folder, tiny, tmp_path / "run"))
    run("convert", tmp_path / "run", tmp_path / "w.pth")
    resnet = torchvision.models.resnet
    theirs = resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], groups=4, width_per_group=8)
    theirs.conv1, theirs.fc = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Linear(256, 2)
    theirs.maxpool = theirs.layer2 = theirs.layer3 = theirs.layer4 = nn.Identity()
    theirs.load_state_dict(torch.load(tmp_path / "w.pth", weights_only=True), strict=True)

    predictor, image = load_run(tmp_path / "run"), image_folder / "left" / "P00_0.jpg"
    prepare = predictor.preprocessing
    pixels = (prepare(np.asarray(Image.open(image))) / 255 - prepare.mean) / prepare.std
    with torch.no_grad():
        logits = theirs.eval()(torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None])
    found = predictor.predict([image]).probabilities
    np.testing.assert_allclose(found, logits.softmax(1).numpy(), rtol=1e-5)


def test_summary_counts_what_is_frozen(capsys):
    totals = []
    for freeze in ((), ("--freeze", "conv1,bn1,layer1"), ("--freeze", "backbone")):
        run("summary", "resnet18", *freeze)
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(" total"))
        totals.append([int(number.replace(",", "")) for number in line.split()[1:3]])
    # 11,689,512 parameters (torchvision's), 9,600 statistics; the stem and layer1 have 9,536 + 147,968.
    assert totals == [[11_689_512, 9_600], [11_532_008, 167_104], [513_000, 11_186_112]]
    assert "freeze='layer9': no parameter is called so" in error_of(
        capsys, "summary", "resnet18", "--freeze", "conv1,layer9"
    )
