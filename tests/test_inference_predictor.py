"""The predictor of a run: images of every kind are the same images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_models import photos, small_model, small_spec

from resnext_jax import BadInput, load_run, runs
from resnext_jax.data import Preprocessing
from resnext_jax.inference import Predictions, Predictor
from resnext_jax.inference.tta import views
from resnext_jax.models import split_model


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(small_model("cifar"), small_spec("cifar"), {}, 0)


def turned(path, picture: Image.Image) -> None:
    """Save a picture lying on its side, with the note that turns it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)


def test_files_arrays_and_pictures_are_the_same_images(predictor, tmp_path):
    pixels = photos(1, 64)[0][:, :48]
    picture = Image.fromarray(pixels)
    turned(tmp_path / "turned.png", picture)
    (tmp_path / "below" / "deep").mkdir(parents=True)
    picture.save(tmp_path / "below" / "deep" / "plain.png")
    given = [
        str(tmp_path / "turned.png"),
        tmp_path / "below",
        pixels,
        picture,
        Image.open(tmp_path / "turned.png"),
    ]
    found = predictor.predict(given)
    assert len(found.keys) == 5
    assert found.keys[2] == "image 2"
    assert found.keys[4] == str(tmp_path / "turned.png")
    for i in range(5):
        np.testing.assert_array_equal(found.images[i], found.images[0])
        np.testing.assert_allclose(found.probabilities[i], found.probabilities[0], rtol=1e-5)
    np.testing.assert_array_equal(found.images[0], predictor.preprocessing(pixels))


def test_one_image_alone_and_a_batch(predictor):
    pixels = photos(3, 40)
    batch = predictor.predict(pixels)
    assert len(batch.keys) == 3
    alone = predictor.predict(pixels[1])
    np.testing.assert_allclose(alone.probabilities[0], batch.probabilities[1], rtol=1e-5)
    assert predictor.predict(Image.fromarray(pixels[0])).top() == predictor.predict([pixels[0]]).top()


def test_grey_images(predictor):
    grey = photos(1)[0][..., 0]
    found = predictor.predict([grey, grey[..., None], Image.fromarray(grey)])
    assert (found.images == np.broadcast_to(grey[..., None], (3, 32, 32, 3))).all()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), r"image 0: expected a path, .* got float32 \[8, 8, 3\]"),
        (np.zeros((8, 8, 4), np.uint8), r"got uint8 \[8, 8, 4\]"),
        (np.zeros((0, 8, 3), np.uint8), r"got uint8 \[0, 8, 3\]"),
        (17, "got int"),
        (Image.new("F", (8, 8)), "image 0: floating-point values"),
    ],
)
def test_what_is_no_image(predictor, image, message):
    with pytest.raises(BadInput, match=message):
        predictor.predict([image])


def seen(preprocessing: Preprocessing, image: np.ndarray) -> np.ndarray:
    """The ten views of an image."""
    return np.stack([view(image) for view in views(preprocessing)])


@pytest.mark.parametrize("size", [(64, 48), (40, 90)])
def test_views_are_torchvisions_ten_crops(size, torchvision):
    from torchvision.transforms import v2

    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    picture = v2.functional.resize(Image.fromarray(image), 40)
    crops = v2.functional.ten_crop(picture, 32)
    # Theirs: four corners, the centre, and all of them mirrored; ours begin with the centre.
    expected = [np.asarray(crops[i]).astype(int) for i in (4, 0, 1, 2, 3)]
    found = seen(Preprocessing(32, 40), image).astype(int)
    assert found.shape == (10, 32, 32, 3)
    for ours, theirs in zip(found[:5], expected, strict=True):
        assert np.abs(ours - theirs).max() <= 2  # cut and resized in the other order
    np.testing.assert_array_equal(found[5:], found[:5, :, ::-1])


def test_views_of_images_that_are_not_cropped():
    image = photos(1, 64)[0]
    found = seen(Preprocessing(32), image)
    np.testing.assert_array_equal(found[0], Preprocessing(32)(image))
    assert len({view.tobytes() for view in found[:5]}) == 5
    stretched = seen(Preprocessing(32, resize="stretch"), photos(1, 64)[0][:, :20])
    assert stretched.shape == (10, 32, 32, 3)


def test_tta_is_the_mean_over_the_views(predictor):
    images = photos(5, 48)
    found = predictor.predict(images, tta=True, batch_size=2)
    for image, row in zip(images, found.probabilities, strict=True):
        each = predictor.probabilities(seen(predictor.preprocessing, image))
        np.testing.assert_allclose(row, each.mean(0), rtol=1e-5)
    np.testing.assert_array_equal(found.images, predictor.predict(images).images)


def test_below_the_threshold_nothing_is_decided(predictor):
    found = Predictions(
        ["a", "b"], photos(2), np.array([[0.5, 0.3, 0.2], [0.1, 0.9, 0.0]]), predictor.classes
    )
    assert found.decided() == ["ring", "scales"]
    assert found.decided(0.5) == ["ring", "scales"]
    assert found.decided(0.6) == [None, "scales"]
    with pytest.raises(BadInput, match=r"threshold=1\.5"):
        found.decided(1.5)


@pytest.mark.parametrize("tta", [False, True])
def test_unreadable_images_are_left_out_or_named(predictor, tmp_path, caplog, tta):
    Image.fromarray(photos(1)[0]).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(BadInput, match=r"1 of 2 images cannot be read .*bad\.png"):
        predictor.predict(tmp_path, tta=tta)
    for found in (
        predictor.predict(tmp_path, skip_bad_images=True, batch_size=1, tta=tta),
        predictor.features(tmp_path, skip_bad_images=True, batch_size=1),
    ):
        assert [Path(key).name for key in found.keys] == ["good.png"]
        assert len(found.probabilities) == 1
    assert "bad.png" in caplog.text
    with pytest.raises(BadInput, match=r"bad\.png"):
        predictor.features(tmp_path)


@pytest.mark.parametrize("stage", ["pool", "layer1"])
def test_features_are_the_models(predictor, stage, tmp_path):
    images = photos(5)
    found = predictor.features(images, stage=stage, batch_size=2)
    expected = predictor.model.features(predictor.preprocessing.normalize(images))[stage]
    expected = expected if stage == "pool" else np.asarray(expected).mean((1, 2))
    np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.probabilities, predictor.predict(images).probabilities, rtol=1e-4)
    found.save(tmp_path / "new" / "f.npz")
    with np.load(tmp_path / "new" / "f.npz") as saved:
        np.testing.assert_array_equal(saved["features"], found.values)
        assert saved["keys"].tolist() == [f"image {i}" for i in range(5)]
        assert tuple(saved["classes"]) == predictor.classes


def test_features_of_no_stage(predictor):
    with pytest.raises(BadInput, match="stage='fc': expected one of stem, layer1, layer2, pool"):
        predictor.features(photos(1), stage="fc")


def save_run(directory: Path, finite: dict[int, bool]) -> None:
    """A run with these checkpoints; the first is the best."""
    spec = small_spec("cifar")
    _, params, batch_stats = split_model(small_model("cifar"))
    runs.start(directory, spec, {})
    with runs.Checkpoints(directory, write=True) as checkpoints:
        for i, (step, is_finite) in enumerate(finite.items()):
            bias = np.array(params["fc"]["bias"])
            bias[0] = 0 if is_finite else np.nan
            model = {"params": params | {"fc": params["fc"] | {"bias": bias}}, "batch_stats": batch_stats}
            metrics = {"val_top1": 1 - 0.1 * i, "val_loss": 1.0, "step": step}
            checkpoints.save(step, model, {"step": np.int32(step)}, spec.to_dict() | {"config": {}}, metrics)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    save_run(tmp_path / "later", {5: True, 9: False})
    assert load_run(tmp_path / "later").step == 5
    with pytest.raises(BadInput, match=r"of step 9, .* not finite; .* step 5: use checkpoint='best'"):
        load_run(tmp_path / "later", "latest")
    save_run(tmp_path / "all", {5: False})
    with pytest.raises(BadInput, match=r"best checkpoint, of step 5, .* no other one is finite"):
        load_run(tmp_path / "all")
