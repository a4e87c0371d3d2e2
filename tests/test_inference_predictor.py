"""The predictor of a run: images of every kind are the same images."""

import numpy as np
import pytest
from PIL import Image
from small_models import photos, small_model, small_spec

from resnext_jax import BadInput
from resnext_jax.inference import Predictor


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
