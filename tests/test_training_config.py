"""Configurations: rules that stand on the fields, what a resumed run may change, headings of `--help`."""

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import resnext_jax as rj
from resnext_jax import cli
from resnext_jax.data import DataConfig
from resnext_jax.errors import BadInput
from resnext_jax.fields import Config, Free, GoesWith, NotWith, Range, names, parts
from resnext_jax.training import saved_config


@dataclass(frozen=True, kw_only=True)
class FruitConfig(Config):
    """One part."""

    kind: Literal["apple", "pear"] = "apple"
    share: Annotated[float, Range(above=0, below=1)] = 0.5
    seeds: Annotated[tuple[int, ...], Range(least=0, most="most"), GoesWith("kind", "pear")] = ()
    most: Annotated[int, Free(unless=("kind", "pear"))] = 9


@dataclass(frozen=True, kw_only=True)
class BasketConfig(Config):
    """Another."""

    path: Annotated[Path | None, NotWith("share")] = None


@dataclass(frozen=True, kw_only=True)
class Both(FruitConfig, BasketConfig):
    """The whole."""


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_a_range_holds_for_exactly_its_numbers(share):
    if 0 < share < 1:
        Both(share=share).check()
    else:
        with pytest.raises(BadInput, match=r"^share=.*: expected a (finite )?number"):
            Both(share=share).check()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "plum"}, "kind='plum': expected one of apple, pear"),
        (
            {"seeds": (1,)},
            "seeds=(1,) with kind='apple': it has no effect; leave it out, or give kind='pear'",
        ),
        (
            {"seeds": (1, 10), "kind": "pear"},
            "seeds=(1, 10): expected a number of at least 0 and at most most=9",
        ),
        ({"path": "x", "share": 0.1}, "path=x with share=0.1: choose one"),
        ({"share": True}, "share=True: expected a finite number"),
        ({"most": 1.0}, "most=1.0: expected a whole number"),
        ({"path": 3}, "path=3: expected a path"),
    ],
)
def test_rules_name_the_field_and_what_is_expected(fields, message):
    with pytest.raises(BadInput) as caught:
        Both(**fields).check()
    assert str(caught.value).startswith(message)


def test_parts_keep_their_order_and_their_fields():
    assert parts(Both) == [FruitConfig, BasketConfig]
    assert names(Both) == ["kind", "share", "seeds", "most", "path"]
    stored = json.loads(json.dumps(Both(kind="pear", seeds=[1, 2], path="a/b").to_dict()))
    assert Both.from_dict(stored) == Both(kind="pear", seeds=(1, 2), path=Path("a/b"))
    assert FruitConfig.pick(stored) == FruitConfig(kind="pear", seeds=(1, 2))


def test_free_fields_may_change_and_others_not():
    assert Both(most=3).changes(Both()) == []
    assert Both(most=3, kind="pear").changes(Both(kind="pear")) == ["most: 9 -> 3"]
    assert Both(share=0.1).changes(Both()) == ["share: 0.5 -> 0.1"]


def test_what_a_resumed_run_may_change():
    """Where and how it runs, not what it computes."""
    free = {
        *("out", "resume", "overwrite", "epochs", "data_dir", "cache_gib", "workers", "save_minutes"),
        *("devices", "distributed", "early_stop", "tensorboard", "on_nan", "image_dir", "wandb", "mlflow"),
        *("on_save_error", "peer_timeout", "coordinator", "processes", "process_id"),
        *("remat", "parallel", "profile"),
    }
    other = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v + 0.125, str: lambda v: v + "x"}
    config = rj.TrainConfig()
    data = {field.name for field in dataclasses.fields(DataConfig)}  # these are tested with the data
    for field in dataclasses.fields(config):
        if field.name in data:
            continue
        value = getattr(config, field.name)
        changed = other.get(type(value), lambda _: ("x",))(value)
        difference = dataclasses.replace(config, **{field.name: changed}).changes(config)
        assert bool(difference) != (field.name in free), field.name
    longer = dataclasses.replace(config, schedule="cosine", epochs=99)
    assert longer.changes(dataclasses.replace(config, schedule="cosine")) == ["epochs: 20 -> 99"]


DAMAGED = {
    "lr='x': expected a finite number": {"lr": "x"},
    "freeze=3: expected several texts": {"freeze": 3},
    "batch_size=None: expected a whole number": {"batch_size": None},
    "unknown field colour": {"colour": "red"},
    "out=3: expected a path": {"out": 3},
}


@pytest.mark.parametrize(("message", "changes"), DAMAGED.items())
def test_a_damaged_configuration_names_file_and_field(tmp_path, message, changes):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"config": rj.TrainConfig().to_dict() | changes}))
    with pytest.raises(BadInput, match=f"^{re.escape(str(file))}: {re.escape(message)}"):
        saved_config(tmp_path)


def test_help_has_a_heading_for_each_part_and_every_flag(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    shown = capsys.readouterr().out
    headings = re.findall(r"^\W*(\w+) options\b", shown, re.MULTILINE)
    assert headings == ["data", "image", "augment", "model", "optimizer", "schedule", "loss", "run"]
    for field in dataclasses.fields(rj.TrainConfig):
        assert f"--{field.name.replace('_', '-')}" in shown
