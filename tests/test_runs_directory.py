"""Run directories: who may write to one, what is replaced, what is read of a damaged one."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from resnext_jax.data import Preprocessing
from resnext_jax.errors import BadInput
from resnext_jax.models import get_config
from resnext_jax.runs import Checkpoints, ModelSpec, claim, is_run, read_config, read_spec, start
from resnext_jax.runs.directory import write_config

SPEC = ModelSpec("resnet18", get_config("resnet18"), ("a", "b"), Preprocessing(32))

HOLD = """
import sys, time
from pathlib import Path
from resnext_jax.runs import claim
with claim(Path(sys.argv[1]), resume=True):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that works on a run directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "run"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_one_process_at_a_time(tmp_path, holder):
    said = rf"in use by process {holder.pid} on \S+ since"
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(BadInput, match=said), claim(tmp_path / "run", **options):
            pytest.fail("claimed twice")
    holder.kill()
    holder.wait()
    with claim(tmp_path / "run"):  # the lock died with its process, and nothing was written
        pass
    assert list((tmp_path / "run").iterdir()) == []


def test_a_directory_in_which_nothing_was_written_is_left_as_it_was(tmp_path):
    for path in (tmp_path / "new" / "run", tmp_path / "empty"):
        was_there = path.name == "empty"
        if was_there:
            path.mkdir()
        with pytest.raises(ZeroDivisionError), claim(path):
            1 / is_run(path.parent)
        assert path.exists() == was_there
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_link_to_an_empty_folder_is_used(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk", target_is_directory=True)
    with claim(tmp_path / "run"):
        start(tmp_path / "run", SPEC, {"data": "demo"})
    with claim(tmp_path / "run", overwrite=True):
        start(tmp_path / "run", SPEC, {"data": "other"})
    assert (tmp_path / "run").is_symlink()
    assert read_config(tmp_path / "disk")["config"] == {"data": "other"}


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_what_is_not_ours_is_not_touched(tmp_path, options):
    """A hub folder has a config.json, too."""
    (tmp_path / "config.json").write_text('{"architecture": "resnext50", "config": {}, "versions": 3}')
    (tmp_path / "holiday.jpg").write_bytes(b"precious")
    with (
        pytest.raises(BadInput, match=r"out=.*(exists already|not a run directory)"),
        claim(tmp_path, **options),
    ):
        pytest.fail("claimed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "holiday.jpg"]


def test_overwriting_removes_only_our_files(tmp_path):
    with claim(tmp_path):
        start(tmp_path, SPEC, {"data": "demo"})
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    (tmp_path / "history.csv").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="exists already"), claim(tmp_path):
        pytest.fail("claimed")
    with claim(tmp_path, overwrite=True):
        start(tmp_path, SPEC, {"data": "other"})
    names = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert names == {"config.json", "notes.txt"}


def test_places_that_cannot_be_used_are_named(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / "dangling"):
        with pytest.raises(BadInput, match=f"^out={path}: "), claim(path):
            pytest.fail("claimed")


@pytest.fixture
def run(tmp_path) -> Path:
    start(tmp_path, SPEC, {"data": "demo"})
    with Checkpoints(tmp_path, write=True) as checkpoints:
        model = {"params": {"w": np.zeros(3)}, "batch_stats": {}}
        checkpoints.save(1, model, {"step": np.int32(1)}, SPEC.to_dict() | {"config": {"data": "demo"}}, None)
    return tmp_path


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"config": 3}', '{"config": {', "\x00\xff"])
def test_a_damaged_configuration_is_taken_from_a_checkpoint(run, caplog, content):
    if content is None:
        (run / "config.json").unlink()
    else:
        (run / "config.json").write_text(content, encoding="latin-1")
    assert is_run(run)
    assert read_config(run)["config"] == {"data": "demo"}
    assert read_spec(run) == SPEC
    assert "config.json: damaged" in caplog.text
    assert "taken from the checkpoint of step 1" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format=99: expected at most 2; written by a later version"),
        ({"classes": None}, "not described as expected"),
        ({"model": {"name": "resnet18"}}, "not described as expected"),
        ({"classes": "ab"}, "the classes are no list"),
        ({"classes": ["a", 3]}, "expected texts as its name and as its classes"),
        ({"model": {**SPEC.to_dict()["model"], "dtype": "01"}}, "dtype='01': expected float32 or bfloat16"),
        (
            {"model": {**SPEC.to_dict()["model"], "in_channels": None}},
            "in_channels=None: expected a positive",
        ),
        ({"preprocessing": {"image_size": 1.5}}, "image_size=1.5: expected a whole number"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path, change, message):
    start(tmp_path, SPEC, {"data": "demo"})
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(BadInput, match=message) as caught:
        read_spec(tmp_path)
    assert str(file) in str(caught.value)


def test_a_command_started_as_a_module_can_be_repeated(tmp_path):
    program = "from resnext_jax.runs import this_command; print(this_command())"
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "__main__.py").write_text(program)
    command = [sys.executable, "-m", "some", "--out", "a b"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "python -m some --out 'a b'\n"


def test_the_command_that_began_the_run_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/resnext-jax", "train", "--lr", "0.1"])
    start(tmp_path, SPEC, {"data": "demo"})
    for epochs in ("2", "3"):
        monkeypatch.setattr(sys, "argv", ["/bin/resnext-jax", "train", "--resume", "--epochs", epochs])
        write_config(tmp_path, SPEC, {"data": "demo", "epochs": epochs}, resumed=read_config(tmp_path))
    about = read_config(tmp_path)
    assert about["command"] == "resnext-jax train --lr 0.1"
    assert about["resumed"]["command"] == "resnext-jax train --resume --epochs 3"
    assert about["config"]["epochs"] == "3"
    assert about["format"] == 2


def test_import_and_locks_need_nothing_of_unix(tmp_path):
    """As on Windows, where these modules are missing; its own way to lock is stood in for."""
    code = """
import sys, types
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
import signal
for name in ("SIGHUP", "SIGPIPE", "SIGALRM"):
    delattr(signal, name) if hasattr(signal, name) else None
held = set()
def locking(descriptor, mode, count):
    if held:
        raise OSError("locked")
    held.add(descriptor)
import resnext_jax, resnext_jax.cli
from pathlib import Path
from resnext_jax.runs import claim
sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
with claim(Path(sys.argv[1])):
    try:
        with claim(Path(sys.argv[1])):
            pass
    except resnext_jax.BadInput as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "run"], capture_output=True, text=True, check=True
    )
    assert "in use by" in done.stdout
