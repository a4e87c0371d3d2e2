"""Schedules, weight decay, clipping, LAMB and accumulation, against torch's or written out in NumPy."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnext_jax.data import Preprocessing
from resnext_jax.data.augment import AugmentConfig, make_augment
from resnext_jax.devices.parallel import DataParallel
from resnext_jax.errors import BadInput
from resnext_jax.inference.metrics import zero_sums
from resnext_jax.models import build_model, freeze_norms
from resnext_jax.models.trees import split_model
from resnext_jax.training.config import TrainConfig
from resnext_jax.training.ema import update_ema
from resnext_jax.training.loss import Loss
from resnext_jax.training.optimizer import make_optimizer, make_schedule
from resnext_jax.training.state import create_state
from resnext_jax.training.step import make_train_step

PARAMS = {
    "conv1": {"kernel": jnp.asarray([[1.0, -2.0, 3.0]]), "bias": jnp.asarray([0.5, 2.0])},
    "bn1": {"scale": jnp.asarray([1.0, 1.5]), "bias": jnp.asarray([-1.0, 1.0])},
}


def updated(config: TrainConfig, grads: dict, steps: int) -> dict:
    """Parameters after some steps with the same gradients."""
    optimizer = make_optimizer(config, steps_per_epoch=10)
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(steps):
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return jax.tree.map(np.asarray, params)


def grads_of(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), PARAMS)


@pytest.mark.parametrize("total", [1, 2, 3, 5, 40])
def test_onecycle_is_torchs(total):
    ours = make_schedule(TrainConfig(lr=0.4, epochs=total, schedule="onecycle"), steps_per_epoch=1)
    rates = [float(ours(step)) for step in range(total)]
    assert np.isfinite(rates).all()
    assert max(rates) <= 0.4 * (1 + 1e-6)
    if total > 4:
        torch = pytest.importorskip("torch")
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
        theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.4, total_steps=total, cycle_momentum=False)
        expected = []
        for _ in range(total):
            expected.append(theirs.get_last_lr()[0])
            optimizer.step()
            theirs.step() if len(expected) < total else None
        np.testing.assert_allclose(rates, expected, rtol=1e-4, atol=1e-7)


def test_cosine_ends_at_the_lowest_rate():
    schedule = make_schedule(TrainConfig(lr=0.4, min_lr=0.1, epochs=4, schedule="cosine"), 25)
    assert float(schedule(100)) == pytest.approx(0.1)
    assert float(schedule(50)) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("decays", "of_conv_bias", "of_scale", "of_bn_bias"),
    [
        ({}, 0.1, 0.1, 0.1),
        ({"norm_weight_decay": 0.0}, 0.1, 0.0, 0.0),
        ({"bias_weight_decay": 0.0}, 0.0, 0.1, 0.0),
        ({"bias_weight_decay": 0.3, "norm_weight_decay": 0.2}, 0.3, 0.2, 0.3),
    ],
)
def test_decay_of_norms_and_biases(decays, of_conv_bias, of_scale, of_bn_bias):
    config = TrainConfig(lr=0.1, momentum=0.0, weight_decay=0.1, **decays)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    for optimizer in ("sgd", "adamw"):  # without gradients both only decay
        after = updated(replace(config, optimizer=optimizer, momentum=0.9), zeros, 1)
        rates = jax.tree.map(lambda new, old: float(np.mean((1 - new / old) / 0.1)), after, PARAMS)
        assert rates["conv1"]["kernel"] == pytest.approx(0.1, abs=1e-5)
        assert rates["conv1"]["bias"] == pytest.approx(of_conv_bias, abs=1e-5)
        assert rates["bn1"]["scale"] == pytest.approx(of_scale, abs=1e-5)
        assert rates["bn1"]["bias"] == pytest.approx(of_bn_bias, abs=1e-5)


@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_clipping_is_torchs(limit):
    torch = pytest.importorskip("torch")
    grads = grads_of(0)
    parameters = [torch.nn.Parameter(torch.tensor(np.asarray(p))) for p in jax.tree.leaves(PARAMS)]
    for parameter, grad in zip(parameters, jax.tree.leaves(grads), strict=True):
        parameter.grad = torch.tensor(np.asarray(grad))
    torch.nn.utils.clip_grad_norm_(parameters, limit)
    torch.optim.SGD(parameters, lr=0.1, weight_decay=0.2).step()
    ours = updated(TrainConfig(lr=0.1, momentum=0.0, weight_decay=0.2, clip_grad_norm=limit), grads, 1)
    for found, expected in zip(jax.tree.leaves(ours), parameters, strict=True):
        np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-5)


def adapted(leaf: jax.Array) -> bool:
    return leaf.ndim > 1


def test_lamb_against_its_paper():
    grads = grads_of(1)
    ours = updated(TrainConfig(optimizer="lamb", lr=0.1, weight_decay=0.01), grads, 3)
    for found, p, g in zip(*map(jax.tree.leaves, (ours, PARAMS, grads)), strict=True):
        decay, adapts = (0.01, True) if adapted(p) else (0.0, False)
        p, g = np.asarray(p, np.float64), np.asarray(g, np.float64)
        m, v = 0.0, 0.0
        for t in (1, 2, 3):
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            r = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6) + decay * p
            p = p - 0.1 * (np.linalg.norm(p) / np.linalg.norm(r) if adapts else 1) * r
        np.testing.assert_allclose(found, p, rtol=1e-4)


@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_is_optax(nesterov):
    config = TrainConfig(
        optimizer="lars", lr=5.0, weight_decay=1e-2, nesterov=nesterov, epochs=3, warmup_epochs=1
    )
    grads = grads_of(2)
    mask = jax.tree.map(adapted, PARAMS)
    schedule = make_schedule(config, 10)
    theirs = optax.lars(schedule, 1e-2, mask, 0.001, trust_ratio_mask=mask, momentum=0.9, nesterov=nesterov)
    params, state = PARAMS, theirs.init(PARAMS)
    for _ in range(15):
        updates, state = theirs.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    for found, expected in zip(*map(jax.tree.leaves, (updated(config, grads, 15), params)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "batch", "rate", "warmup"),
    [("sgd", 8192, 3.2, 5), ("lars", 32768, 12.8, 20), ("lamb", 16384, 0.8, 10), ("adamw", 64, 0.05, 5)],
)
def test_the_rate_grows_with_the_batch(optimizer, batch, rate, warmup):
    config = TrainConfig(optimizer=optimizer, batch_size=batch, lr=0.1, lr_base_size=256, epochs=90)
    assert (config.peak_lr, config.warmup) == (pytest.approx(rate), warmup)
    # The configuration of a run that is resumed says it again.
    again = config.resolved()
    again.check()
    assert (again.peak_lr, again.warmup) == (config.peak_lr, warmup)
    schedule = make_schedule(config, 10)
    assert float(schedule(10 * warmup - 1)) == pytest.approx(rate)
    assert float(schedule(0)) == pytest.approx(rate / (10 * warmup), rel=1e-5)
    assert replace(config, warmup_epochs=2).warmup == 2
    with pytest.raises(BadInput, match=rf"would warm up for {warmup} of epochs=5; give warmup_epochs"):
        replace(config, epochs=5).check()


def test_average_against_numpy():
    rng = np.random.default_rng(0)
    average = expected = rng.normal(size=3)
    for step in range(1, 30):
        model = rng.normal(size=3)
        average = update_ema({"w": average}, {"w": model}, jnp.int32(step), 0.7)["w"]
        decay = min(0.7, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model
    np.testing.assert_allclose(average, expected, atol=1e-5)


def step_with(tiny: str, devices: int, accumulate: int, norms: str):
    """State after one step on a batch of 16, and its metric sums."""
    model = build_model(tiny, num_classes=3)
    if norms == "fixed":
        freeze_norms(model, ("bn1", "layer1"))
    graphdef, params, batch_stats = split_model(model)
    optimizer = optax.sgd(0.1)
    step = make_train_step(
        graphdef,
        optimizer,
        Preprocessing(mean=(0.5,) * 3, std=(0.3,) * 3).normalize,
        make_augment(AugmentConfig(flip=True)),
        Loss(3, label_smoothing=0.1),
        accumulate=accumulate,
    )
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (devices, 16 // devices, 8, 8, 3), dtype=np.uint8),
        "label": rng.integers(0, 3, (devices, 16 // devices)).astype(np.int32),
        "mask": np.ones((devices, 16 // devices), bool),
    }
    parallel = DataParallel(devices)
    state = parallel.replicate(create_state(params, batch_stats, optimizer, seed=0))
    arguments = state, parallel.replicate(zero_sums(3)), parallel.split(batch)
    return jax.device_get(parallel.compile_train_step(step, *arguments)(*arguments))


def test_accumulation_is_the_large_batch(tiny):
    """But for batch norms: where these use their running statistics, nothing but rounding differs."""
    whole, sums = step_with(tiny, 1, 1, "fixed")
    for devices, accumulate in ((1, 4), (2, 2)):
        parts, more = step_with(tiny, devices, accumulate, "fixed")
        for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
        assert [float(sums[name]) for name in sums] == pytest.approx([float(more[name]) for name in sums])


def test_accumulation_normalises_each_part_by_itself(tiny):
    whole, _ = step_with(tiny, 1, 1, "trained")
    parts, _ = step_with(tiny, 1, 2, "trained")
    # The running mean moves twice: 0.1 of the first part's and 0.1 of the second's, against 0.1 of the whole.
    moved = [state.batch_stats["bn1"]["mean"] for state in (whole, parts)]
    assert np.median(moved[1] / moved[0]) == pytest.approx(1.9, rel=0.1)
    assert not np.allclose(whole.params["fc"]["kernel"], parts.params["fc"]["kernel"], atol=1e-5)
