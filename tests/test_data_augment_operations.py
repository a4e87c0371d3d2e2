"""Each augmentation with given parameters, on real images, against Pillow, scipy and torchvision."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from resnext_jax.data import Preprocessing, load_images, open_dataset
from resnext_jax.data.augment import auto, color, erase, mix, warp
from resnext_jax.data.augment.boxes import Box

HEIGHT, WIDTH = 96, 120  # unequal, so that no axis stands for the other

AFFINES = {
    "turn": warp.Affine(angle=20),
    "shift": warp.Affine(shift=(13.25, -7.5)),
    "shear": warp.Affine(shear=15),
    "zoom in": warp.Affine(zoom=(1.2, 1.4)),
    "zoom out": warp.Affine(zoom=(0.6, 0.8)),
    "all": warp.Affine(angle=-35, shift=(10, 20), shear=-12, zoom=(0.8, 1.1)),
}


@pytest.fixture(scope="module", params=["demo", "monkeypox"])
def images(request: pytest.FixtureRequest) -> np.ndarray:
    """uint8 [2, 96, 120, 3]."""
    data = "demo" if request.param == "demo" else request.getfixturevalue("shared_data") / "monkeypox"
    source = open_dataset(str(data)).split("val")
    loaded = load_images(source, Preprocessing(WIDTH), budget_bytes=0)
    return loaded.gather(np.arange(2) * 7)[:, 12:-12]


@pytest.fixture(scope="module")
def functional(torchvision):
    """torchvision's functions of uint8 [H, W, C] arrays, by way of floats: with bytes they cut decimals off
    at several places; the result is float and in no way rounded."""
    from torchvision.transforms.v2 import functional as F

    def call(name, image, *args, **kwargs):
        if "interpolation" in kwargs:
            kwargs["interpolation"] = torchvision.transforms.InterpolationMode.BILINEAR
        return 255 * to_hwc(getattr(F, name)(to_chw(image.astype(np.float32) / 255), *args, **kwargs))

    return call


def to_chw(image: np.ndarray):
    import torch

    return torch.from_numpy(np.moveaxis(image, -1, -3).copy())


def to_hwc(image) -> np.ndarray:
    return np.moveaxis(image.numpy(), -3, -1)


def to_pixels(affine: warp.Affine) -> np.ndarray:
    """From output to input in pixels from the upper left corner, [3, 3]: what `affine_matrix` should mean,
    from its words."""
    angle, shear = np.deg2rad(affine.angle), np.deg2rad(affine.shear)
    shear_first = np.array([[1, -np.tan(shear), 0], [0, 1, 0], [0, 0, 1]])
    then_scale = np.diag([*affine.zoom, 1])
    then_turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    then_shift = np.array([[1, 0, affine.shift[0]], [0, 1, affine.shift[1]], [0, 0, 1]])
    from_centre = np.array([[1, 0, WIDTH / 2], [0, 1, HEIGHT / 2], [0, 0, 1]])
    forward = from_centre @ then_shift @ then_turn @ then_scale @ shear_first @ np.linalg.inv(from_centre)
    return np.linalg.inv(forward)


def assert_close(ours, theirs, most=0.51):
    """Equal but for rounding to bytes, where `most` says nothing else."""
    assert np.max(np.abs(np.asarray(ours, float) - np.asarray(theirs, float))) <= most


warped = jax.jit(warp.warp, static_argnames="fill")
operated = jax.jit(auto.apply_operation, static_argnames="fill")
jittered = jax.jit(lambda image, by: color.round_to_bytes(color.jitter(image.astype(jnp.float32), by)))


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_constant_fill_is_pillows(images, affine):
    matrix = to_pixels(affine)
    for image in images:
        theirs = Image.fromarray(image).transform(
            (WIDTH, HEIGHT), Image.Transform.AFFINE, matrix[:2].ravel(), Image.Resampling.BILINEAR
        )
        ours = warped(image, warp.affine_matrix(affine), "constant")
        # A point that lies on the border to a rounding error may be in for one and out for the other.
        difference = np.abs(np.asarray(ours, int) - np.asarray(theirs)).max(-1)
        assert np.mean(difference > 1) < 1e-3


@pytest.mark.parametrize("fill", ["nearest", "reflect"])
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_other_fills_are_scipys(images, affine, fill):
    # scipy counts rows first, and pixels from the centre of the first.
    matrix = to_pixels(affine)[[1, 0, 2]][:, [1, 0, 2]]
    offset = matrix[:2, :2] @ [0.5, 0.5] + matrix[:2, 2] - 0.5
    for image in images:
        theirs = [
            scipy.ndimage.affine_transform(channel, matrix[:2, :2], offset, order=1, mode=fill)
            for channel in np.moveaxis(image.astype(float), -1, 0)
        ]
        ours = warped(image, warp.affine_matrix(affine), fill)
        assert_close(ours, np.stack(theirs, -1))


@pytest.mark.parametrize("angle", [0, 25, -140])
def test_affine_is_torchvisions(images, functional, angle):
    affine = warp.Affine(angle=angle, shift=(9, -4), shear=18, zoom=(0.9, 0.9))
    arguments = {"angle": angle, "translate": [9, -4], "scale": 0.9, "shear": [18, 0], "interpolation": None}
    inside = functional("affine", np.full((HEIGHT, WIDTH, 3), 255), **arguments) > 254.99
    assert inside.mean() > 0.5
    for image in images:
        ours = np.asarray(warped(image, warp.affine_matrix(affine), "nearest"))
        assert_close(ours[inside], functional("affine", image, **arguments)[inside])


@pytest.mark.parametrize("box", [Box(10, 20, 60, 45), Box(0, 0, HEIGHT, WIDTH), Box(40, 5, 9, 100)])
def test_crop_is_pillows_and_torchvisions(images, functional, box):
    matrix = warp.crop_matrix(box, HEIGHT, WIDTH)
    corners = box.left, box.top, box.left + box.width, box.top + box.height
    for image in images:
        ours = np.asarray(warped(image, matrix, "constant"))
        theirs = Image.fromarray(image).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, corners)
        assert_close(ours, theirs, most=1)  # Pillow rounds twice
        theirs = functional("resized_crop", image, *box, (HEIGHT, WIDTH), interpolation=None)
        # Half a pixel of the part along its border: there torchvision looks no further than the part.
        y, x = int(np.ceil(HEIGHT / box.height / 2)), int(np.ceil(WIDTH / box.width / 2))
        assert_close(ours[y:-y, x:-x], theirs[y:-y, x:-x])


def test_no_warp_changes_nothing_and_warps_compose(images):
    for fill in ("nearest", "reflect", "constant"):
        same = warped(images[0], warp.affine_matrix(warp.Affine()), fill)
        np.testing.assert_array_equal(same, images[0])
    first, then = warp.affine_matrix(AFFINES["all"]), warp.crop_matrix(Box(10, 20, 30, 40), HEIGHT, WIDTH)
    points = np.random.default_rng(0).uniform(-50, 50, (3, 20))
    points[2] = 1
    # The content is transformed first, then cropped: a point of the output looks through the crop first.
    expected = np.asarray(first) @ (np.asarray(then) @ points)
    np.testing.assert_allclose(warp.compose(first, then) @ points, expected, rtol=1e-4, atol=1e-3)


def test_flip_and_pad_crop_against_numpy(images):
    padded = np.pad(images[0], ((2, 2), (2, 2), (0, 0)))
    crops = [padded[y : y + HEIGHT, x : x + WIDTH] for y in range(5) for x in range(5)]
    flips, places = [], []
    for key in jax.random.split(jax.random.key(0), 60):
        flipped = np.asarray(warp.flip(key, images[0]))
        flips.append(np.array_equal(flipped, images[0][:, ::-1]))
        assert flips[-1] != np.array_equal(flipped, images[0])
        cropped = warp.pad_crop(key, jnp.asarray(images[0]), padding=2)
        places.append([np.array_equal(cropped, crop) for crop in crops].index(True))
    assert 15 < sum(flips) < 45
    assert len(set(places)) > 15


@pytest.mark.parametrize("amount", [0.0, 0.4, 1.0, 1.7])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_color_is_torchvisions(images, functional, name, amount):
    for image in images:
        ours = jittered(image, color.Jitter(**{name: amount}))
        assert_close(ours, functional(f"adjust_{name}", image, amount))


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.05, 0.3, 0.5])
def test_hue_is_torchvisions(images, functional, turn):
    for image in images:
        ours = jittered(image, color.Jitter(hue=turn))
        assert_close(ours, functional("adjust_hue", image, turn))
        if turn == 0:
            np.testing.assert_array_equal(ours, image)


def test_jitter_is_torchvisions_in_this_order(images, functional):
    by = color.Jitter(1.2, 0.7, 1.4, 0.1)
    for image in images:
        theirs = image
        for name, amount in by._asdict().items():
            theirs = functional(f"adjust_{name}", theirs, amount)
        assert_close(jittered(image, by), theirs)


def test_erase_is_torchvisions(images, functional):
    value = to_chw(erase.COLOR[None, None].astype(np.float32) / 255)
    for image in images:
        theirs = np.rint(functional("erase", image, 10, 30, 40, 25, value))
        np.testing.assert_array_equal(erase.erase(image, Box(10, 30, 40, 25)), theirs)
        np.testing.assert_array_equal(erase.erase(image, Box(10, 30, 0, 25)), image)


TORCHVISION_NAMES = {
    "saturation": "Color",
    "autocontrast": "AutoContrast",
    **{f"{kind}_{axis}": f"{kind.title()}{axis.upper()}" for kind in ("shear", "translate") for axis in "xy"},
}


def torchvision_name(operation: str) -> str:
    return TORCHVISION_NAMES.get(operation, operation.title())


@pytest.mark.parametrize("operation", range(len(auto.OPERATIONS)), ids=auto.OPERATIONS)
def test_operations_are_torchvisions(images, torchvision, operation):
    import torch
    from torchvision.transforms import v2

    policy, name = v2.TrivialAugmentWide(), auto.OPERATIONS[operation]
    discrete = name in ("posterize", "solarize", "equalize")
    scale = 1 if discrete else 255

    def theirs(image, magnitude):
        transformed = policy._apply_image_or_video_transform(
            to_chw(image if discrete else image.astype(np.float32) / 255),
            torchvision_name(name),
            magnitude / 255 if name == "solarize" else magnitude,
            interpolation=v2.InterpolationMode.BILINEAR,
            fill={torch.Tensor: 0},
        )
        return scale * to_hwc(transformed)

    for column in (0, 4, 17, 30):
        for sign in (1, -1) if auto.SIGNED[operation] else (1,):
            magnitude = sign * float(auto.magnitudes("trivial", HEIGHT, WIDTH)[operation, column])
            inside = np.full(images[0].shape, True)
            if name in auto.GEOMETRIC:
                inside = theirs(np.full_like(images[0], 255), magnitude) > 254.99
                assert inside.mean() > 0.2
            for image in images:
                ours = np.asarray(operated(image, operation, magnitude, fill="nearest"))
                assert_close(ours[inside], theirs(image, magnitude)[inside])


@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_operations_on_images_of_few_values(torchvision, name):
    from torchvision.transforms.v2 import functional as F

    rng = np.random.default_rng(0)
    two = np.where(rng.random((HEIGHT, WIDTH, 1)) < 0.3, 40, 200).astype(np.uint8) * np.ones(3, np.uint8)
    one = np.full((HEIGHT, WIDTH, 3), 77, np.uint8)
    few = rng.integers(100, 104, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for image in (one, two, few, rng.integers(0, 2, (5, 5, 3), dtype=np.uint8)):
        ours = operated(image, auto.OPERATIONS.index(name), 0.0, fill="nearest")
        assert_close(ours, to_hwc(getattr(F, name)(to_chw(image))), most=1)  # theirs cut decimals off


@pytest.mark.parametrize("policy", ["trivial", "rand"])
def test_magnitudes_are_torchvisions(torchvision, policy):
    from torchvision.transforms import v2

    transform = {"trivial": v2.TrivialAugmentWide, "rand": v2.RandAugment}[policy]()
    space = transform._AUGMENTATION_SPACE
    assert {torchvision_name(name) for name in auto.OPERATIONS} == set(space)
    ours = auto.magnitudes(policy, HEIGHT, WIDTH)
    for name, row, signed in zip(auto.OPERATIONS, ours, auto.SIGNED, strict=True):
        magnitudes, theirs_signed = space[torchvision_name(name)]
        theirs = magnitudes(auto.BINS, HEIGHT, WIDTH)
        theirs = np.zeros(auto.BINS) if theirs is None else theirs.numpy()
        theirs = np.trunc(theirs + 1e-4) if name.startswith("translate") else theirs  # in whole pixels
        np.testing.assert_allclose(row, theirs * (255 if name == "solarize" else 1), atol=1e-4)
        assert signed == theirs_signed
    if policy == "rand":
        assert (transform.num_ops, transform.magnitude) == (auto.COUNTS["rand"], auto.RAND_BIN)


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.8, 1.0])
def test_mixup_is_torchvisions(images, torchvision, weight):
    import torch
    from torchvision.transforms import v2

    # Of two images, the one before in the batch is the other one.
    theirs = v2.MixUp(num_classes=2)
    theirs._dist = SimpleNamespace(sample=lambda _: torch.tensor(weight))
    pixels, shares = theirs(to_chw(images.astype(np.float32)), torch.tensor([0, 1]))
    mixed, targets = mix.mix_pairs(images, jnp.eye(2), jnp.full((2, HEIGHT, WIDTH), weight))
    assert_close(mixed, to_hwc(pixels))
    np.testing.assert_allclose(targets, shares, atol=1e-6)


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("centre", [(50, 60), (3, 110), (95, 0)])
def test_cutmix_is_torchvisions(images, torchvision, monkeypatch, weight, centre):
    import torch
    from torchvision.transforms import v2

    from resnext_jax.data.augment.boxes import inside

    theirs = v2.CutMix(num_classes=2)
    theirs._dist = SimpleNamespace(sample=lambda _: torch.tensor(weight))
    drawn = iter([centre[1], centre[0]])
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.tensor(next(drawn)))
    pixels, shares = theirs(to_chw(images), torch.tensor([0, 1]))

    place = jnp.asarray([(centre[0] + 0.5) / HEIGHT, (centre[1] + 0.5) / WIDTH])
    box = mix.cutmix_box(jnp.float32(weight), place, HEIGHT, WIDTH)
    weights = jnp.broadcast_to(~inside(box, HEIGHT, WIDTH), (2, HEIGHT, WIDTH))
    mixed, targets = mix.mix_pairs(images, jnp.eye(2), weights)
    np.testing.assert_array_equal(mixed, to_hwc(pixels))
    np.testing.assert_allclose(targets, shares, atol=1e-6)
