"""Models: parameter counts, shapes, initialisation, batch norm, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from resnext_jax.models import BatchNorm, ResNetConfig, abstract_model, build_model, list_models

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


def parameters(model: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize(("name", "count"), TORCHVISION_PARAMETERS.items())
def test_parameter_count_is_torchvisions(name, count):
    assert parameters(abstract_model(name)) == count


@pytest.mark.parametrize(("name", "millions"), [("resnext29_8x64d", 34.4), ("resnext29_16x64d", 68.1)])
def test_parameter_count_is_the_papers(name, millions):
    assert parameters(abstract_model(name, num_classes=10)) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize("name", list_models())
def test_stage_shapes(name):
    model = abstract_model(name, num_classes=7)
    model.eval()
    size = 32 if "29" in name else 64
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    shapes = {k: v.shape for k, v in nnx.eval_shape(lambda m, x: m.features(x), model, images).items()}
    stem = size if model.config.stem == "cifar" else size // 4
    expansion = 4 if model.config.block == "bottleneck" else 1
    assert shapes["stem"] == (2, stem, stem, 64)
    for i, stage in enumerate(model.stages):
        assert shapes[stage] == (2, stem // 2**i, stem // 2**i, 64 * 2**i * expansion)
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


def test_zero_init_residual_makes_blocks_identities():
    model = build_model("resnet18", num_classes=2, zero_init_residual=True)
    model.eval()
    x = jnp.abs(jax.random.normal(jax.random.key(0), (1, 8, 8, 64)))
    np.testing.assert_array_equal(model.layer1[1](x), x)


def test_bfloat16_computes_low_and_keeps_parameters_high():
    model = build_model("resnext14_32x4d", num_classes=3, dtype=jnp.bfloat16)
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    assert model.stem(images).dtype == jnp.bfloat16
    assert model(images).dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}


def test_batch_norm_follows_torch_in_training():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    ours, theirs = BatchNorm(5, rngs=nnx.Rngs(0)), torch.nn.BatchNorm2d(5)
    for _ in range(3):
        x = rng.normal(3, 2, size=(4, 3, 2, 5)).astype(np.float32)
        y = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2))).detach().numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(ours(jnp.asarray(x)), y, atol=1e-5)
    np.testing.assert_allclose(ours.mean, theirs.running_mean, rtol=1e-5)
    np.testing.assert_allclose(ours.var, theirs.running_var, rtol=1e-5)


def test_batch_norm_variance_survives_a_large_mean():
    x = 1e4 + jax.random.normal(jax.random.key(0), (8, 16, 16, 1))
    norm = BatchNorm(1, momentum=0.0, rngs=nnx.Rngs(0))
    norm(x)
    assert float(norm.var[0]) == pytest.approx(1.0, rel=0.1)


def test_bad_input_names_the_value():
    with pytest.raises(ValueError, match=r"unknown model 'resnext50'.*resnext50_32x4d"):
        build_model("resnext50")
    with pytest.raises(ValueError, match="num_classes=0"):
        build_model("resnet18", num_classes=0)
    with pytest.raises(ValueError, match="no cardinality"):
        ResNetConfig("basic", (2, 2, 2, 2), groups=32)
    with pytest.raises(ValueError, match=r"expected \[N, H, W, 3\]"):
        build_model("resnet18").stem(jnp.zeros((1, 3, 32, 32)))
