"""The script that ports a folder of torchvision's files and prints the parity table."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch_reference import reference  # noqa: E402

from resnext_jax.weights import NAMED_WEIGHTS, read_weights  # noqa: E402

SCRIPT = Path(__file__).resolve().parents[1] / "experiments" / "port_torchvision.py"


@pytest.fixture
def port(torchvision, monkeypatch):
    def call(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", [SCRIPT.name, "--image-size", "32", *map(str, arguments)])
        runpy.run_path(str(SCRIPT), run_name="__main__")

    return call


def assert_row(line: str, name: str, parameters: str, cost: str, published: str) -> None:
    first, *middle, last = [cell.strip() for cell in line.strip("|").split("|")]
    assert [first, *middle[:2], last] == [name, parameters, cost, published]
    assert float(middle[2]) < 1e-5


def test_a_folder_of_files(port, torchvision, tmp_path, capsys):
    """Wrapped, prefixed and cast ones too; the rest is named, and does not end the table."""
    (folder := tmp_path / "files").mkdir()
    theirs = reference(torchvision, "resnet18")
    torch.save(theirs.state_dict(), folder / "a.pth")
    half = {f"module.{name}": array.half() for name, array in theirs.state_dict().items()}
    torch.save({"state_dict": half}, folder / "b.pth")
    (folder / "broken.pth").write_bytes((folder / "a.pth").read_bytes()[:100_000])
    torch.save(torch.nn.Linear(2, 2).state_dict(), folder / "other.pth")
    torch.save(reference(torchvision, "resnet18", in_channels=1).state_dict(), folder / "grey.pth")
    port(folder, "--out", tmp_path / "ported")
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert len(lines) == 4
    for line in lines[2:]:
        assert_row(line, "resnet18", "11,181,642", "0.04 G", "69.8 %")
    said = [line for line in shown.err.splitlines() if "is left out" in line]
    assert [line.split()[0] for line in said] == ["broken.pth", "grey.pth", "other.pth"]
    assert "damaged" in said[0]
    assert "input channels" in said[1]
    assert "none of torchvision's ResNets" in said[2]
    assert {path.name for path in (tmp_path / "ported").iterdir()} == {"a.safetensors", "b.safetensors"}
    for name, array in read_weights(tmp_path / "ported" / "a.safetensors").items():
        np.testing.assert_array_equal(array, theirs.state_dict()[name].numpy(), err_msg=name)


def test_random_weights(port, monkeypatch, capsys):
    for name in list(NAMED_WEIGHTS)[1:]:
        monkeypatch.delitem(NAMED_WEIGHTS, name)
    port("--random")
    assert_row(capsys.readouterr().out.splitlines()[2], "resnet18", "11,689,512", "0.04 G", "69.8 %")


def test_a_folder_without_a_resnet(port, tmp_path, capsys):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(SystemExit) as stop:
        port(tmp_path)
    shown = capsys.readouterr()
    assert stop.value.code == 2
    assert shown.out == ""
    assert f"error: {tmp_path}: no .pth file of torchvision's ResNets there" in shown.err


@pytest.mark.parametrize(
    ("message", "arguments"),
    {
        "error: give either a folder": (),
        "gone: no such folder; expected one with .pth files": ("gone",),
        "empty: no .pth files there": ("empty",),
        "--image-size=32, --batch-size=0: expected at least 1": ("empty", "--batch-size", 0),
    }.items(),
    ids=str,
)
def test_bad_input_is_one_line(port, tmp_path, monkeypatch, capsys, message, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as stop:
        port(*arguments)
    shown = capsys.readouterr()
    assert stop.value.code == 2
    assert shown.out == ""
    assert message in shown.err
    assert shown.err.count("\n") == 1
