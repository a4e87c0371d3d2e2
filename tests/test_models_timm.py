"""Parity with timm's `models/resnet.py`: every name, and a small network of each kind."""

from types import ModuleType

import pytest

torch = pytest.importorskip("torch")

from torch_reference import (  # noqa: E402
    KINDS,
    assert_same_outputs,
    build,
    import_timm,
    ported,
    random_images,
    reference,
    to_torch,
    weaken_branches,
)

from resnext_jax.errors import BadInput  # noqa: E402
from resnext_jax.models import VARIANTS, abstract_model, count_parameters  # noqa: E402
from resnext_jax.weights import to_torch_state_dict  # noqa: E402
from resnext_jax.weights.state_dict import torch_shapes  # noqa: E402

# Names of the table that timm's models/resnet.py has too; a test below holds this to be all of timm's.
OURS_ALONE = {"resnext14_32x4d", "resnext101_32x48d", "resnext50_32x4d_stride1x1_bias", "resnext38_32x4d"}
OURS_ALONE |= {"resnet50_v2", "resnext29_8x16d", "resnext29_8x64d", "resnext29_16x64d"}
NAMES = [name for name in VARIANTS if name not in OURS_ALONE]


@pytest.fixture(scope="module")
def timm(torchvision) -> ModuleType:
    return import_timm()


def side(name: str) -> tuple[int, int]:
    """An odd size; a mean of 2x2 pixels, which anti-aliases some, needs even feature maps behind the stem."""
    return (97, 65) if VARIANTS[name].anti_alias == "avg_pool" else (75, 53)


def test_every_name_of_timm_is_here(timm):
    assert {*timm.list_models(module="resnet")} == {*NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_parameter_count(timm, name):
    with torch.device("meta"):
        theirs = timm.create_model(name)
    assert count_parameters(name) == sum(parameter.numel() for parameter in theirs.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_small_network(timm, torchvision, kind):
    """Every stage and the logits at an odd size, and a strict load of what we export into timm's network."""
    theirs = reference(torchvision, KINDS[kind])
    ours = ported(theirs, KINDS[kind])
    sizes = (97, 65) if KINDS[kind].anti_alias == "avg_pool" else (75, 53)
    assert_same_outputs(ours, theirs, random_images(2, *sizes, 3))
    copy = build(torchvision, KINDS[kind], 10).eval()
    exported = to_torch_state_dict(ours)
    copy.load_state_dict({key: torch.from_numpy(value) for key, value in exported.items()}, strict=True)
    images = to_torch(random_images(1, 64, 64, 3))
    with torch.no_grad():
        torch.testing.assert_close(copy(images), theirs(images), rtol=0, atol=0)


def test_anti_aliasing_by_means_refuses_odd_maps_as_timm_does(timm, torchvision):
    config = KINDS["conv_pool-avg_pool"]
    theirs = reference(torchvision, config)
    images = random_images(1, 72, 64, 3)
    with pytest.raises(BadInput, match=r"4 x 4 pixels and its shortcut 5 x 4.* multiples of 32"):
        ported(theirs, config)(images)
    with torch.no_grad(), pytest.raises(RuntimeError, match="must match the size"):
        theirs(to_torch(images))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes(timm, name):
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=10).state_dict()
    expected = {
        key: tuple(value.shape) for key, value in theirs.items() if not key.endswith("num_batches_tracked")
    }
    assert torch_shapes(abstract_model(name, num_classes=10)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_stages_and_logits(timm, torchvision, name):
    """At full depth and width; branches as random norms make them would magnify roundings of the deepest."""
    theirs = weaken_branches(reference(torchvision, name))
    assert_same_outputs(ported(theirs, name), theirs, random_images(2, *side(name), 3), tolerance=1e-5)
