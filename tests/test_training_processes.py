"""Runs by several processes: what they must have in common, and how they end together."""

import re
import shutil

import pytest
from processes import finish, start


@pytest.fixture
def flags(small_run) -> list[str]:
    fields = ("data", "model", "image_size", "batch_size", "lr", "out")
    return [
        word for name in fields for word in ("--" + name.replace("_", "-"), str(getattr(small_run, name)))
    ]


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--lr", "0.5", "--lr=0.5 in process 1, --lr=0.02 in process 0"),
        pytest.param("--seed", "7", "--seed=7 in process 1, --seed=0 in process 0", marks=pytest.mark.slow),
        pytest.param("--batch-size", "8", "--batch-size=8 in process 1", marks=pytest.mark.slow),
        pytest.param("--epochs", "9", "--epochs=9 in process 1", marks=pytest.mark.slow),
        ("--out", "elsewhere", r"--out=\S*elsewhere \(not shared\) in process 1"),
    ],
)
def test_processes_that_differ_are_refused_by_all(flags, tmp_path, flag, value, message):
    own = [flag, str(tmp_path / value) if flag == "--out" else value]
    for code, out, err in finish(start([flags, [*flags, *own]])):
        lines = [line for line in err.splitlines() if line.startswith("error:")]
        assert (code, len(lines)) == (2, 1), err
        assert not [line for line in out.splitlines() if not line.startswith("[Gloo]")]
        assert re.search(message, lines[0])
        assert "Traceback" not in err
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
def test_other_data_are_refused_by_all(flags, image_folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(image_folder, other)
    file = next((other / "left").iterdir())
    file.rename(file.with_name("P77_0.jpg"))
    for code, _, err in finish(start([flags, [*flags, "--data", str(other)]])):
        assert code == 2
        assert "data (names)=" in err, err
