"""What augmentation draws: torchvision's distributions, one key an example, contradictions refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from PIL import Image

from resnext_jax import cli
from resnext_jax.data.augment import AugmentConfig, auto, color, erase, make_augment, make_mix, warp

HEIGHT, WIDTH = 60, 90
DRAWS = 3000
KEYS = jax.random.split(jax.random.key(0), DRAWS)

EVERYTHING = AugmentConfig(
    flip=True,
    random_resized_crop=(0.3, 1.0),
    rotate=20,
    shift=0.1,
    shear=10,
    zoom=0.2,
    fill="reflect",
    auto="rand",
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    erase=0.5,
)


def draw(sample):
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(sample))(KEYS))


def assert_same_distribution(ours, theirs):
    assert scipy.stats.ks_2samp(np.asarray(ours, float), np.asarray(theirs, float)).pvalue > 1e-3


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 24, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("area", [(0.08, 1.0), (0.7, 0.9), (0.95, 1.0)])
def test_crops_are_drawn_as_torchvisions(torchvision, area):
    import torch
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    image = torch.zeros(3, HEIGHT, WIDTH)
    theirs = [RandomResizedCrop.get_params(image, list(area), [3 / 4, 4 / 3]) for _ in range(DRAWS)]
    ours = draw(lambda key: warp.sample_crop(key, HEIGHT, WIDTH, area))
    for own, other in zip(ours, zip(*theirs, strict=True), strict=True):
        assert_same_distribution(own, other)
    assert np.min([ours.top, ours.left]) >= 0
    assert np.max(ours.top + ours.height) <= HEIGHT
    assert np.max(ours.left + ours.width) <= WIDTH


def test_erased_rectangles_are_drawn_as_torchvisions(torchvision):
    import torch
    from torchvision.transforms import RandomErasing

    torch.manual_seed(0)
    image = torch.zeros(3, HEIGHT, WIDTH)
    theirs = [RandomErasing.get_params(image, erase.AREA, erase.ASPECT, [0])[:4] for _ in range(DRAWS)]
    ours = draw(lambda key: erase.sample_erase(key, HEIGHT, WIDTH, probability=0.25))
    erased = ours.height > 0
    assert np.mean(erased) == pytest.approx(0.25, abs=0.03)
    for own, other in zip(ours, zip(*theirs, strict=True), strict=True):
        assert_same_distribution(own[erased], other)


def test_affine_transforms_are_uniform_within_their_limits():
    affine = draw(
        lambda key: warp.sample_affine(key, HEIGHT, WIDTH, rotate=20, shift=0.2, shear=10, zoom=0.3)
    )
    limits = [
        (affine.angle, -20, 20),
        (affine.shift[0], -0.2 * WIDTH, 0.2 * WIDTH),
        (affine.shift[1], -0.2 * HEIGHT, 0.2 * HEIGHT),
        (affine.shear, -10, 10),
        (affine.zoom[0], 0.7, 1.3),
        (affine.zoom[1], 0.7, 1.3),
    ]
    for drawn, low, high in limits:
        assert scipy.stats.kstest(drawn, scipy.stats.uniform(low, high - low).cdf).pvalue > 1e-3
    assert np.max(np.abs(np.corrcoef([drawn for drawn, *_ in limits]) - np.eye(6))) < 0.08


def test_jitter_is_uniform_within_its_limits():
    by = draw(lambda key: color.sample_jitter(key, brightness=0.4, contrast=1.5, saturation=0.2, hue=0.1))
    limits = [(0.6, 1.4), (0, 2.5), (0.8, 1.2), (-0.1, 0.1)]
    for drawn, (low, high) in zip(by, limits, strict=True):
        assert scipy.stats.kstest(drawn, scipy.stats.uniform(low, high - low).cdf).pvalue > 1e-3
    only_hue = color.sample_jitter(KEYS[0], brightness=0, contrast=0, saturation=0, hue=0.1)
    assert only_hue[:3] == (None, None, None)


@pytest.mark.parametrize("policy", ["trivial", "rand"])
def test_operations_are_drawn_evenly(policy):
    operations, drawn = draw(lambda key: auto.sample_operation(key, policy, HEIGHT, WIDTH))
    assert scipy.stats.chisquare(np.bincount(operations, minlength=len(auto.OPERATIONS))).pvalue > 1e-3
    table = auto.magnitudes(policy, HEIGHT, WIDTH)
    for operation, row in enumerate(table):
        own = drawn[operations == operation]
        if policy == "rand":
            row = row[[auto.RAND_BIN]]
        assert set(np.abs(own)) == set(row)
        if auto.SIGNED[operation]:
            assert np.mean(own[own != 0] < 0) == pytest.approx(0.5, abs=0.15)
        else:
            assert np.all(own >= 0)


def test_mixup_weights_are_beta():
    images = jnp.asarray([[0], [255]] * 1500, jnp.uint8)[:, None, None]
    targets = jnp.asarray([[1.0, 0], [0, 1]] * 1500)
    for alpha in (0.2, 1.0):
        mixed, soft = jax.jit(make_mix(alpha, 0.0))(KEYS, images, targets)
        own = np.sum(soft * targets, axis=1)
        assert scipy.stats.kstest(own, scipy.stats.beta(alpha, alpha).cdf).pvalue > 1e-3
        np.testing.assert_allclose(np.sum(soft, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(mixed[:, 0, 0, 0], 255 * np.asarray(soft)[:, 1], atol=0.51)


def test_cutmix_pastes_as_much_as_it_says():
    images = np.zeros((DRAWS, 30, 40, 1), np.uint8)
    images[1::2] = 1
    targets = jnp.asarray([[1.0, 0], [0, 1]] * 1500)
    mixed, soft = jax.jit(make_mix(0.0, 1.0))(KEYS, images, targets)
    np.testing.assert_allclose(np.mean(mixed, axis=(1, 2, 3)), soft[:, 1], atol=1e-6)
    # Uniform areas, made smaller where the rectangle reaches beyond the image.
    pasted = 1 - np.sum(soft * targets, axis=1)
    assert 0.2 < np.mean(pasted) < 0.45
    # Together with mixup, half of the images get either.
    images = 200 * images
    both, _ = jax.jit(make_mix(1.0, 1.0))(KEYS, images, targets)
    blended = np.any((np.asarray(both) > 0) & (np.asarray(both) < 200), axis=(1, 2, 3))
    assert np.mean(blended) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("field", ["flip", "erase", "auto", "random_resized_crop", "brightness", "rotate"])
def test_each_field_alone_changes_images(noise, field):
    config = dataclasses.replace(AugmentConfig(), **{field: getattr(EVERYTHING, field)})
    augmented = jax.jit(make_augment(config))(KEYS[:8], noise)
    assert augmented.dtype == np.uint8
    assert augmented.shape == noise.shape
    assert np.any(augmented != noise)


def test_nothing_asked_for_changes_nothing(noise):
    np.testing.assert_array_equal(make_augment(AugmentConfig())(KEYS[:8], noise), noise)
    assert make_mix(0.0, 0.0) is None


def test_layout_over_devices_changes_nothing(noise):
    augment, mix = make_augment(EVERYTHING), make_mix(0.3, 1.0)
    keys, targets = KEYS[:8], jnp.eye(8)

    def step(keys, images, targets):
        return mix(keys, augment(keys, images), targets)

    jitted = jax.jit(step)
    whole = jitted(keys, noise, targets)
    parts = [jitted(keys[i : i + 2], noise[i : i + 2], targets[i : i + 2]) for i in range(0, 8, 2)]
    images, soft = (np.concatenate(part) for part in zip(*parts, strict=True))
    # The contrast's mean may be summed in another order: a rounding may tip.
    assert np.mean(images != whole[0]) < 1e-3
    np.testing.assert_allclose(soft, whole[1], atol=1e-6)
    again = jitted(keys, noise, targets)
    np.testing.assert_array_equal(again[0], whole[0])
    others = jitted(KEYS[8:16], noise, targets)
    assert np.all(np.any(others[0] != whole[0], axis=(1, 2, 3)))


def test_mixing_needs_pairs(noise):
    with pytest.raises(ValueError, match="batch of 3 images on a device"):
        make_mix(0.2, 0.0)(KEYS[:3], noise[:3], jnp.eye(3))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rotate": -5.0}, "rotate=-5.0: expected a number of at least 0 and at most 180"),
        ({"shift": float("nan")}, "shift=nan"),
        ({"hue": 0.6}, "hue=0.6: expected a number of at least 0 and at most 0.5"),
        ({"erase": 1.5}, "erase=1.5"),
        ({"pad_crop": -1}, "pad_crop=-1"),
        ({"fill": "wrap"}, "fill='wrap': expected one of nearest, reflect, constant"),
        ({"fill": "reflect", "flip": True}, "fill='reflect' without rotate"),
        ({"auto": "autoaugment"}, "auto='autoaugment': expected one of none, trivial, rand"),
        (
            {"random_resized_crop": (0.9, 0.1)},
            r"random_resized_crop=\(0.9, 0.1\): expected the smaller share first",
        ),
        ({"random_resized_crop": (0.0, 1.0)}, r"random_resized_crop=\(0.0, 1.0\): expected a number above 0"),
        ({"random_resized_crop": (0.1, 1.0), "pad_crop": 4}, "with pad_crop=4: choose one"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**fields).check()
    EVERYTHING.check()


def test_data_show_draws_before_and_after(image_folder, tmp_path):
    plain, mixed = tmp_path / "plain.png", tmp_path / "mixed.png"
    show = ["data", "show", str(image_folder), "--image-size", "32", "--count", "12", "--augment"]
    cli.main([*show, "--flip", "--rotate", "20", "--fill", "reflect", "--out", str(plain)])
    cli.main([*show, "--random-resized-crop", "0.3", "1", "--mixup", "0.2", "--out", str(mixed)])
    assert Image.open(plain).size[0] > 600
    assert plain.read_bytes() != mixed.read_bytes()


def test_data_show_refuses_what_would_do_nothing(image_folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", "show", str(image_folder), "--rotate", "20", "--out", str(tmp_path / "x.png")])
    assert stop.value.code == 2
    assert "--rotate=20.0: goes with --augment" in capsys.readouterr().err
