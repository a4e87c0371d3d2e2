"""Forward parity with torch: every stage, logits, odd images, and the way back to torchvision."""

from types import ModuleType

import pytest

torch = pytest.importorskip("torch")

from torch_reference import (  # noqa: E402
    TORCHVISION,
    assert_same_outputs,
    build,
    ported,
    random_images,
    reference,
    to_torch,
)

from resnext_jax.models import ResNet, abstract_model  # noqa: E402
from resnext_jax.weights import to_torch_state_dict  # noqa: E402
from resnext_jax.weights.state_dict import torch_shapes  # noqa: E402

LARGE = ("resnext101_32x8d", "resnext101_64x4d", "wide_resnet101_2")
OTHERS = (
    "resnext14_32x4d",
    "resnext29_8x64d",
    "resnext38_32x4d",
    "resnext50_32x4d_stride1x1_bias",
    "resnet50_v2",
)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in TORCHVISION + OTHERS
    ],
)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def theirs(torchvision, name) -> torch.nn.Module:
    return reference(torchvision, name)


@pytest.fixture(scope="module")
def ours(theirs, name) -> ResNet:
    return ported(theirs, name)


@pytest.mark.parametrize("variant", [*TORCHVISION, *OTHERS, "resnext101_32x48d", "resnext29_16x64d"])
def test_names_and_shapes(torchvision, variant):
    """Of every variant, those too large to compute here included."""
    with torch.device("meta"):
        theirs = build(torchvision, variant, 10).state_dict()
    expected = {
        key: tuple(value.shape) for key, value in theirs.items() if not key.endswith("num_batches_tracked")
    }
    assert torch_shapes(abstract_model(variant, num_classes=10)) == expected


def test_stages_and_logits(ours, theirs, name):
    size = 32 if "29" in name else 64
    assert_same_outputs(ours, theirs, random_images(2, size, size, 3))


def test_back_to_torch(torchvision: ModuleType, ours, theirs, name):
    """A strict load into an empty model gives the very same logits."""
    with torch.device("meta"):
        copy = build(torchvision, name, theirs.fc.out_features)
    state_dict = {key: torch.from_numpy(value) for key, value in to_torch_state_dict(ours).items()}
    # Absent counters of batches become torch's own zeros, which "meta" would leave without a value.
    counters = {
        key: value for key, value in theirs.state_dict().items() if key.endswith("num_batches_tracked")
    }
    copy.load_state_dict(state_dict | counters, strict=True, assign=True)
    images = to_torch(random_images(1, 32, 32, 3))
    with torch.no_grad():
        torch.testing.assert_close(copy.eval()(images), theirs(images), rtol=0, atol=0)


@pytest.mark.parametrize("variant", ["resnet18", "resnext14_32x4d", "resnet50_v2"])
@pytest.mark.parametrize("shape", [(1, 97, 131, 3), (1, 33, 32, 3)])
def test_odd_sizes_and_a_batch_of_one(torchvision, variant, shape):
    theirs = reference(torchvision, variant)
    assert_same_outputs(ported(theirs, variant), theirs, random_images(*shape))


@pytest.mark.parametrize("channels", [1, 4])
def test_other_input_channels(torchvision, channels):
    theirs = reference(torchvision, "resnet18", in_channels=channels)
    ours = ported(theirs, "resnet18", in_channels=channels)
    assert_same_outputs(ours, theirs, random_images(2, 32, 32, channels))


def test_strict_load_without_counters(torchvision):
    """What we export has no num_batches_tracked; torchvision's strict load takes it nevertheless."""
    theirs = reference(torchvision, "resnet18")
    copy = build(torchvision, "resnet18", 10).eval()
    exported = to_torch_state_dict(ported(theirs, "resnet18"))
    copy.load_state_dict({key: torch.from_numpy(value) for key, value in exported.items()}, strict=True)
    images = to_torch(random_images(2, 32, 32, 3))
    with torch.no_grad():
        torch.testing.assert_close(copy(images), theirs(images), rtol=0, atol=0)
