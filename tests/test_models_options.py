"""What users of timm ask of a model: stochastic depth, pooling, no head, feature maps; and torch's start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip("torch")

from test_cli import run  # noqa: E402
from torch_reference import (  # noqa: E402
    import_timm,
    random_images,
    relative_error,
    to_numpy,
    to_torch,
)

import resnext_jax as rj  # noqa: E402
from resnext_jax.errors import BadInput  # noqa: E402
from resnext_jax.models import VARIANTS, ResNetConfig, abstract_model, build_model  # noqa: E402
from resnext_jax.models.layers import DropPath  # noqa: E402
from resnext_jax.weights import read_weights  # noqa: E402


@pytest.fixture(scope="module")
def timm(torchvision):
    return import_timm()


@nnx.jit
def called(module: nnx.Module, *arguments: jax.Array) -> object:
    return module(*arguments)


# Stochastic depth.


@pytest.mark.parametrize("name", ["resnet26", "test_resnet"])
def test_drop_path_rises_as_timms(timm, name):
    with torch.device("meta"):
        theirs = timm.create_model(name, drop_path_rate=0.3)
    ours = abstract_model(name, drop_path=0.3)
    blocks = [(stage, i) for stage in ours.stages for i in range(len(getattr(ours, stage)))]
    for stage, i in blocks:
        expected = getattr(theirs, stage)[i].drop_path
        rate = 0.0 if expected is None else expected.drop_prob
        assert getattr(ours, stage)[i].drop_path.rate == pytest.approx(rate)
    assert {getattr(ours, stage)[i].drop_path.index for stage, i in blocks} == {*range(len(blocks))}


def test_drop_path_leaves_out_its_share_and_keeps_the_mean():
    layer, x = DropPath(0.25, 3), jnp.ones((4000, 1, 1, 2)) * 3
    keys = jax.random.split(jax.random.key(0), len(x))
    y = np.asarray(layer(x, keys))
    assert set(np.unique(y)) == {0, 4}
    assert (y[:, 0, 0, 0] == y[:, 0, 0, 1]).all(), "an image is dropped as a whole"
    assert np.mean(y == 0) == pytest.approx(0.25, abs=0.03)
    assert not np.array_equal(y, DropPath(0.25, 4)(x, keys)), "blocks draw for themselves"
    with pytest.raises(BadInput, match="call model"):
        layer(x, None)
    layer.deterministic = True
    np.testing.assert_array_equal(layer(x, None), x)


def test_a_dropped_branch_leaves_the_shortcut():
    config = ResNetConfig("basic", (3,), stem="cifar")
    model, plain = (build_model(config, num_classes=2, drop_path=rate) for rate in (0.999, 0.0))
    for network in (model, plain):
        network.train()
    x = jnp.abs(jax.random.normal(jax.random.key(0), (8, 8, 8, 64)))
    keys = jax.random.split(jax.random.key(1), 8)
    np.testing.assert_array_equal(called(model.layer1[2], x, keys), x)
    first = called(model.layer1[0], x, keys)
    np.testing.assert_array_equal(first, called(plain.layer1[0], x))


def test_drop_path_trains_and_resumes_alike(tiny, image_folder, tmp_path, monkeypatch):
    flags = ["--data", image_folder, "--model", tiny, "--image-size", 16, "--batch-size", 4, "--lr", 0.01]
    outs = [tmp_path / name for name in ("whole", "parts", "none")]
    monkeypatch.setitem(VARIANTS, tiny, ResNetConfig("bottleneck", (2,), 4, 8, stem="cifar"))
    for out, epochs, rate in zip(outs, (2, 1, 2), (0.5, 0.5, 0), strict=True):
        run("train", *flags, "--devices", 1, "--drop-path", rate, "--epochs", epochs, "--out", out)
    run("train", "--resume", "--out", outs[1], "--epochs", 2)
    whole, parts, none = map(read_weights, outs)
    for name, array in whole.items():
        np.testing.assert_array_equal(array, parts[name])
    assert not np.array_equal(whole["layer1.1.conv1.weight"], none["layer1.1.conv1.weight"])


# The start.


def test_torchs_own_start_is_within_its_bounds():
    """torch.nn.Conv2d's kernels and biases: uniform within 1 / sqrt(inputs of a group x window)."""
    config = ResNetConfig("bottleneck", (1, 1), 4, 16, conv_bias=True)
    found = rj.to_torch_state_dict(build_model(config, init="torch"))
    torch.manual_seed(0)
    convolutions = 0
    for name, kernel in found.items():
        if kernel.ndim != 4:
            continue
        convolutions += 1
        outputs, inputs, size, _ = kernel.shape
        groups = 4 if ".conv2." in name else 1
        theirs = torch.nn.Conv2d(inputs * groups, outputs, size, groups=groups)
        bias = found[name.removesuffix("weight") + "bias"]
        for ours, expected in ((kernel, theirs.weight), (bias, theirs.bias)):
            expected = expected.detach().numpy()
            assert ours.shape == expected.shape
            bound = (inputs * size * size) ** -0.5
            assert 0.9 * bound < np.abs(ours).max() <= bound
            assert 0.9 * bound < np.abs(expected).max() <= bound
            assert ours.std() == pytest.approx(bound / 3**0.5, rel=0.2)
    assert convolutions == 9
    with pytest.raises(BadInput, match="init='keras': expected 'torchvision' or 'torch'"):
        build_model(config, init="keras")


# Pooling, heads, feature maps.


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax"])
def test_global_pool_is_timms(timm, pool):
    torch.manual_seed(0)
    theirs = timm.create_model("test_resnet", num_classes=5, global_pool=pool).eval()
    headless = timm.create_model("test_resnet", num_classes=0, global_pool=pool).eval()
    headless.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    images = random_images(2, 70, 60, 3)
    for classes, reference in ((5, theirs), (0, headless)):
        ours = rj.create_model("test_resnet", num_classes=classes, global_pool=pool)
        rj.load_torch_state_dict(ours, reference.state_dict())
        ours.eval()
        assert ours.num_classes == classes
        with torch.no_grad():
            expected = reference(to_torch(images)).numpy()
        assert relative_error(called(ours, images), expected) < 1e-4


def test_no_pooling_gives_the_last_map(timm):
    torch.manual_seed(0)
    theirs = timm.create_model("test_resnet", num_classes=0, global_pool="").eval()
    ours = rj.create_model("test_resnet", num_classes=0, global_pool="")
    rj.load_torch_state_dict(ours, theirs.state_dict())
    ours.eval()
    images = random_images(2, 70, 60, 3)
    with torch.no_grad():
        expected = to_numpy(theirs(to_torch(images)))
    assert relative_error(called(ours, images), expected) < 1e-4
    with pytest.raises(BadInput, match="global_pool=None with num_classes=3: a head takes pooled features"):
        rj.create_model("test_resnet", num_classes=3, global_pool="")
    with pytest.raises(BadInput, match="global_pool='median': expected one of"):
        rj.create_model("test_resnet", global_pool="median")


@pytest.mark.parametrize("indices", [None, (0, 2), (3, 1), (-1, -3)])
@pytest.mark.parametrize("name", ["test_resnet", pytest.param("resnet10t", marks=pytest.mark.slow)])
def test_feature_maps_are_timms(timm, name, indices):
    torch.manual_seed(0)
    chosen = {} if indices is None else {"out_indices": indices}
    # timm's maps come from fine to coarse always, but what it says of them in the order asked for.
    ordered = {key: sorted(i % 5 for i in value) for key, value in chosen.items()}
    whole = timm.create_model(name, num_classes=0)
    theirs = timm.create_model(name, features_only=True, **ordered).eval()
    theirs.load_state_dict(whole.state_dict(), strict=False)
    ours = rj.create_model(name, features_only=True, **chosen)
    state = {k: v for k, v in whole.state_dict().items() if has(ours.backbone, k)}
    rj.load_torch_state_dict(ours.backbone, state)
    ours.eval()
    info, expected = ours.feature_info, theirs.feature_info
    assert info.channels() == expected.channels()
    assert info.reduction() == expected.reduction()
    assert info.module_name() == expected.module_name()
    images = random_images(2, 70, 60, 3)
    with torch.no_grad():
        maps = theirs(to_torch(images))
    found = called(ours, images)
    assert len(found) == len(maps)
    for mine, other in zip(found, maps, strict=True):
        assert relative_error(mine, to_numpy(other)) < 1e-4


def has(backbone: nnx.Module, name: str) -> bool:
    """Whether the stage of a parameter is kept."""
    part = name.partition(".")[0]
    return getattr(backbone, part, None) is not None


def test_feature_maps_of_weights(tmp_path):
    """The stages that are left out need no weights; those of the file fill the others."""
    model = rj.create_model("test_resnet", num_classes=3)
    rj.weights.write_weights(file := tmp_path / "w.safetensors", rj.to_torch_state_dict(model))
    maps = rj.create_model("test_resnet", weights=file, features_only=True, out_indices=(2,))
    maps.eval()
    model.eval()
    images = random_images(1, 64, 64, 3)
    np.testing.assert_allclose(
        called(maps, images)[0], model.features(images)["layer2"], rtol=1e-5, atol=1e-6
    )
    with pytest.raises(BadInput, match=r"out_indices=\(5,\): expected numbers from 0 to 4"):
        rj.create_model("test_resnet", features_only=True, out_indices=(5,))
    with pytest.raises(BadInput, match="no effect without features_only=True"):
        rj.create_model("test_resnet", out_indices=(1,))
