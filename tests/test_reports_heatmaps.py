"""Heat maps over whole images of any shape, and the picture that is drawn of them."""

import numpy as np
import pytest
from PIL import Image
from small_models import CLASSES, photos, small_model, small_spec

from resnext_jax import BadInput
from resnext_jax.data import Preprocessing
from resnext_jax.inference import Explanations, Predictor
from resnext_jax.reports.heatmaps import check_count, draw_explanations, overlay


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(small_model("cifar"), small_spec("cifar"), {}, 0)


def explanations(original: np.ndarray, preprocessing: Preprocessing, **changes) -> Explanations:
    """A map that is 1 in the lower right quarter of what the network saw, and 0 elsewhere."""
    side = preprocessing.image_size
    values = np.zeros((1, 1, side, side), np.float32)
    values[..., side // 2 :, side // 2 :] = 1
    fields = {
        "keys": ["photo.jpg"],
        "originals": [original],
        "probabilities": np.array([[0.7, 0.2, 0.1]]),
        "classes": CLASSES,
        "targets": np.array([[0]]),
        "maps": values,
        "method": "grad-cam",
        "preprocessing": preprocessing,
    }
    return Explanations(**fields | changes)


def test_a_map_lies_where_the_network_saw_the_image():
    # Of 50 x 100 after resizing the middle 40 x 40 are seen: rows 10 to 90, columns 60 to 140.
    found = explanations(np.zeros((100, 200, 3), np.uint8), Preprocessing(40, 50)).over(0, 0)
    expected = np.full((100, 200), np.nan)
    expected[10:90, 60:140] = 0
    expected[50:90, 100:140] = 1
    inner = np.ones_like(expected, bool)  # all but the map's own edge, which is smooth
    inner[48:52], inner[:, 98:102] = False, False
    assert found.shape == (100, 200)
    np.testing.assert_array_equal(found[inner], expected[inner])


def test_a_map_lies_where_the_preprocessing_takes_its_pixels_from():
    """Against the geometry itself: coordinates are resized and cropped like any image."""
    height, width = 90, 61
    prepare = Preprocessing(48, 56, interpolation="bilinear")
    rows, columns = np.mgrid[:height, :width]
    coordinates = np.stack([rows, columns, columns], -1).astype(np.uint8)
    seen = prepare(coordinates).astype(float)
    left, top, right, bottom = prepare.visible(height, width)
    places = (np.arange(48) + 0.5) / 48
    np.testing.assert_allclose(seen[:, 20, 0], top + places * (bottom - top) - 0.5, atol=1)
    np.testing.assert_allclose(seen[20, :, 1], left + places * (right - left) - 0.5, atol=1)


def test_stretched_images_are_seen_whole():
    found = explanations(np.zeros((30, 77, 3), np.uint8), Preprocessing(16, resize="stretch")).over(0, 0)
    assert np.isfinite(found).all()
    assert found[:13].max() == 0
    assert found[18:, 45:].min() == 1


def test_a_map_in_another_size():
    given = explanations(np.zeros((100, 200, 3), np.uint8), Preprocessing(40, 50))
    half = given.over(0, 0, (50, 100))
    np.testing.assert_array_equal(np.isnan(half), np.isnan(given.over(0, 0))[::2, ::2])


def test_colours_tell_evidence_from_its_opposite_and_from_what_was_not_seen():
    original = np.full((100, 200, 3), 200, np.uint8)
    given = explanations(original, Preprocessing(40, 50))
    picture = overlay(given, 0, 0, original).astype(int)
    hot, cold, unseen = picture[80, 130], picture[30, 80], picture[5, 5]
    assert hot[0] > hot[2] + 50
    assert np.ptp(cold) < 10
    assert abs(cold.mean() - 200) < 15
    assert unseen.max() < 80
    against = explanations(original, Preprocessing(40, 50), maps=-given.maps, method="occlusion")
    opposite = overlay(against, 0, 0, original).astype(int)[80, 130]
    assert opposite[2] > opposite[0] + 50


def test_every_image_and_class_is_drawn(predictor, tmp_path):
    images = [photos(1, 64)[0], photos(1, 40, seed=1)[0][:, :24], photos(1, 320, seed=2)[0][:80]]
    found = predictor.explain(images, top_k=2)
    assert found.maps.shape == (3, 2, 32, 32)
    np.testing.assert_array_equal(found.targets, np.argsort(-found.probabilities, 1)[:, :2])
    draw_explanations(found, tmp_path / "deep" / "map.png")
    picture = Image.open(tmp_path / "deep" / "map.png")
    assert picture.size[0] > 3 * 320
    assert len(picture.convert("RGB").getcolors(1 << 24)) > 1000
    named = predictor.explain(images[:2], classes=["猴痘"], method="occlusion", patch=16)
    np.testing.assert_array_equal(named.targets, [[2], [2]])
    draw_explanations(named, tmp_path / "named.png")


def test_a_coarse_map_is_told(caplog):
    caplog.set_level("INFO", "resnext_jax")
    predictor = Predictor(small_model("basic"), small_spec("basic"), {}, 0)
    predictor.explain(photos(1))
    assert not caplog.messages
    small = Predictor(small_model("basic"), small_spec("basic"), {}, 0)
    object.__setattr__(small.spec, "preprocessing", Preprocessing(16))
    small.explain(photos(1))
    assert caplog.messages == ["the map of layer2 has 2 x 2 places only; stage='layer1' has 4 x 4"]


def test_what_cannot_be_explained(predictor):
    with pytest.raises(BadInput, match="class 'rings': none of the model's 3 classes; did you mean 'ring'"):
        predictor.explain(photos(1), classes=["rings"])
    with pytest.raises(BadInput, match=r"class 'x': .* expected one of ring, scales, 猴痘"):
        predictor.explain(photos(1), classes=["x"])
    with pytest.raises(BadInput, match="top_k=0"):
        predictor.explain(photos(1), top_k=0)
    with pytest.raises(BadInput, match="65 images: at most 64"):
        check_count(65)
