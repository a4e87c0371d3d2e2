"""Checkpoints: what is kept, what of it survives damage, what is said of what does not."""

import errno
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from resnext_jax.runs import Checkpoints, Damaged, NotSaved, best_row, read_best

NAN = float("nan")


def trees(step: int, size: int = 300) -> tuple[dict, dict]:
    """A model and an optimiser's state with the sizes and kinds of a small run's, other values each step."""
    rng = np.random.default_rng(step)
    model = {"params": {"w": rng.random((size, size), np.float32), "b": np.full(3, step, np.float32)}}
    return model | {"batch_stats": {"m": rng.random(5)}}, {"step": np.int32(step), "opt": (rng.random(50),)}


def save(
    checkpoints: Checkpoints, step: int, top1: float | None = None, loss: float = 1.0, **options
) -> None:
    metrics = None if top1 is None else {"val_top1": top1, "val_loss": loss, "step": step}
    checkpoints.save(step, *trees(step, **options), {"config": {}, "step": step, "nan": NAN}, metrics)


def assert_is(step: int, model: dict, optimizer: dict | None = None) -> None:
    expected, rest = trees(step)
    np.testing.assert_array_equal(model["params"]["w"], expected["params"]["w"])
    np.testing.assert_array_equal(model["params"]["b"], expected["params"]["b"])
    if optimizer is not None:
        np.testing.assert_array_equal(optimizer["opt"][0], rest["opt"][0])
        assert optimizer["step"] == step


@pytest.fixture
def run(tmp_path) -> Path:
    """Of three epochs the second is the best: checkpoints 2 and 3."""
    with Checkpoints(tmp_path, write=True) as checkpoints:
        for step, top1 in ((1, 0.5), (2, 0.9), (3, 0.7)):
            save(checkpoints, step, top1)
    return tmp_path


def steps_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# (top-1, loss) of each step; the best is step 3: the highest accuracy, ties by loss.
RANKED = {
    1: (0.5, 1.0),
    2: (0.8, 0.9),
    3: (0.8, 0.4),
    4: (NAN, NAN),
    5: (0.8, NAN),
    6: (0.1, 0.1),
    7: (None, 0),
}


def test_the_best_and_the_latest_are_kept(tmp_path):
    with Checkpoints(tmp_path, write=True) as checkpoints:
        for step, values in RANKED.items():
            save(checkpoints, step, *values)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.step_of("best") == 3
        assert checkpoints.step_of("latest") == 7
        meta = checkpoints.read_meta(3)
        assert meta["step"] == 3
        assert np.isnan(meta["nan"])
        assert_is(3, checkpoints.read_model(3))
    assert steps_in(tmp_path / "checkpoints") == ["3", "7"]


@pytest.mark.parametrize("values", [[(0.8, 0.4)] * 4, [(0.2, 0.5), (0.8, 0.4), (0.8, 0.4), (0.8, 0.5)]])
def test_of_equal_epochs_the_first_is_the_best_everywhere(tmp_path, values):
    """In the history, in the folder that Orbax keeps, and for who reads it."""
    rows = [{"epoch": i, "step": i, "val_top1": a, "val_loss": b} for i, (a, b) in enumerate(values, 1)]
    with Checkpoints(tmp_path, write=True) as checkpoints:
        for row in rows:
            save(checkpoints, row["step"], row["val_top1"], row["val_loss"])
    first = best_row(rows)["step"]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.step_of("best") == first
    assert steps_in(tmp_path / "checkpoints") == sorted({str(first), "4"})


def read_everything(run: Path, step: int) -> tuple[dict, dict]:
    with Checkpoints(run) as checkpoints:
        checkpoints.check(step)
        return checkpoints.read_state(step, *trees(0))


DAMAGE = {
    "cut": lambda file, raw: file.write_bytes(raw[: len(raw) // 2]),
    "a bit flipped": lambda file, raw: file.write_bytes(flipped(raw)),
    "emptied": lambda file, raw: file.write_bytes(b""),
    "gone": lambda file, raw: file.unlink(),
}


def flipped(raw: bytes) -> bytes:
    middle = len(raw) // 2
    return raw[:middle] + bytes([raw[middle] ^ 0x40]) + raw[middle + 1 :]


def test_every_damaged_file_of_every_item_is_noticed(run):
    folder = run / "checkpoints" / "3"
    items = ("model", "optimizer", "meta", "metrics", "checksums.json")
    files = [
        path for item in items for path in (folder / item, *(folder / item).rglob("*")) if path.is_file()
    ]
    assert {path.relative_to(folder).parts[0] for path in files} == set(items)
    for file in files:
        raw = file.read_bytes()
        for what, damage in DAMAGE.items():
            if not raw or (file.name == "checksums.json" and what == "gone"):
                continue
            damage(file, raw)
            with pytest.raises(Damaged):
                read_everything(run, 3)
            file.write_bytes(raw)
    assert_is(3, *read_everything(run, 3))


@pytest.mark.parametrize("item", ["model", "optimizer", "meta", "metrics"])
def test_resuming_goes_back_to_the_newest_whole_checkpoint(run, item, caplog):
    """Whichever item is lost; the damaged checkpoint and an empty folder are set aside, not deleted."""
    shutil.rmtree(run / "checkpoints" / "3" / item)
    (run / "checkpoints" / "999").mkdir()
    with Checkpoints(run, write=True) as checkpoints:
        step, meta, model, optimizer = checkpoints.resume(*trees(0))
        assert step == meta["step"] == 2
        assert_is(2, model, optimizer)
        save(checkpoints, 3, 0.95)
    assert steps_in(run / "damaged") == ["3", "999"]
    assert (run / "damaged" / "3" / "checksums.json").is_file()
    assert steps_in(run / "checkpoints") == ["3"]
    said = [record.getMessage() for record in caplog.records if record.name.startswith("resnext_jax")]
    assert len(said) == 2
    assert all("damaged" in line and "moved to" in line for line in said)


def test_a_damaged_best_is_set_aside_when_a_run_goes_on(run):
    (run / "checkpoints" / "2" / "metrics" / "metrics").write_text('{"val')
    with Checkpoints(run, write=True) as checkpoints:
        assert checkpoints.resume(*trees(0))[0] == 3
        save(checkpoints, 4, 0.1)
        checkpoints.close()
        assert checkpoints.step_of("best") == 3
    assert steps_in(run / "damaged") == ["2"]


def test_nothing_moves_if_nothing_is_whole(run):
    for step in (2, 3):
        (run / "checkpoints" / str(step) / "meta" / "metadata").write_text("[]")
    with Checkpoints(run, write=True) as checkpoints, pytest.raises(Damaged, match="no checkpoint is whole"):
        checkpoints.resume(*trees(0))
    assert not (run / "damaged").exists()


def test_another_models_checkpoint_is_not_called_damaged(run):
    with Checkpoints(run, write=True) as checkpoints:
        with pytest.raises(ValueError, match="another model or optimiser") as caught:
            checkpoints.resume(*trees(0, size=7))
        assert not isinstance(caught.value, Damaged)


def test_reading_takes_another_checkpoint_and_says_so(run, caplog):
    data = max((run / "checkpoints" / "2" / "model").rglob("*"), key=lambda path: path.stat().st_size)
    data.write_bytes(flipped(data.read_bytes()))
    step, model, _ = read_best(run)
    assert step == 3
    assert_is(3, model)
    assert f"{data}: damaged, its checksum is wrong; taking the checkpoint of step 3" in caplog.text
    assert steps_in(run / "checkpoints") == ["2", "3"]


def test_a_checkpoint_is_read_by_itself(run):
    """Whatever happened to the latest, the best is read."""
    for item in ("metrics", "meta", "model"):
        shutil.rmtree(run / "checkpoints" / "3" / item)
        step, model, _ = read_best(run)
        assert step == 2
        assert_is(2, model)


def test_checkpoints_without_checksums_are_read(run):
    """As the first version wrote them."""
    (run / "checkpoints" / "2" / "checksums.json").unlink()
    with Checkpoints(run) as checkpoints:
        checkpoints.check(2)
        assert checkpoints.read("best").step == 2


def test_a_later_version_is_named(run):
    (run / "checkpoints" / "3" / "checksums.json").unlink()
    file = run / "checkpoints" / "3" / "meta" / "metadata"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 99}))
    with Checkpoints(run) as checkpoints, pytest.raises(ValueError, match="format=99: expected at most"):
        checkpoints.read_meta(3)


def test_a_full_disk_is_one_line_and_loses_nothing(run, monkeypatch):
    usage = shutil.disk_usage(run)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with Checkpoints(run, write=True) as checkpoints:
        with pytest.raises(
            NotSaved, match=r"no space left for a checkpoint: it takes 1 MiB, 0 MiB are free"
        ) as caught:
            save(checkpoints, 4, 0.95)
        assert "\n" not in str(caught.value)
        monkeypatch.undo()
        save(checkpoints, 5, 0.95)
    assert steps_in(run / "checkpoints") == ["5"]


def test_an_error_while_writing_is_one_line_and_leaves_no_rest(run, monkeypatch):
    """A disk that fills up while Orbax writes: the error comes with the next save, which is tried again."""

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Checkpoints(run, write=True) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(ocp.PyTreeCheckpointHandler, "finalize", fail)
            save(checkpoints, 4, 0.95)
            with pytest.raises(NotSaved, match="no space left for a checkpoint") as caught:
                save(checkpoints, 5, 0.95)
        assert "\n" not in str(caught.value)
        assert steps_in(run / "checkpoints") == ["2", "3"]
        save(checkpoints, 6, 0.95)
    assert steps_in(run / "checkpoints") == ["2", "6"] or steps_in(run / "checkpoints") == ["6"]


def test_a_checkpoint_is_of_the_moment_in_which_it_is_saved(tmp_path, monkeypatch):
    """While it is being written, the run goes on: steps take the state's memory, the history grows."""
    gone_on = threading.Event()
    write = ocp.JsonCheckpointHandler._save_fn

    async def slowly(*arguments):
        gone_on.wait(60)
        await write(*arguments)

    monkeypatch.setattr(ocp.JsonCheckpointHandler, "_save_fn", slowly)
    (model, optimizer), meta = trees(4), {"config": {}, "history": [{"epoch": 1}]}
    with Checkpoints(tmp_path, write=True) as checkpoints:
        checkpoints.save(4, model, optimizer, meta, None)
        meta["history"].append({"epoch": 2})
        model["params"]["b"][:] = 0
        gone_on.set()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.read_meta(4)["history"] == [{"epoch": 1}]
        assert_is(4, checkpoints.read_model(4))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_really_full(small_disk):
    with Checkpoints(small_disk, write=True) as checkpoints:
        save(checkpoints, 1, 0.5)
        with pytest.raises(NotSaved, match="no space left"):  # noqa: PT012
            for step in range(2, 5):
                save(checkpoints, step, 0.5 + step / 100, size=600)
    with Checkpoints(small_disk) as checkpoints:
        for step in map(int, steps_in(small_disk / "checkpoints")):
            checkpoints.check(step)
    assert steps_in(small_disk / "checkpoints")
