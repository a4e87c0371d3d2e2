"""State dicts in what training scripts save: wrappers, averages, prefixes, heads."""

import logging

import numpy as np
import pytest

from resnext_jax.errors import BadInput
from resnext_jax.weights.find import find_state_dict

NAMES = ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.weight", "fc.weight", "fc.bias")
PLAIN = {name: np.full((2, 2), i, np.float32) for i, name in enumerate(NAMES)}
AVERAGE = {name: value + 100 for name, value in PLAIN.items()}
COUNTERS = {"bn1.num_batches_tracked": np.array(7)}
OPTIMIZER = {"state": {0: {"exp_avg": np.ones(3), "step": 3}}, "param_groups": [{"lr": 0.1}]}


def under(prefix, arrays=PLAIN):
    return {prefix + name: value for name, value in arrays.items()}


WRAPPED = {
    "bare": PLAIN | COUNTERS,
    "imagenet example": {"epoch": 3, "arch": "x", "state_dict": under("module."), "optimizer": OPTIMIZER},
    "tutorial": {"model_state_dict": PLAIN, "optimizer_state_dict": OPTIMIZER, "loss": 0.4},
    "net": {"net": PLAIN, "acc": 90.1},
    "module": {"module": PLAIN, "lr_scheduler": {"base_lrs": np.ones(2)}},
    "compiled": under("_orig_mod."),
    "compiled in parallel": under("module._orig_mod."),
    "parallel, then compiled": under("_orig_mod.module."),
    "lightning": {"state_dict": under("model."), "callbacks": {"ema": under("model.")}, "loops": {}},
    "backbone": {"state_dict": under("backbone.")},
    "nested": {"checkpoint": {"weights": {"model": PLAIN}}},
    "moco": {
        "state_dict": under("module.encoder_q.") | under("module.encoder_k.", AVERAGE) | {"queue": np.ones(9)}
    },
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_the_arrays_are_found_under_their_plain_names(kind):
    found = find_state_dict(WRAPPED[kind])
    assert list(found) == list(PLAIN)
    assert all(found[name] is PLAIN[name] for name in PLAIN)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": PLAIN, "state_dict_ema": AVERAGE},
        {"model_ema": under("module.", AVERAGE) | {"n_averaged": np.array(5)}, "model": PLAIN},
        {"student": PLAIN, "teacher": AVERAGE},
    ],
)
def test_averaged_weights_are_taken_unless_the_raw_are_asked_for(content, caplog):
    with caplog.at_level(logging.INFO, "resnext_jax"):
        assert find_state_dict(content)["fc.bias"] is AVERAGE["fc.bias"]
    assert "the averaged weights are taken" in caplog.text
    assert find_state_dict(content, average=False)["fc.bias"] is PLAIN["fc.bias"]


@pytest.mark.parametrize("head", ["fc.1", "fc.0", "last_linear"])
def test_heads_by_other_names(head, caplog):
    content = {name.replace("fc.", f"{head}."): value for name, value in PLAIN.items()}
    with caplog.at_level(logging.INFO, "resnext_jax"):
        assert find_state_dict(content)["fc.weight"] is PLAIN["fc.weight"]
    assert f"the head '{head}' is taken as 'fc'" in caplog.text


def test_what_is_left_out_is_said(caplog):
    with caplog.at_level(logging.INFO, "resnext_jax"):
        find_state_dict(WRAPPED["moco"])
    assert "left out, without that prefix: module, queue" in caplog.text


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, {"a": {"b": 1}}, {0: np.ones(3)}, None])
def test_nothing_to_find(content):
    with pytest.raises(BadInput, match="arrays by name"):
        find_state_dict(content)
