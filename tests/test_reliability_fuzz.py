"""Random and damaged input: what reads it works or raises BadInput (or OSError), and nothing else.

A few cases of each kind in every run of the tests, ten thousand in the slow ones.
"""

import json
import string
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings

from resnext_jax import TrainConfig
from resnext_jax.cli.commands import COMMANDS
from resnext_jax.cli.parse import parse
from resnext_jax.data import DataConfig, Preprocessing
from resnext_jax.data.split import groups_by_regex
from resnext_jax.errors import BadInput
from resnext_jax.fields import names
from resnext_jax.models import ResNetConfig
from resnext_jax.runs import ModelSpec, read_config, read_spec, start
from resnext_jax.training import saved_config
from resnext_jax.weights.files import read_file


def many(few: int, slow: int = 10_000) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("cases", [few, pytest.param(slow, marks=pytest.mark.slow)])


def fuzz(cases: int, strategy: st.SearchStrategy, read: Callable[[Any], object]) -> None:
    """Read `cases` draws of a strategy. Errors are one line, and none is a bug's."""
    refused = 0

    @settings(max_examples=cases, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def one(value: Any) -> None:
        nonlocal refused
        message = "read"
        try:
            read(value)
        except (BadInput, OSError) as error:
            message = str(error)
            refused += 1
        assert message

    one()
    assert refused


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.integers(-3, 3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)

WORDS = st.sampled_from(
    [
        *(
            "--",
            "-",
            "--out",
            "--data",
            "x",
            "demo",
            "tfds:",
            "tfds:cifar10",
            "0",
            "-1",
            "nan",
            "inf",
            "1e400",
        ),
        *(
            "3000000000",
            "4294967296",
            "",
            "\x00",
            "é\ud800",
            "None",
            "True",
            "[1]",
            "{}",
            "--json",
            "a b",
            "=",
            "--=",
        ),
    ]
)
FLAGS = st.sampled_from([f"--{name.replace('_', '-')}" for name in names(TrainConfig)])


@st.composite
def command_lines(draw):
    name = draw(st.sampled_from([*COMMANDS, "trian", "data", ""]))
    rest = draw(st.lists(FLAGS | WORDS | st.text(max_size=6), max_size=6))
    return [*name.split(), *rest]


@many(60, 3_000)
def test_command_lines(cases, capsys, tmp_path, monkeypatch):
    """They are parsed and checked, not run."""
    monkeypatch.chdir(tmp_path)

    def read(words):
        try:
            parse(words).check()
        except SystemExit as stop:
            if stop.code:
                raise RuntimeError(f"exit code {stop.code} without a message") from stop
        capsys.readouterr()

    fuzz(cases, command_lines(), read)
    assert not list(tmp_path.iterdir())


@st.composite
def fields(draw):
    """Some settings, near what they should be or not."""
    usual = TrainConfig()
    values = {}
    for name in draw(st.lists(st.sampled_from(names(TrainConfig)), min_size=1, max_size=4)):
        kind = draw(st.sampled_from(["any", "number", "usual"]))
        values[name] = {
            "any": JSON_VALUES,
            "number": st.sampled_from(
                [0, 1, 2, -1, 0.5, 1e30, 2**32, 2**63, 10**400, float("nan"), float("inf")]
            ),
            "usual": st.just(getattr(usual, name)),
        }[kind]
        values[name] = draw(values[name])
    return values


@many(200)
def test_settings(cases):
    def read(values):
        config = TrainConfig.from_dict(values)
        config.check()
        config.resolved()

    fuzz(cases, fields(), read)


@many(200)
def test_configurations_of_runs(cases, tmp_path):
    """config.json with values replaced, added or left out at any depth."""
    spec = ModelSpec("small", ResNetConfig("basic", (1,), stem="cifar"), ("a", "b"), Preprocessing(32))
    start(tmp_path, spec, TrainConfig(data="demo").resolved().to_dict())
    file = tmp_path / "config.json"
    whole = json.loads(file.read_text())

    @st.composite
    def changed(draw):
        values = json.loads(json.dumps(whole))
        for _ in range(draw(st.integers(1, 2))):
            inner, place = values, values
            while isinstance(inner, dict | list) and inner and (inner is values or draw(st.booleans())):
                place = inner
                key = draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
                inner = inner[key]
            if isinstance(place, dict) and draw(st.booleans()):
                del place[key]
            else:
                place[key] = draw(JSON_VALUES)
        return json.dumps(values)

    def read(text):
        file.write_text(text)
        read_config(tmp_path)
        read_spec(tmp_path).abstract_model()
        saved_config(tmp_path).check()

    fuzz(
        cases,
        changed()
        | JSON_VALUES.map(json.dumps)
        | st.text(max_size=20).map(lambda text: text.encode("utf-8", "replace").decode()),
        read,
    )


@st.composite
def specifications(draw):
    prefix = draw(
        st.sampled_from(
            [
                "",
                "tfds:",
                "tfds:cifar10/",
                "tfds:images:",
                "demo",
                "~",
                "~nobody/",
                "images/",
                "/",
                "../",
                "hf:",
            ]
        )
    )
    suffix = draw(st.sampled_from(["", ".csv", ".tsv", ".parquet", "/", "/*", ":1.0.0"]))
    return (
        prefix
        + draw(st.text(max_size=10) | st.text("a/.:*[]~\0\n\ud800", max_size=12) | st.just("x" * 300))
        + suffix
    )


@many(200)
def test_specifications_of_sources(cases, image_folder, monkeypatch):
    monkeypatch.chdir(image_folder.parent)
    fuzz(cases, specifications(), lambda data: DataConfig(data=data, data_dir=image_folder.parent).open())


@many(200)
def test_group_by(cases, monkeypatch):
    monkeypatch.setattr("resnext_jax.data.split.REGEX_SECONDS", 0.5)
    image_names = [f"left/P{i // 2:02d}_{i % 2}.jpg" for i in range(10)]
    patterns = st.text("()[]{}|*+?^$.\\dPw_0-9,:=!<>#&~ ix", max_size=12) | st.from_regex(
        r"(\(\?[imsxLua]\))?\^?\(([\\][dwsDWSb0-9]|[a-zP]|\.|\{\d{1,12}\}|[*+?]){1,6}\)", fullmatch=True
    )
    fuzz(cases, patterns, lambda pattern: groups_by_regex(image_names, pattern))


@many(150)
def test_tables(cases, image_folder):
    """Cells, delimiters and quotes replaced in a table that can be read; its bytes, too."""
    files = sorted(path.relative_to(image_folder).as_posix() for path in image_folder.rglob("*.jpg"))
    rows = [["image", "label", "split", "patient"]]
    rows += [[name, name.split("/")[0], "train" if i % 3 else "val", f"p{i}"] for i, name in enumerate(files)]
    whole = "\n".join(",".join(row) for row in rows)
    piece = st.sampled_from(
        [
            ",",
            ";",
            "\t",
            '"',
            '""',
            "\n",
            "\r",
            "\0",
            "",
            "image",
            "label",
            "val",
            "test",
            "é",
            "../",
            "/",
            "-1",
            " ",
            "\ud800",
        ]
    )

    @st.composite
    def tables(draw):
        text = whole
        for _ in range(draw(st.integers(1, 4))):
            start = draw(st.integers(0, len(text)))
            text = text[:start] + draw(piece | st.text(max_size=5)) + text[start + draw(st.integers(0, 30)) :]
        return text.encode("utf-8", draw(st.sampled_from(["surrogatepass", "replace"]))), draw(
            st.sampled_from([".csv", ".tsv"])
        )

    def read(table):
        content, suffix = table
        file = image_folder / f"table{suffix}"
        file.write_bytes(content)
        dataset = DataConfig(data=str(file)).open()
        for split in dataset.splits:
            dataset.split(split)

    fuzz(cases, tables(), read)


def damaged(draw, content: bytes) -> bytes:
    """With bytes changed, left out, put in; or cut."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(changed)))
        changed[at : at + draw(st.sampled_from([0, 1, 1, 4, 60]))] = draw(
            st.binary(max_size=4) | st.sampled_from([b"\xff" * 8, bytes(8)])
        )
    return bytes(changed[: draw(st.integers(0, len(changed)))]) if draw(st.booleans()) else bytes(changed)


def read_bytes(path: Path) -> Callable[[bytes], object]:
    def read(content: bytes) -> object:
        path.write_bytes(content)
        return read_file(path)

    return read


@many(200)
@pytest.mark.parametrize("in_zip", [True, False])
def test_files_of_torch(cases, in_zip, tmp_path):
    torch = pytest.importorskip("torch")
    state = {"fc.weight": torch.ones(2, 3), "fc.bias": torch.ones(2)}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "w.pth", _use_new_zipfile_serialization=in_zip)
    whole = (tmp_path / "w.pth").read_bytes()

    @st.composite
    def files(draw):
        if not in_zip or draw(st.booleans()):
            return damaged(draw, whole)
        # The pickle alone, in a whole archive: damage of the archive would hide it.
        with zipfile.ZipFile(tmp_path / "w.pth") as old, zipfile.ZipFile(tmp_path / "n.pth", "w") as new:
            for name in old.namelist():
                content = old.read(name)
                new.writestr(name, damaged(draw, content) if name.endswith("data.pkl") else content)
        return (tmp_path / "n.pth").read_bytes()

    fuzz(cases, files(), read_bytes(tmp_path / "fuzzed.pth"))


@st.composite
def headers(draw):
    """Of safetensors: types, shapes and offsets that may lie."""
    entry = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F16", "BF16", "F64", "I64", "BOOL", "F8_E4M3", "U128", 3]),
            "shape": st.lists(
                st.sampled_from([0, 1, 2, 3, -1, 2**31, 2**63, 2**64 - 1, 0.5, "2"]), max_size=4
            ),
            "data_offsets": st.lists(
                st.sampled_from([0, 8, 24, 32, 2**40, 2**63, -8]), min_size=1, max_size=3
            ),
        }
    )
    header = draw(
        st.dictionaries(
            st.sampled_from(["fc.weight", "fc.bias", "__metadata__", ""]), entry | JSON_VALUES, max_size=3
        )
    )
    text = json.dumps(header).encode()
    length = draw(st.just(len(text)) | st.sampled_from([0, 1, 2**31, 2**63, 2**64 - 1, len(text) + 9]))
    return struct.pack("<Q", length) + text + bytes(draw(st.sampled_from([0, 8, 32, 33])))


@many(200)
def test_files_of_safetensors(cases, tmp_path):
    arrays = {"fc.weight": np.ones((2, 3), np.float32), "fc.bias": np.ones(2, np.float32)}
    whole = safetensors.numpy.save(arrays, {"format": "pt", "license": "mit"})
    files = headers() | st.composite(lambda draw: damaged(draw, whole))()
    fuzz(cases, files, read_bytes(tmp_path / "w.safetensors"))


@many(100, 2_000)
def test_names_of_weights(cases, tmp_path):
    """State dicts of any names and shapes."""
    name = st.sampled_from(
        [
            "conv1.weight",
            "fc.weight",
            "bn1.running_var",
            "layer1.0.conv1.weight",
            "module.fc.bias",
            "layer1",
            "fc.weight.weight",
        ]
    )
    shape = st.lists(st.integers(0, 3), max_size=4)
    content = st.dictionaries(name | st.text(string.printable, max_size=9), shape, max_size=5)

    def read(shapes):
        arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        read_bytes(tmp_path / "w.safetensors")(safetensors.numpy.save(arrays))
        if not shapes:
            raise BadInput("nothing to read")

    fuzz(cases, content, read)
