"""Training step: the same numbers on any number of devices, under pmap and shard_map, and as torch's."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import export
from jax.sharding import Mesh, PartitionSpec

from resnext_jax.data import Preprocessing
from resnext_jax.data.augment import AugmentConfig, make_augment
from resnext_jax.devices import AXIS, DataParallel
from resnext_jax.inference import make_eval_step
from resnext_jax.inference.metrics import mean_metrics, means, metric_names, metric_sums, zero_sums
from resnext_jax.models import abstract_model, build_model
from resnext_jax.models.trees import merge_model, split_model
from resnext_jax.ops import cpp_kernels
from resnext_jax.training.config import TrainConfig
from resnext_jax.training.loss import Loss
from resnext_jax.training.optimizer import make_optimizer, make_schedule
from resnext_jax.training.state import create_state
from resnext_jax.training.step import make_train_step

CLASSES = 3
NORMALIZE = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)).normalize


SGD = optax.sgd(0.1, 0.9)
AS_IS = make_augment(AugmentConfig())
AUGMENT = make_augment(AugmentConfig(flip=True, pad_crop=2))


def make_step(tiny, *, sync, augment=AS_IS, optimizer=SGD):
    model = build_model(tiny, num_classes=CLASSES, bn_axis_name=AXIS if sync else None)
    graphdef, params, batch_stats = split_model(model)
    state = create_state(params, batch_stats, optimizer, seed=5)
    return make_train_step(graphdef, optimizer, NORMALIZE, augment, Loss(CLASSES)), state


def make_batch(count=16, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8),
        "label": rng.integers(0, CLASSES, count).astype(np.int32),
        "mask": np.ones(count, bool),
    }


def by_device(batch, devices):
    return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)


def run_steps(step, state, devices, batches, map_by="pmap"):
    parallel = DataParallel(devices, map_by)
    state, sums = parallel.replicate(state), parallel.replicate(zero_sums(CLASSES))
    batches = [
        parallel.split(jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch))
        for batch in batches
    ]
    compiled = parallel.compile_train_step(step, state, sums, batches[0])
    for batch in batches:
        state, sums = compiled(state, sums, batch)
    return jax.device_get(state), means(jax.device_get(sums))


@nnx.jit
def called(model, images):
    return model(images)


def worst_difference(a, b):
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.max(np.abs(x - y))), a, b)))


BATCHES = [make_batch(seed=seed) for seed in range(3)]


def test_devices_change_nothing_but_rounding_with_sync_bn(tiny):
    results = [run_steps(*make_step(tiny, sync=True, augment=AUGMENT), d, BATCHES) for d in (1, 4)]
    # Momentum, ReLU and batch norm amplify rounding; statistics of the devices' own differ by more than 1e-3.
    assert worst_difference(results[0][0].params, results[1][0].params) < 2e-4
    assert worst_difference(results[0][0].batch_stats, results[1][0].batch_stats) < 2e-4
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-4)


def test_without_sync_bn_each_device_has_its_own_statistics(tiny):
    alone, apart = (run_steps(*make_step(tiny, sync=False), d, BATCHES)[0] for d in (1, 4))
    # The mean of the devices' means is the mean; of their variances, it is not.
    stats = [state.batch_stats["bn1"] for state in (alone, apart)]
    assert np.max(np.abs(stats[0]["mean"] - stats[1]["mean"])) < 1e-2
    assert worst_difference(alone.params, apart.params) > 1e-3


def test_pmap_and_shard_map_agree(tiny):
    step, state = make_step(tiny, sync=True, augment=AUGMENT)
    state = jax.device_get(state)  # the mapped step takes its argument's memory
    (by_pmap, metrics), (by_shard_map, others) = (
        run_steps(step, state, 4, BATCHES, map_by) for map_by in ("pmap", "shard_map")
    )
    assert worst_difference(by_pmap, by_shard_map) < 1e-6
    assert metrics == pytest.approx(others)


def test_step_is_gradient_descent_on_the_mean_loss(tiny):
    step, state = make_step(tiny, sync=False, optimizer=optax.sgd(0.1))
    after, metrics = run_steps(step, state, 1, BATCHES[:1])
    model = build_model(tiny, num_classes=CLASSES)
    graphdef, params, batch_stats = split_model(model)

    @jax.jit
    @jax.value_and_grad
    def loss_and_gradients(params):
        logits = merge_model(graphdef, params, batch_stats)(NORMALIZE(BATCHES[0]["image"]))
        log_probabilities = jax.nn.log_softmax(logits)
        return -jnp.mean(log_probabilities[jnp.arange(16), BATCHES[0]["label"]])

    value, grads = loss_and_gradients(params)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    assert worst_difference(after.params, jax.device_get(expected)) < 1e-5
    assert metrics["loss"] == pytest.approx(float(value), rel=1e-5)


@pytest.mark.parametrize("map_by", ["pmap", "shard_map"])
def test_evaluation_keeps_the_order_of_the_examples(tiny, map_by):
    model = build_model(tiny, num_classes=CLASSES)
    model.eval()
    graphdef, params, batch_stats = split_model(model)
    parallel = DataParallel(2, map_by)
    step = make_eval_step(graphdef, NORMALIZE)
    variables = parallel.replicate({"params": params, "batch_stats": batch_stats})
    batches = [make_batch(8, seed) for seed in range(2)]
    split = [parallel.split(by_device(batch, 2)) for batch in batches]
    compiled = parallel.compile_eval_step(step, variables, split[0])
    log_probabilities = parallel.gather([compiled(variables, batch) for batch in split])
    logits = np.concatenate([called(model, NORMALIZE(batch["image"])) for batch in batches])
    expected = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(log_probabilities, expected, atol=1e-5)
    labels = np.concatenate([batch["label"] for batch in batches])
    metrics = mean_metrics(log_probabilities, labels)
    assert metrics["loss"] == pytest.approx(-expected[np.arange(16), labels].mean(), rel=1e-5)
    assert metrics["top1"] == (logits.argmax(1) == labels).mean()


def test_metric_sums_against_numpy():
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 6, (200, 8)).astype(np.float32)  # with ties
    labels, mask = rng.integers(0, 8, 200), rng.random(200) < 0.7
    losses = rng.random(200)
    sums = metric_sums(jnp.asarray(logits), jnp.asarray(losses), jnp.asarray(labels), jnp.asarray(mask))
    order = np.argsort(-logits, axis=1, kind="stable")
    assert float(sums["count"]) == mask.sum()
    assert float(sums["loss"]) == pytest.approx(losses[mask].sum())
    assert float(sums["top1"]) == (order[:, 0] == labels)[mask].sum()
    assert float(sums["top5"]) == (order[:, :5] == labels[:, None]).any(1)[mask].sum()


def test_what_is_not_a_number_is_not_right():
    logits = jnp.full((4, 3), jnp.nan)
    labels = jnp.arange(4) % 3
    sums = metric_sums(logits, jnp.zeros(4), labels, jnp.ones(4, bool))
    assert float(sums["top1"]) == 0


def test_top5_only_where_it_has_meaning():
    assert metric_names(5) == ("loss", "top1")
    assert metric_names(6) == ("loss", "top1", "top5")


def torch_steps(optimizer_class, options, steps):
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    optimizer = optimizer_class(torch)([parameter], **options)
    for _ in range(steps):
        optimizer.zero_grad()
        (parameter**2 / 2 + parameter).sum().backward()
        optimizer.step()
    return parameter.detach().numpy()


@pytest.mark.parametrize(
    ("config", "torch_optimizer", "options"),
    [
        ({"momentum": 0.9, "weight_decay": 0.01}, "SGD", {"momentum": 0.9, "weight_decay": 0.01}),
        ({"nesterov": True}, "SGD", {"momentum": 0.9, "nesterov": True}),
        ({"momentum": 0.0}, "SGD", {}),
        ({"optimizer": "adam", "weight_decay": 0.01}, "Adam", {"weight_decay": 0.01}),
        ({"optimizer": "adamw", "weight_decay": 0.01}, "AdamW", {"weight_decay": 0.01}),
    ],
)
def test_optimizers_are_torchs(config, torch_optimizer, options):
    optimizer = make_optimizer(TrainConfig(lr=0.05, **config), steps_per_epoch=10)
    params = jnp.asarray([1.0, -2.0, 3.0])
    state = optimizer.init(params)
    for _ in range(5):
        updates, state = optimizer.update(params + 1, state, params)
        params = optax.apply_updates(params, updates)
    theirs = torch_steps(lambda torch: getattr(torch.optim, torch_optimizer), {"lr": 0.05} | options, 5)
    np.testing.assert_allclose(params, theirs, rtol=2e-5)


def test_schedules():
    def rates(**config):
        schedule = make_schedule(TrainConfig(lr=1.0, epochs=6, **config), steps_per_epoch=2)
        return [round(float(schedule(step)), 4) for step in range(12)]

    assert rates() == [1.0] * 12
    assert rates(schedule="step", milestones=(2, 4)) == [1.0] * 4 + [0.1] * 4 + [0.01] * 4
    assert rates(warmup_epochs=2)[:6] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert rates(schedule="step", milestones=(3,), warmup_epochs=1) == [0.5, 1, 1, 1, 1, 1] + [0.1] * 6
    cosine = rates(schedule="cosine", warmup_epochs=1)
    expected = 0.5 * (1 + np.cos(np.pi * np.arange(10) / 10))
    assert cosine[:2] == [0.5, 1.0]
    np.testing.assert_allclose(cosine[2:], expected, atol=1e-4)


def test_augmentation_against_numpy():
    images = np.random.default_rng(0).integers(0, 256, (64, 6, 6, 3), dtype=np.uint8)
    keys = jax.random.split(jax.random.key(0), 64)
    flipped = np.asarray(make_augment(AugmentConfig(flip=True))(keys, images))
    mirrored = [np.array_equal(out, image[:, ::-1]) for out, image in zip(flipped, images, strict=True)]
    kept = [np.array_equal(out, image) for out, image in zip(flipped, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 20 < sum(mirrored) < 44

    cropped = np.asarray(make_augment(AugmentConfig(pad_crop=2))(keys, images))
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    places = set()
    for image, out in zip(padded, cropped, strict=True):
        found = {
            (y, x) for y in range(5) for x in range(5) if np.array_equal(image[y : y + 6, x : x + 6], out)
        }
        assert found
        places |= found
    assert len(places) > 15
    assert flipped.dtype == cropped.dtype == np.uint8


def test_model_survives_split_and_merge(tiny):
    model = build_model(tiny, num_classes=CLASSES)
    model.eval()
    images = jnp.ones((1, 8, 8, 3))
    np.testing.assert_array_equal(called(merge_model(*split_model(model)), images), called(model, images))
    assert isinstance(split_model(model)[1]["layer1"]["0"], dict)
    assert nnx.graphdef(model) == split_model(model)[0]


def test_steps_for_accelerators_call_nothing_of_the_cpu():
    model = abstract_model("resnext14_32x4d", num_classes=CLASSES, dtype=jnp.bfloat16)
    graphdef, params, batch_stats = split_model(model)
    state = jax.eval_shape(lambda p, s: create_state(p, s, SGD, seed=5), params, batch_stats)
    step = make_train_step(graphdef, SGD, NORMALIZE, AUGMENT, Loss(CLASSES))
    whole = {"mesh": Mesh(jax.devices()[:1], AXIS), "in_specs": PartitionSpec(), "out_specs": PartitionSpec()}
    mapped = jax.jit(jax.shard_map(step, check_vma=False, **whole))
    batch = make_batch(2) | {"image": np.zeros((2, 32, 32, 3), np.uint8)}
    arguments = state, zero_sums(CLASSES), batch
    traced = mapped.trace(*arguments)
    lowered = {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("cuda", "tpu", "cpu")}
    exported = export.export(mapped, platforms=["cuda", "tpu"])(*arguments).mlir_module()
    for program in (lowered["cuda"], lowered["tpu"], exported):
        assert "stablehlo.convolution" in program
        assert set(re.findall(r"custom_call @([\w.$]+)", program)) <= {"Sharding"}
    # Where there are kernels for it, the CPU's is what the others would have leaked.
    assert ("custom_call @resnext_jax." in lowered["cpu"]) == (cpp_kernels.lanes() > 0)
