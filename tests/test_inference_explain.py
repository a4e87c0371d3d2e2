"""Heat maps against torch on the same weights, with autograd and loops of its own."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from resnext_jax import BadInput
from resnext_jax.data import Preprocessing
from resnext_jax.inference.explain import evidence
from resnext_jax.models import ResNet, ResNetConfig, build_model
from resnext_jax.weights import load_torch_state_dict

torch = pytest.importorskip("torch")
from port_torchvision import randomise_norms  # noqa: E402
from torch_reference import PreactivationResNet, to_torch  # noqa: E402

SIDE, CLASSES = 32, 5
PREPARE = Preprocessing(SIDE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
IMAGES = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
TARGETS = np.array([[3, 1], [0, 4], [2, 2]])

Pair = tuple[torch.nn.Module, ResNet]


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compute in float64: a unit near zero, on here and off there, changes a gradient by percents."""
    with jax.enable_x64(True):
        monkeypatch.setattr(jnp, "float32", jnp.float64)
        yield


@pytest.fixture(params=["basic", "bottleneck", "preactivation"])
def pair(request, torchvision, double) -> Pair:
    """A model of torch's and ours with its weights."""
    torch.manual_seed(0)
    resnet = torchvision.models.resnet
    theirs, config = {
        "basic": lambda: (
            resnet.ResNet(resnet.BasicBlock, [1] * 4, num_classes=CLASSES),
            ResNetConfig("basic", (1,) * 4),
        ),
        "bottleneck": lambda: (
            resnet.ResNet(resnet.Bottleneck, [1] * 4, CLASSES, groups=8, width_per_group=4),
            ResNetConfig("bottleneck", (1,) * 4, 8, 4),
        ),
        "preactivation": lambda: (
            PreactivationResNet([2, 1], CLASSES),
            ResNetConfig("preactivation", (2, 1), epsilon=1.001e-5),
        ),
    }[request.param]()
    if request.param == "preactivation":
        theirs.layer3 = theirs.layer4 = torch.nn.Identity()
    randomise_norms(theirs, 3)
    ours = build_model(config, num_classes=CLASSES, dtype=np.float64)
    load_torch_state_dict(ours, theirs.state_dict())
    ours.eval()
    nnx.update(ours, jax.tree.map(lambda x: x.astype(np.float64), nnx.state(ours)))
    return theirs.double().eval(), ours


def normalised(images: np.ndarray) -> torch.Tensor:
    return to_torch(PREPARE.normalize(images)).double()


def torch_cam(theirs: torch.nn.Module, stage: str, method: str) -> np.ndarray:
    """One image and class after the other, with the gradients that autograd leaves at a stage's output."""
    module = getattr(theirs, stage)
    maps = np.zeros((*TARGETS.shape, SIDE, SIDE))
    for i, image in enumerate(normalised(IMAGES)):
        for j, target in enumerate(TARGETS[i]):
            kept = []
            hook = module.register_forward_hook(lambda _, __, output, kept=kept: kept.append(output))
            logits = theirs(image[None])
            hook.remove()
            [output] = kept
            [gradient] = torch.autograd.grad(logits[0, target], output)
            output, gradient = output[0].detach(), gradient[0]
            if method == "grad-cam":
                weights = gradient.mean((1, 2))
            else:
                # alpha = g^2 / (2 g^2 + sum(A) g^3), of each channel and pixel.
                divisor = 2 * gradient**2 + output.sum((1, 2), keepdim=True) * gradient**3
                alpha = torch.nan_to_num(gradient**2 / divisor, nan=0)
                weights = (alpha * gradient.clamp(min=0)).sum((1, 2))
            cam = torch.einsum("c,chw->hw", weights, output).clamp(min=0)
            large = torch.nn.functional.interpolate(cam[None, None], (SIDE, SIDE), mode="bilinear")
            maps[i, j] = large[0, 0]
    return maps


@pytest.mark.parametrize(("method", "stage"), [("grad-cam", -2), ("grad-cam++", -1)])
def test_grad_cam_is_torchs(pair, method, stage):
    theirs, ours = pair
    name = ours.stages[stage]
    asked = None if stage == -1 else name  # the last is the default
    found = evidence(ours, PREPARE, IMAGES, TARGETS, method=method, stage=asked, batch_size=2)
    expected = torch_cam(theirs, name, method)
    assert found.shape == (3, 2, SIDE, SIDE)
    assert expected.max() > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * expected.max())


@pytest.mark.parametrize("patch", [12, 32])
def test_occlusion_by_covering_in_torch(pair, patch):
    theirs, ours = pair
    found = evidence(ours, PREPARE, IMAGES, TARGETS, method="occlusion", patch=patch, batch_size=5)
    starts = [s for s in range(0, SIDE, patch // 2) if s + patch < SIDE] + [SIDE - patch]
    for i, pixels in enumerate(normalised(IMAGES)):
        total, seen = np.zeros((2, SIDE, SIDE)), np.zeros((SIDE, SIDE))
        with torch.no_grad():
            whole = theirs(pixels[None]).softmax(1)[0, TARGETS[i]]
            for top in starts:
                for left in starts:
                    covered = pixels.clone()
                    # The mean colour, which is a whole number here as in a picture.
                    mean = np.round(np.array(PREPARE.mean) * 255) / 255
                    fill = (mean - np.array(PREPARE.mean)) / np.array(PREPARE.std)
                    square = np.s_[..., top : top + patch, left : left + patch]
                    covered[square] = torch.tensor(fill, dtype=torch.float64)[:, None, None]
                    fall = whole - theirs(covered[None]).softmax(1)[0, TARGETS[i]]
                    total[square] += fall.numpy()[:, None, None]
                    seen[square[1:]] += 1
        np.testing.assert_allclose(found[i], total / seen, rtol=0, atol=2e-5)


def test_occlusion_finds_what_the_class_hangs_on():
    """A network that looks at the red of one corner only."""
    model = build_model(ResNetConfig("basic", (1,), stem="cifar"), num_classes=2)
    model.eval()
    model.stem = lambda x: x
    model.stage = lambda name, x, keys=None: x
    model.pool = lambda x: x[:, 8:16, :8, 0].mean((1, 2))[:, None]
    model.head = lambda pooled: jnp.concatenate([pooled, -pooled], 1)
    image = np.full((1, 32, 32, 3), 255, np.uint8)
    [[found]] = evidence(model, Preprocessing(32), image, np.array([[0]]), method="occlusion", patch=8)
    inside = np.zeros((32, 32), bool)
    inside[8:16, :8] = True
    assert found[inside].min() > 2 * found[~inside].max()
    assert found[24:, 16:].max() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "lime"}, "method='lime': expected one of grad-cam, grad-cam"),
        ({"stage": "layer9"}, "stage='layer9': expected one of stem, layer1, layer2"),
        ({"method": "occlusion", "patch": 0}, "patch=0: expected 1 to 32"),
        ({"method": "occlusion", "patch": 33}, "patch=33: expected 1 to 32"),
        ({"method": "occlusion", "stage": "layer1"}, "stage='layer1': occlusion looks at the whole"),
        ({"patch": 8}, "patch=8: goes with"),
    ],
)
def test_bad_requests(options, message):
    model = build_model(ResNetConfig("basic", (1, 1)), num_classes=CLASSES)
    with pytest.raises(BadInput, match=message):
        evidence(model, PREPARE, IMAGES, TARGETS, **options)
