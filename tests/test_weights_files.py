"""Files of weights: every kind, every direction, bit for bit; damaged and malicious ones are refused."""

import errno
import os
import pickle
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from resnext_jax.data import Preprocessing
from resnext_jax.models import abstract_model, get_config
from resnext_jax.models.trees import split_model
from resnext_jax.runs import Checkpoints, ModelSpec, start
from resnext_jax.weights import (
    convert,
    create_model,
    load_torch_state_dict,
    preprocessing,
    read_weights,
    to_torch_state_dict,
    write_weights,
)
from resnext_jax.weights.state_dict import torch_shapes

Arrays = dict[str, np.ndarray]


def random_arrays(name: str, seed: int = 0, **options: int) -> Arrays:
    rng = np.random.default_rng(seed)
    shapes = torch_shapes(abstract_model(name, **options))
    return {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}


def assert_same_bits(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key].view(np.uint32), array.view(np.uint32), err_msg=key)


@pytest.fixture
def arrays(tiny) -> Arrays:
    return random_arrays(tiny, num_classes=3)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def write_run(directory: Path, name: str, checkpoints: list[tuple[int, float, Arrays]]) -> None:
    """A run directory as training leaves it, from (step, top-1, weights) of each epoch."""
    spec = ModelSpec(name, get_config(name), ("a", "b", "c"), Preprocessing(64, resize="stretch"))
    start(directory, spec, {"data": ""})
    for step, top1, arrays in checkpoints:
        model = abstract_model(name, num_classes=3)
        load_torch_state_dict(model, arrays)
        _, params, batch_stats = split_model(model)
        with Checkpoints(directory, write=True) as manager:
            metrics = {"val_top1": top1, "val_loss": 1.0}
            model = {"params": params, "batch_stats": batch_stats}
            manager.save(step, model, {"step": np.int32(step)}, spec.to_dict() | {"config": {}}, metrics)


@pytest.mark.parametrize("chain", [(".safetensors", ".pth", ".safetensors"), (".pt", ".safetensors", ".pth")])
def test_round_trip_is_bit_identical(tiny, torch, arrays, tmp_path, chain):
    write_weights(source := tmp_path / f"0{chain[0]}", arrays)
    for i, suffix in enumerate(chain[1:], 1):
        convert(source, target := tmp_path / f"{i}{suffix}", model=tiny)
        assert_same_bits(read_weights(target), arrays)
        source = target
    # The first and last files of one kind are the same bytes, and torch and safetensors read them.
    if chain[0] == chain[-1]:
        assert (tmp_path / f"0{chain[0]}").read_bytes() == source.read_bytes()
    assert {path.suffix for path in tmp_path.iterdir()} == set(chain)


def test_torch_reads_what_we_write(torch, arrays, tmp_path):
    write_weights(tmp_path / "w.pth", arrays)
    found = torch.load(tmp_path / "w.pth", weights_only=True)
    assert_same_bits({key: tensor.numpy() for key, tensor in found.items()}, arrays)


def test_safetensors_say_that_they_are_torchs(arrays, tmp_path):
    write_weights(tmp_path / "w.safetensors", arrays)
    with safetensors.safe_open(tmp_path / "w.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_files_of_model_hubs(tmp_path):
    """timm's, on Hugging Face: torchvision's names with counters, and metadata."""
    for name in ("resnet18", "resnext50_32x4d"):
        arrays = random_arrays(name, num_classes=11)
        counters = {
            key.replace("running_mean", "num_batches_tracked"): np.array(7)
            for key in arrays
            if key.endswith("running_mean")
        }
        path = tmp_path / f"{name}.safetensors"
        safetensors.numpy.save_file(arrays | counters, path, metadata={"architecture": name})
        model = create_model(name, num_classes=None, weights=path)
        assert_same_bits(to_torch_state_dict(model), arrays)


def test_bfloat16_safetensors(arrays, tmp_path):
    low = {key: array.astype(ml_dtypes.bfloat16) for key, array in arrays.items()}
    safetensors.numpy.save_file(low, tmp_path / "w.safetensors")
    expected = {key: array.astype(np.float32) for key, array in low.items()}
    assert_same_bits(read_weights(tmp_path / "w.safetensors"), expected)


def test_legacy_files_of_torch(torch, arrays, tmp_path):
    tensors = {key: torch.tensor(array) for key, array in arrays.items()}
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert_same_bits(read_weights(tmp_path / "w.pth"), arrays)


def test_convert_finds_the_variant(torch, tmp_path):
    arrays = random_arrays("resnet18", num_classes=5, in_channels=1)
    write_weights(tmp_path / "w.pth", arrays)
    assert convert(tmp_path / "w.pth", tmp_path / "w.safetensors") == "resnet18"
    assert_same_bits(read_weights(tmp_path / "w.safetensors"), arrays)
    with pytest.raises(ValueError, match=r"does not fit resnet34.*it looks like resnet18"):
        convert(tmp_path / "w.pth", tmp_path / "x.safetensors", model="resnet34")
    write_weights(tmp_path / "y.pth", {"a": np.zeros(3, "f")})
    with pytest.raises(ValueError, match=r"y\.pth: fits no known variant; .*model=NAME"):
        convert(tmp_path / "y.pth", tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_run_directory_gives_its_best_checkpoint(tiny, arrays, tmp_path):
    run = tmp_path / "run"
    best = random_arrays(tiny, 1, num_classes=3)
    write_run(run, tiny, [(10, 0.5, arrays), (20, 0.75, best), (30, 0.25, arrays)])
    assert_same_bits(read_weights(run), best)
    assert convert(run, tmp_path / "w.safetensors") == tiny
    assert_same_bits(read_weights(tmp_path / "w.safetensors"), best)
    model = create_model(tiny, num_classes=None, weights=run)
    assert_same_bits(to_torch_state_dict(model), best)
    assert preprocessing(run) == Preprocessing(64, resize="stretch")


def test_run_directory_with_a_failed_epoch(tiny, arrays, tmp_path):
    write_run(
        tmp_path / "run", tiny, [(10, 0.5, arrays), (20, float("nan"), random_arrays(tiny, 1, num_classes=3))]
    )
    assert_same_bits(read_weights(tmp_path / "run"), arrays)


def test_directory_without_a_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no run directory here \(it has no folder checkpoints/\)"):
        read_weights(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(FileNotFoundError, match="no checkpoint was saved here"):
        read_weights(tmp_path)


def test_paths_that_are_no_weights(arrays, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.pth: no such file or directory"):
        read_weights(tmp_path / "gone.pth")
    (tmp_path / "w.h5").write_bytes(b"x")
    with pytest.raises(
        ValueError, match=r"w\.h5: unknown kind of file; expected \.safetensors, a file of torch\.save"
    ):
        read_weights(tmp_path / "w.h5")
    with pytest.raises(ValueError, match=r"run: cannot write weights there; expected \.safetensors or \.pth"):
        write_weights(tmp_path / "run", arrays)


def test_without_torch(monkeypatch, torch, tiny, arrays, tmp_path):
    """Only writing .pth needs torch."""
    write_weights(tmp_path / "w.pth", arrays)
    torch.save(dict(arrays), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    write_weights(tmp_path / "w.safetensors", arrays)
    for name in ("w.safetensors", "w.pth", "old.pth"):
        model = create_model(tiny, num_classes=None, weights=tmp_path / name)
        assert_same_bits(to_torch_state_dict(model), arrays)
    with pytest.raises(ValueError, match=r"install PyTorch: pip install 'resnext-jax\[torch\]'"):
        write_weights(tmp_path / "v.pth", arrays)


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.9999])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_files(torch, arrays, tmp_path, kind, share):
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        write_weights(path, arrays)
    else:
        tensors = {key: torch.tensor(array) for key, array in arrays.items()}
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=rf"{path.name}: damaged") as info:
        read_weights(path)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damaged_files(torch, tmp_path, kind, recwarn):
    """Whatever a changed byte makes of a file, it is read or refused in one line that names it."""
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    arrays = {name: np.ones((4, 3), np.float32) for name in ("conv1.weight", "fc.weight")}
    if kind == "safetensors":
        write_weights(path, arrays)
    else:
        tensors = {key: torch.tensor(array) for key, array in arrays.items()}
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    whole, rng, errors = path.read_bytes(), np.random.default_rng(0), []
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.integers(min(len(whole), 700))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_weights(path)
        except ValueError as error:
            errors.append(str(error))
    assert len(errors) > 50
    assert all(error.startswith(f"{path}: ") and "\n" not in error for error in errors)
    assert not recwarn.list


def test_types_that_are_not_read(torch, tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2).to(torch.float8_e4m3fn)}, tmp_path / "w.safetensors")
    with pytest.raises(
        ValueError, match=r"w\.safetensors: holds arrays of a type that is not read: float8_e4m3fn"
    ):
        read_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "content",
    [b"<html>404</html>", b"\x80\x05N.", pickle.dumps({"a": 1}), bytes(1000), b"PK\x03\x04" + bytes(99)],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_content(torch, tmp_path, content, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"w\{suffix}: ") as info:
        read_weights(path)
    assert "\n" not in str(info.value)


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_malicious_pickles_are_not_run(torch, tmp_path, kind):
    path, harm = tmp_path / "w.pth", tmp_path / "harm"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Payload(harm), protocol=2))
    else:
        torch.save({"fc.weight": Payload(harm)}, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(
        ValueError, match=r"w\.pth: refused, nothing was run: it refers to \w+\.mkdir"
    ) as info:
        read_weights(path)
    assert "\n" not in str(info.value)
    assert not harm.exists()
    torch.load(path, weights_only=False) if kind == "zip" else None
    assert harm.exists() == (kind == "zip")  # the payload is a real one


def test_a_whole_pickled_model_is_refused(torch, tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"it refers to torch\.nn\S*Linear, and only arrays and plain"):
        read_weights(tmp_path / "w.pth")


@pytest.fixture
def full_disk(monkeypatch):
    """What is written comes to the disk when the file is synchronised: it finds no room there."""

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return lambda: monkeypatch.setattr(os, "fsync", fail)


def test_no_space_leaves_nothing(arrays, tmp_path, full_disk):
    full_disk()
    with pytest.raises(OSError, match=r"w\.safetensors: not written: No space left"):
        write_weights(tmp_path / "w.safetensors", arrays)
    assert not list(tmp_path.iterdir())


def test_an_old_file_survives_a_failed_write(arrays, tmp_path, full_disk):
    write_weights(path := tmp_path / "w.safetensors", arrays)
    full_disk()
    with pytest.raises(OSError, match="not written"):
        write_weights(path, {"a": np.zeros(3, "f")})
    assert_same_bits(read_weights(path), arrays)
