"""The network in what training scripts save: wherever it is nested, under any prefix, averaged or raw."""

import logging

import numpy as np
import pytest

from resnext_jax.errors import BadInput
from resnext_jax.weights.checkpoint import find_network, told_architecture

SHAPES = {
    "conv1.weight": (4, 3, 7, 7),
    "bn1.weight": (4,),
    "layer1.0.conv1.weight": (4, 4, 1, 1),
    "layer1.0.bn1.weight": (4,),
    "layer1.0.conv3.weight": (8, 4, 1, 1),
    "fc.weight": (2, 8),
    "fc.bias": (2,),
}
PLAIN = {name: np.full(shape, i, np.float32) for i, (name, shape) in enumerate(SHAPES.items())}
AVERAGE = {name: value + 100 for name, value in PLAIN.items()}
BACKBONE = {name: value for name, value in PLAIN.items() if not name.startswith("fc.")}
OPTIMIZER = {"state": {0: {"exp_avg": np.ones(3), "step": 3}}, "param_groups": [{"lr": 0.1}]}
OTHER = {"criterion.weight": np.ones(2), "queue": np.ones((8, 9))}


def under(prefix, arrays=PLAIN):
    return {prefix + name: value for name, value in arrays.items()}


FOUND_WHOLE = {
    "bare": PLAIN | {"bn1.num_batches_tracked": np.array(7)},
    "imagenet example": {"epoch": 3, "arch": "x", "state_dict": under("module."), "optimizer": OPTIMIZER},
    "tutorial": {"model_state_dict": PLAIN, "optimizer_state_dict": OPTIMIZER, "loss": 0.4},
    "some other word": {"epoch": 3, "my_weights": {"of_the": {"network": PLAIN}}},
    "compiled": under("_orig_mod."),
    "compiled in parallel": under("module._orig_mod."),
    "parallel, then compiled": under("_orig_mod.module."),
    "lightning": {"state_dict": under("model.") | OTHER, "callbacks": {"x": {}}, "loops": {}},
    "some other prefix": {"state_dict": under("my.net.")},
    "moco": {"state_dict": under("module.encoder_q.") | under("module.encoder_k.", AVERAGE) | OTHER},
    "head of a sequential": {name.replace("fc.", "fc.1."): value for name, value in PLAIN.items()},
    "head of an old name": {name.replace("fc.", "last_linear."): value for name, value in PLAIN.items()},
    "head beside the backbone": under("backbone.", BACKBONE)
    | {"head.fc.weight": PLAIN["fc.weight"], "head.fc.bias": PLAIN["fc.bias"]},
    "children in a sequential": {
        "0.weight": PLAIN["conv1.weight"],
        "1.weight": PLAIN["bn1.weight"],
        **{name.replace("layer1", "4"): PLAIN[name] for name in PLAIN if name.startswith("layer1")},
        "9.weight": PLAIN["fc.weight"],
        "9.bias": PLAIN["fc.bias"],
    },
}


@pytest.mark.parametrize("kind", FOUND_WHOLE)
def test_the_network_is_found_under_its_plain_names(kind):
    found = find_network(FOUND_WHOLE[kind])
    found.pop("bn1.num_batches_tracked", None)
    assert sorted(found) == sorted(PLAIN)
    assert all(found[name] is PLAIN[name] for name in PLAIN)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": PLAIN, "state_dict_ema": AVERAGE},
        {"model_ema": under("module.", AVERAGE) | {"n_averaged": np.array(5)}, "model": PLAIN},
        {"student": under("module.backbone."), "teacher": under("backbone.", AVERAGE)},
        {"state_dict": under("model.") | under("ema_model.", AVERAGE)},
    ],
    ids=["timm", "torchvision", "dino", "side by side"],
)
def test_averaged_weights_are_taken_unless_the_raw_are_asked_for(content, caplog):
    with caplog.at_level(logging.INFO, "resnext_jax"):
        assert find_network(content)["fc.bias"] is AVERAGE["fc.bias"]
    assert "of two sets of weights the averaged ones are taken" in caplog.text
    assert find_network(content, ema=False)["fc.bias"] is PLAIN["fc.bias"]


def test_the_raw_weights_are_not_made_of_averaged_ones():
    with pytest.raises(BadInput, match=r"ema=False: it holds averaged weights alone, 'state_dict_ema'"):
        find_network({"state_dict_ema": AVERAGE}, ema=False)
    assert find_network({"state_dict_ema": AVERAGE})["fc.bias"] is AVERAGE["fc.bias"]


def test_what_was_done_is_said(caplog):
    with caplog.at_level(logging.INFO, "resnext_jax"):
        find_network(FOUND_WHOLE["lightning"])
        find_network(FOUND_WHOLE["head of a sequential"])
        find_network(FOUND_WHOLE["children in a sequential"])
    assert caplog.messages == [
        "state dict: taken from under the key 'state_dict'",
        "state dict: removed the prefix 'model.'",
        "state dict: left out 2 arrays outside the network: criterion.weight, queue",
        "state dict: its head 'fc.1' is taken as 'fc'",
        "state dict: its names, such as '0.weight', are turned into torchvision's",
    ]


def test_several_networks_are_not_chosen_between():
    with pytest.raises(BadInput, match="holds several networks: 'first', 'second'; save the one"):
        find_network({"first": PLAIN, "second": AVERAGE})


def test_two_possible_heads_are_left_alone():
    heads = {"a.weight": PLAIN["fc.weight"], "a.bias": PLAIN["fc.bias"]}
    found = find_network(
        under("backbone.", BACKBONE) | heads | {n.replace("a", "b", 1): v for n, v in heads.items()}
    )
    assert sorted(found) == sorted(BACKBONE)


def test_dictionaries_that_hold_each_other():
    """Each is looked at once: nested so, a small file could otherwise take for ever."""
    inner = {"state_dict": PLAIN}
    for _ in range(60):
        inner = {"a": inner, "b": inner}
    inner["itself"] = inner
    assert find_network(inner)["fc.bias"] is PLAIN["fc.bias"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "found a list"),
        ({}, "no arrays"),
        ({"epoch": 3}, "no arrays"),
        ({0: np.ones(3)}, "no arrays"),
    ],
)
def test_nothing_to_find(content, words):
    with pytest.raises(BadInput, match=words):
        find_network(content)


def test_the_architecture_that_a_script_notes():
    assert told_architecture({"state_dict": PLAIN, "arch": "resnet18"}) == "resnet18"
    assert told_architecture({"model": PLAIN, "args": {"model": "resnetblur50"}}) == "resnetblur50"
    assert told_architecture({"model": PLAIN, "args": {"lr": 0.1}}) is None
    assert told_architecture(PLAIN) is None
