"""Models: parameter counts, shapes, initialisation, batch norm, bad input."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from resnext_jax import ops
from resnext_jax.models import (
    VARIANTS,
    BatchNorm,
    Layers,
    ResNetConfig,
    abstract_model,
    build_model,
    freeze_norms,
    list_models,
    multiply_adds,
    parameter_count,
    trainable_mask,
)
from resnext_jax.models.keys import Keys
from resnext_jax.models.layers import conv_norm

# `num_params` of torchvision's weight metadata (models/resnet.py) at 1000 classes.
TORCHVISION_PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
}


# Of the weights' own sources (Keras' ResNet50V2, timm's WSL models) and of the experiments' reports.
OTHER_PARAMETERS = {
    "resnext101_32x16d": 194_026_792,
    "resnext101_32x32d": 468_530_472,
    "resnext101_32x48d": 828_411_176,
    "resnext38_32x4d": 19_051_304,
    "resnet50_v2": 25_568_360,
}


@nnx.jit
def called(module: nnx.Module, x: jax.Array) -> jax.Array:
    """What a module makes of its input, in one program: layer by layer, compiling takes far longer."""
    return module(x)


@pytest.mark.parametrize(("name", "count"), (TORCHVISION_PARAMETERS | OTHER_PARAMETERS).items())
def test_parameter_count_is_the_published_one(name, count):
    assert parameter_count(abstract_model(name)) == count


def test_parameter_count_of_the_monkeypox_experiment():
    assert parameter_count(abstract_model("resnext50_32x4d_stride1x1_bias", num_classes=2)) == 23_018_114


@pytest.mark.parametrize(("name", "billions"), [("resnet18", 1.814), ("resnext50_32x4d", 4.230)])
def test_multiply_adds_are_torchvisions(name, billions):
    assert multiply_adds(abstract_model(name), 224) / 1e9 == pytest.approx(billions, abs=5e-4)


@pytest.mark.parametrize(("name", "millions"), [("resnext29_8x64d", 34.4), ("resnext29_16x64d", 68.1)])
def test_parameter_count_is_the_papers(name, millions):
    assert parameter_count(abstract_model(name, num_classes=10)) / 1e6 == pytest.approx(millions, abs=0.06)


# Of each depth, stem and kind of block; the others are in the slow tests.
SHAPES = (
    "resnet18",
    "resnext50_32x4d",
    "resnext29_8x16d",
    "resnet50_v2",
    "resnet26t",
    "resnet50s",
    "test_resnet",
)
SHAPES += ("ecaresnet50d_pruned",)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SHAPES else pytest.mark.slow) for name in list_models()]
)
def test_stage_shapes(name):
    model = abstract_model(name, num_classes=7)
    model.eval()
    size = 32 if "29" in name else 64
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    shapes = {k: v.shape for k, v in nnx.eval_shape(lambda m, x: m.features(x), model, images).items()}
    config = model.config
    side = size if config.stem == "cifar" else size // 4
    assert shapes["stem"] == (
        2,
        side,
        side,
        2 * config.stem_width if config.stem in ("deep", "tiered") else 64,
    )
    for i, stage in enumerate(model.stages):
        side //= math.prod(config.strides(i))
        assert shapes[stage] == (2, side, side, config.channels(i, 0).outputs)
    assert shapes["pool"] == shapes[model.stages[-1]][::3]
    assert nnx.eval_shape(lambda m, x: m(x), model, images).shape == (2, 7)


def test_cardinality_is_feature_group_count():
    block = abstract_model("resnext50_32x4d").layer2[0]
    assert block.conv2.feature_group_count == 32
    assert block.conv2.kernel.shape == (3, 3, 256 // 32, 256)
    assert block.conv2.strides == (2, 2)


def test_initialisation_follows_torchvision():
    model = build_model("resnext14_32x4d", rngs=nnx.Rngs(3))
    kernel = np.asarray(model.layer3[0].conv2.kernel)  # [3, 3, 16, 512]
    assert kernel.std() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.02)
    bound = 2048**-0.5
    assert np.abs(model.fc.kernel).max() == pytest.approx(bound, rel=0.01)
    assert 0.9 * bound < np.abs(model.fc.bias).max() <= bound
    assert not np.array_equal(kernel, build_model("resnext14_32x4d", rngs=nnx.Rngs(4)).layer3[0].conv2.kernel)


def test_keys_are_those_of_nnx():
    ours, theirs = Keys(3), nnx.Rngs(3)
    for _ in range(3):
        assert jax.random.key_data(ours.params()).tolist() == jax.random.key_data(theirs.params()).tolist()


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_zero_init_residual_makes_blocks_identities(monkeypatch, block):
    monkeypatch.setitem(VARIANTS, "two blocks", ResNetConfig(block, (2,), stem="cifar"))
    model = build_model("two blocks", num_classes=2, zero_init_residual=True)
    model.eval()
    channels = 64 if block == "basic" else 256
    x = jnp.abs(jax.random.normal(jax.random.key(0), (1, 8, 8, channels)))
    np.testing.assert_array_equal(called(model.layer1[1], x), x)


def test_bfloat16_computes_low_and_keeps_parameters_high(tiny):
    model = abstract_model(tiny, num_classes=3, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    assert (
        nnx.eval_shape(lambda model, x: model.stage("layer1", model.stem(x)), model, images).dtype
        == jnp.bfloat16
    )
    assert nnx.eval_shape(lambda model, x: model(x), model, images).dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}


def test_batch_norm_follows_torch_in_training():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    ours, theirs = BatchNorm(5, rngs=nnx.Rngs(0)), torch.nn.BatchNorm2d(5)
    for _ in range(3):
        x = rng.normal(3, 2, size=(4, 3, 2, 5)).astype(np.float32)
        y = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2))).detach().numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(called(ours, x), y, atol=1e-5)
    np.testing.assert_allclose(ours.mean, theirs.running_mean, rtol=1e-5)
    np.testing.assert_allclose(ours.var, theirs.running_var, rtol=1e-5)


@pytest.mark.parametrize("convolution", [ops.conv_general_dilated, jax.lax.conv_general_dilated])
def test_a_bias_before_a_batch_norm_is_left_out_in_training_and_kept_in_the_running_mean(convolution):
    rng = np.random.default_rng(0)
    config = ResNetConfig("bottleneck", (1,), conv_bias=True)
    layers = Layers(config=config, rngs=nnx.Rngs(0), conv_general_dilated=convolution)
    conv, norm = layers.conv(3, 8, 3), layers.norm(8)
    assert conv.bias is not None
    conv.bias.set_value(jnp.asarray(rng.normal(0, 3, 8), jnp.float32))
    x = jnp.asarray(rng.normal(1, 2, (4, 5, 5, 3)), jnp.float32)

    def loss(conv, norm):
        y = conv_norm(conv, norm, x, act="relu", shortcut=jnp.ones(8))
        return jnp.sum(jnp.sin(y)), y

    (_, y), grads = nnx.jit(nnx.value_and_grad(loss, has_aux=True))(conv, norm)
    z = np.asarray(conv(x), np.float64)  # nnx adds the bias
    mean, var = z.mean((0, 1, 2)), z.var((0, 1, 2))
    np.testing.assert_allclose(y, np.maximum((z - mean) / np.sqrt(var + 1e-5) + 1, 0), atol=1e-5)
    np.testing.assert_allclose(norm.mean, 0.1 * mean, rtol=1e-4)
    np.testing.assert_allclose(norm.var, 0.9 + 0.1 * z.var((0, 1, 2), ddof=1), rtol=1e-4)
    assert not np.any(grads["bias"])
    assert np.any(grads["kernel"])


def test_batch_norm_variance_survives_a_large_mean():
    x = 1e4 + jax.random.normal(jax.random.key(0), (8, 16, 16, 1))
    norm = BatchNorm(1, momentum=0.0, rngs=nnx.Rngs(0))
    called(norm, x)
    assert float(norm.var[0]) == pytest.approx(1.0, rel=0.1)


def test_bad_input_names_the_value():
    with pytest.raises(ValueError, match=r"unknown model 'resnext50'.*resnext50_32x4d"):
        build_model("resnext50")
    with pytest.raises(ValueError, match="num_classes=-1: expected at least 0"):
        build_model("resnet18", num_classes=-1)
    with pytest.raises(ValueError, match="no cardinality"):
        ResNetConfig("basic", (2, 2, 2, 2), groups=32)
    with pytest.raises(ValueError, match=r"block='dense': expected one of basic, bottleneck, preactivation"):
        ResNetConfig("dense", (2, 2))
    with pytest.raises(ValueError, match=r"expected \[N, H, W, 3\]"):
        abstract_model("resnet18").stem(jnp.zeros((1, 3, 32, 32)))


def test_preactivation_strides_in_the_last_block_of_a_stage():
    config = abstract_model("resnet50_v2").config
    assert [config.strides(i) for i in range(4)] == [(1, 1, 2), (1, 1, 1, 2), (1, 1, 1, 1, 1, 2), (1, 1, 1)]


def test_trainable_mask_cuts_prefixes_at_dots():
    params = {
        "conv1": {"kernel": 0},
        "layer1": {"0": {"conv1": {"kernel": 0}}, "1": {"conv1": {"kernel": 0}}, "10": {"bn1": {"scale": 0}}},
        "fc": {"kernel": 0, "bias": 0},
    }
    assert trainable_mask(params, ["conv1", "layer1.1"]) == {
        "conv1": {"kernel": False},
        "layer1": {
            "0": {"conv1": {"kernel": True}},
            "1": {"conv1": {"kernel": False}},
            "10": {"bn1": {"scale": True}},
        },
        "fc": {"kernel": True, "bias": True},
    }
    assert all(jax.tree.leaves(trainable_mask(params, [])))
    head_only = trainable_mask(params, ["backbone"])
    assert head_only["fc"] == {"kernel": True, "bias": True}
    assert not any(jax.tree.leaves({k: v for k, v in head_only.items() if k != "fc"}))


def test_trainable_mask_of_a_model_counts():
    params = nnx.to_pure_dict(nnx.state(abstract_model("resnet18", num_classes=3), nnx.Param))
    mask = trainable_mask(params, ["backbone"])
    trained = sum(leaf.size for leaf, on in zip(*map(jax.tree.leaves, (params, mask)), strict=True) if on)
    assert trained == 512 * 3 + 3


def test_trainable_mask_rejects_bad_prefixes():
    params = {"conv1": {"kernel": 0}, "fc": {"kernel": 0}}
    for prefix in ("layer9", "conv", "fc.kernel.x", ""):
        with pytest.raises(ValueError, match=f"freeze='{prefix}': no parameter is called so.*conv1, fc"):
            trainable_mask(params, [prefix])
    with pytest.raises(ValueError, match="nothing is left to train"):
        trainable_mask(params, ["backbone", "fc"])


def test_frozen_norms_keep_their_statistics_in_training(monkeypatch):
    monkeypatch.setitem(VARIANTS, "two stages", ResNetConfig("bottleneck", (1, 1), 4, 8, stem="cifar"))
    model = build_model("two stages", num_classes=2)
    model.train()
    freeze_norms(model, ["bn1", "layer1"])
    before = nnx.to_pure_dict(jax.tree.map(jnp.copy, nnx.state(model, nnx.BatchStat)))
    called(model, jax.random.normal(jax.random.key(0), (2, 8, 8, 3)))
    after = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
    assert not any(jax.tree.leaves([moved["bn1"], moved["layer1"]]))
    assert all(jax.tree.leaves(moved["layer2"]))
