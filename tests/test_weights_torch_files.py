"""Files of `torch.save` read without torch: what torch reads; nothing that could run or outgrow the file."""

import argparse
import io
import os
import pickle
import types
import zipfile
from collections import OrderedDict, deque
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path, PurePosixPath

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from resnext_jax.errors import BadInput
from resnext_jax.weights.files import read_file
from resnext_jax.weights.pickles import Damaged
from resnext_jax.weights.torch_files import read_torch

torch = pytest.importorskip("torch")

DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


def as_numpy(tensor) -> np.ndarray:
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()


@st.composite
def tensors(draw):
    """Of any type and shape, contiguous or a view."""
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    tensor = (
        torch.arange(int(np.prod(shape))).reshape(shape).to(getattr(torch, draw(st.sampled_from(DTYPES))))
    )
    view = draw(st.sampled_from(["whole", "transposed", "sliced", "parameter"]))
    if view == "transposed" and len(shape) > 1:
        return tensor.transpose(0, -1)
    if view == "sliced" and shape and shape[0]:
        return tensor[1:]
    return torch.nn.Parameter(tensor) if view == "parameter" and tensor.is_floating_point() else tensor


@given(
    st.dictionaries(st.text("abc.", min_size=1), tensors(), max_size=6),
    st.sampled_from([dict, OrderedDict]),
    st.booleans(),
    st.sampled_from([2, 4]),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arrays_are_torchs(tmp_path, state_dict, kind, in_zip, protocol):
    options = {"_use_new_zipfile_serialization": in_zip, "pickle_protocol": protocol}
    torch.save(kind(state_dict), tmp_path / "w.pth", **options)
    found = read_torch(tmp_path / "w.pth")
    expected = torch.load(tmp_path / "w.pth", weights_only=False)  # our own file
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        array = np.asarray(found[name])
        assert array.shape == tuple(tensor.shape)
        np.testing.assert_array_equal(array.astype(as_numpy(tensor).dtype), as_numpy(tensor))


def test_plain_values_of_training_scripts(tmp_path):
    options = argparse.Namespace(lr=0.1, data=PurePosixPath("/data/x"), betas=(0.9, 0.999), resume=None)
    content = {
        "args": options,
        "best": np.float64(71.5),
        "count": np.int64(3),
        "rates": np.arange(6, dtype=np.float32).reshape(2, 3),
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "nested": [{"a": (1, "x", b"y", None, True)}],
        "more": types.SimpleNamespace(epochs=3),
        "last": deque([1.5, 2.5], maxlen=2),
        "price": Decimal("1.50"),
        "when": datetime(2024, 1, 2, tzinfo=UTC),
        "took": timedelta(hours=1),
    }
    torch.save(content, tmp_path / "w.pth")
    found = read_torch(tmp_path / "w.pth")
    assert found["args"] == {"lr": 0.1, "data": "/data/x", "betas": (0.9, 0.999), "resume": None}
    assert (found["best"], found["count"], found["size"]) == (71.5, 3, (1, 2))
    np.testing.assert_array_equal(np.asarray(found["rates"]), content["rates"])
    assert found["nested"] == content["nested"]
    assert (found["more"], found["last"], found["price"]) == ({"epochs": 3}, [1.5, 2.5], "1.50")
    assert found["when"] is found["took"] is None


def rewritten(source: Path, target: Path, changed: dict[str, bytes], compression=zipfile.ZIP_STORED) -> Path:
    """A copy of an archive with other content in some members."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, changed.get(name.split("/", 1)[1], old.read(name)))
    return target


@pytest.fixture
def whole(tmp_path) -> Path:
    torch.save({"a": torch.ones(2, 3)}, tmp_path / "whole.pth")
    return tmp_path / "whole.pth"


class Call:
    """Unpickled, it calls something."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


HOSTILE = {
    "os.system": lambda harm: Call(os.system, f"touch {harm}"),
    "builtins.eval": lambda harm: Call(eval, f"open({str(harm)!r}, 'w')"),
    "builtins.getattr": lambda harm: Call(getattr, np.ndarray, "tofile"),
    "io.open": lambda harm: Call(io.open, str(harm), "w"),
    "numpy.load": lambda harm: Call(np.load, str(harm)),
    "numpy.dtype of objects": lambda harm: np.array([Call(os.mkdir, str(harm))], dtype=object),
    "a pickle in a pickle": lambda harm: Call(pickle.loads, pickle.dumps(Call(os.mkdir, str(harm)))),
    "a whole model": lambda harm: torch.nn.Linear(2, 2),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("container", ["zip", "legacy", "plain", "plain, protocol 0"])
def test_what_could_run_is_refused(tmp_path, kind, container):
    harm, path = tmp_path / "harm", tmp_path / "w.pth"
    content = {"fc.weight": HOSTILE[kind](harm)}
    if container.startswith("plain"):
        path.write_bytes(pickle.dumps(content, 0 if container.endswith("0") else 4))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=container == "zip")
    with pytest.raises(BadInput):
        read_file(path)
    assert not harm.exists()


def test_the_state_of_our_own_functions_cannot_be_set(whole, tmp_path):
    """BUILD on a name of the table: without care it would change this module for later files."""
    for module, name in (("torch._utils", "_rebuild_tensor_v2"), ("argparse", "Namespace")):
        code = b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"}X\x08\x00\x00\x00functionK\x01sb."
        with pytest.raises(BadInput):
            read_torch(rewritten(whole, tmp_path / "w.pth", {"data.pkl": code}))
    torch.save({"args": argparse.Namespace(a=1)}, tmp_path / "v.pth")
    assert read_torch(tmp_path / "v.pth")["args"] == {"a": 1}


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [((60_000, 60_000), (0, 0), 0), ((2, 3), (3, 10**12), 0), ((2, 3), (3, 1), 4), ((2, 3), (-3, 1), 3)],
    ids=["expanded", "far strides", "offset", "backwards"],
)
def test_arrays_stay_in_their_storage(whole, tmp_path, shape, strides, offset):
    out = io.BytesIO()
    pickler = torch.serialization.pickle.Pickler(out, 2)
    storage = torch.ones(6).untyped_storage()
    pickler.persistent_id = lambda obj: (
        ("storage", torch.FloatStorage, "0", "cpu", 6) if obj is storage else None
    )
    rebuild = Call(torch._utils._rebuild_tensor_v2, storage, offset, shape, strides, False, OrderedDict())
    pickler.dump({"a": rebuild})
    path = rewritten(whole, tmp_path / "w.pth", {"data.pkl": out.getvalue()})
    with pytest.raises(BadInput, match=r"w\.pth: damaged or incomplete: "):
        read_torch(path)


def test_many_views_of_one_storage_do_not_fill_the_memory(tmp_path):
    base = torch.ones(100_000)
    torch.save({str(i): base.view(100, 1000) for i in range(100)}, tmp_path / "w.pth")
    with pytest.raises(BadInput, match="its arrays would take 40,000,000 bytes, the file has 4"):
        read_file(tmp_path / "w.pth")


def test_archives_that_are_something_else(whole, tmp_path):
    with pytest.raises(BadInput, match=r"is compressed, which torch\.save does not do"):
        read_torch(rewritten(whole, tmp_path / "w.pth", {}, zipfile.ZIP_DEFLATED))
    with pytest.raises(BadInput, match="storage 0 has 3 bytes, not 6 of float32"):
        read_torch(rewritten(whole, tmp_path / "w.pth", {"data/0": b"abc"}))
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "s.pth"))
    with pytest.raises(BadInput, match=r"a program of TorchScript, not weights alone; .*torch\.jit\.load"):
        read_torch(tmp_path / "s.pth")
    with zipfile.ZipFile(tmp_path / "z.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(BadInput, match=r"a zip file, but not of torch\.save: it holds readme\.txt"):
        read_torch(tmp_path / "z.pth")


def test_a_changed_byte_of_the_arrays_is_noticed(tmp_path):
    torch.save({"a": torch.full((1000,), 1.0)}, tmp_path / "w.pth")
    data = bytearray((tmp_path / "w.pth").read_bytes())
    at = data.find(np.full(4, 1, np.float32).tobytes())
    data[at] ^= 1
    (tmp_path / "w.pth").write_bytes(data)
    with pytest.raises(Damaged, match="has a wrong checksum"):
        np.asarray(read_torch(tmp_path / "w.pth")["a"])


@given(st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_one_line(whole, tmp_path, data):
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "w.pth").write_bytes(content[: data.draw(st.integers(0, len(content)))] or content)
    errors = []
    try:
        found = read_torch(tmp_path / "w.pth")
        [np.asarray(value) for value in (found.values() if isinstance(found, dict) else ())]
    except (BadInput, Damaged) as error:
        errors.append(str(error))
    assert not any("\n" in error for error in errors)
