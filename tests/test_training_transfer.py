"""Transfer: what is frozen stays to the bit and costs no state, the head has a rate of its own."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resnext_jax as rj
from resnext_jax.data import IMAGENET_MEAN
from resnext_jax.models import abstract_model, build_model
from resnext_jax.models.trees import split_model
from resnext_jax.runs import Checkpoints
from resnext_jax.training.optimizer import make_optimizer
from resnext_jax.training.setup import make_preprocessing, preprocessing_of_weights


@pytest.fixture
def config(small_run) -> rj.TrainConfig:
    return replace(small_run, epochs=1)


def variables(directory) -> dict[str, np.ndarray]:
    with Checkpoints(directory) as checkpoints:
        tree = checkpoints.read_model(checkpoints.step_of("best"))
    return {".".join(entry.key for entry in path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def test_frozen_layers_and_their_statistics_stay(config, tmp_path):
    rj.fit(replace(config, normalize="half"), quiet=True)
    tuned = replace(
        config,
        out=tmp_path / "tuned",
        weights=str(config.out),
        freeze=("conv1", "bn1", "layer1.0.bn2"),
        weight_decay=0.01,  # would move frozen parameters too, if it saw them
    )
    rj.fit(tuned, quiet=True)
    before, after = variables(config.out), variables(tuned.out)
    frozen = {f"{name}." for name in tuned.freeze}
    for name, value in after.items():
        kept = any(name.split(".", 1)[1].startswith(prefix) for prefix in frozen)
        assert np.array_equal(value, before[name]) == kept, name
    # The weights' own normalisation goes with them.
    assert rj.load_run(tuned.out).preprocessing.mean == (0.5, 0.5, 0.5)


def test_frozen_parameters_have_no_optimizer_state(tiny):
    _, params, _ = split_model(build_model(tiny, num_classes=3))
    config = rj.TrainConfig(model=tiny, optimizer="adam", weights="x", freeze=("backbone",), head_lr=0.5)
    state = make_optimizer(config, steps_per_epoch=1).init(params)
    shapes = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert sorted(shapes) == sorted(2 * [leaf.shape for leaf in params["fc"].values()])


def test_the_head_has_its_own_rate(tiny):
    _, params, _ = split_model(build_model(tiny, num_classes=3))
    ones = jax.tree.map(jnp.ones_like, params)
    config = rj.TrainConfig(model=tiny, lr=0.1, head_lr=0.5, schedule="step", milestones=(1,))
    optimizer = make_optimizer(config, steps_per_epoch=1)
    state = optimizer.init(params)
    updates, state = optimizer.update(ones, state, params)
    assert float(updates["fc"]["bias"][0]) == pytest.approx(-0.5)
    assert float(updates["conv1"]["kernel"][0, 0, 0, 0]) == pytest.approx(-0.1)
    updates, state = optimizer.update(ones, state, params)
    assert float(updates["fc"]["bias"][0]) == pytest.approx(-0.05 * 1.9)  # a tenth; 1.9 is the momentum


# The rates that a factor of 1/2 makes of 1.
HALVED = {
    "resnet18": {"conv1": 1 / 32, "bn1": 1 / 32, "layer1": 1 / 16, "layer2": 1 / 8, "layer3": 1 / 4}
    | {"layer4": 1 / 2, "fc": 1},
    "resnext29_8x16d": {"conv1": 1 / 16, "bn1": 1 / 16, "layer1": 1 / 8, "layer2": 1 / 4, "layer3": 1 / 2}
    | {"fc": 1},
    # Its last norm goes with the last stage.
    "resnet50_v2": {"conv1": 1 / 32, "layer1": 1 / 16, "layer2": 1 / 8, "layer3": 1 / 4, "layer4": 1 / 2}
    | {"norm": 1 / 2, "fc": 1},
}


@pytest.mark.parametrize("frozen", [(), ("conv1", "layer1")])
@pytest.mark.parametrize("head_lr", [None, 0.5])
@pytest.mark.parametrize("model", HALVED)
def test_each_stage_has_the_next_ones_rate_times_the_layer_decay(model, head_lr, frozen):
    # One number for each parameter will do: sgd treats each by itself.
    params = jax.tree.map(lambda _: jnp.float32(2), split_model(abstract_model(model))[1])
    config = rj.TrainConfig(
        model=model,
        weights="x",
        freeze=frozen,
        lr=0.1,
        head_lr=head_lr,
        layer_decay=0.5,
        weight_decay=0.25,
        momentum=0.0,
    )
    optimizer = make_optimizer(config, steps_per_epoch=1)
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    rates = {name: 0.1 * factor for name, factor in HALVED[model].items()} | dict.fromkeys(frozen, 0.0)
    rates["fc"] = head_lr or 0.1
    assert set(updates) == set(rates)
    for name, part in updates.items():
        for update in jax.tree.leaves(part):  # the gradient, and the decay of a parameter of 2
            assert float(update) == pytest.approx(-rates[name] * (1 + 0.25 * 2)), name


def test_without_layer_decay_the_saved_state_is_as_before(tiny):
    _, params, _ = split_model(build_model(tiny, num_classes=3))
    config = rj.TrainConfig(model=tiny, head_lr=0.5)
    state = make_optimizer(config, steps_per_epoch=1).init(params)
    assert len(state) == 4  # decay, momentum, rate, head


def test_normalisation_follows_the_weights_unless_told_otherwise(tiny):
    named = rj.TrainConfig(model="resnext50_32x4d", weights="IMAGENET1K_V2", image_size=64)
    told = preprocessing_of_weights(named)
    assert told is not None
    assert told.resize_size == 232
    assert make_preprocessing(named, told).mean == IMAGENET_MEAN
    assert make_preprocessing(named, replace(told, mean=(0.1, 0.2, 0.3))).mean == (0.1, 0.2, 0.3)
    assert make_preprocessing(named, told).image_size == 64
    assert make_preprocessing(replace(named, normalize="half"), told).mean == (0.5, 0.5, 0.5)
    assert preprocessing_of_weights(rj.TrainConfig()) is None
    assert make_preprocessing(rj.TrainConfig(), None).mean == IMAGENET_MEAN


@pytest.mark.parametrize(
    ("message", "changes"),
    {
        "without weights": {"freeze": ("backbone",)},
        "no parameter is called so": {"freeze": ("layer9",), "weights": "x"},
        "nothing is left to train": {"freeze": ("backbone", "fc"), "weights": "x"},
        "frozen head": {"freeze": ("fc",), "weights": "x", "head_lr": 0.1},
        "head_lr=-1": {"head_lr": -1.0},
        "layer_decay=0.0: expected a number above 0": {"layer_decay": 0.0},
        "layer_decay=1.5: expected a number above 0 and at most 1": {"layer_decay": 1.5},
        "layer_decay=0.7 with only the head": {
            "layer_decay": 0.7,
            "freeze": ("backbone",),
            "weights": "x",
        },
    }.items(),
)
def test_transfer_that_makes_no_sense_is_refused(config, message, changes):
    with pytest.raises(ValueError, match=message):
        rj.fit(replace(config, data="nowhere", **changes), quiet=True)
