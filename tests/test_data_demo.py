"""The demo set: the same everywhere, balanced, and not to be told apart by colour."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from resnext_jax.data import open_dataset
from resnext_jax.data.demo import IMAGE_SIZE, DemoSource, draw


@pytest.fixture(scope="module")
def demo():
    dataset = open_dataset("demo")
    return dataset, np.stack([dataset.train[i]["image"] for i in range(len(dataset.train))])


def test_splits_are_balanced_and_apart(demo):
    dataset, _ = demo
    for source, size in ((dataset.train, 600), (dataset.val, 150), (dataset.test, 150)):
        assert len(source) == size
        assert np.bincount(source.labels).tolist() == [size // 3] * 3
        assert source[4]["label"] == source.labels[4]
        assert source[4]["key"] == source.keys[4]
    assert len(set(dataset.split("all").keys)) == 900
    first = [source[0]["image"] for source in (dataset.train, dataset.val, dataset.test)]
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[1], first[2])


def test_mean_colour_says_nothing(demo):
    """Least squares on mean and spread of colour, trained on half, is near chance on the other half."""
    dataset, images = demo
    pixels = images.reshape(len(images), -1, 3) / 255
    features = np.concatenate([pixels.mean(1), pixels.mean(1) ** 2, np.ones((len(images), 1))], axis=1)
    labels = dataset.train.labels
    weights, *_ = np.linalg.lstsq(features[:300], np.eye(3)[labels[:300]], rcond=None)
    accuracy = (np.argmax(features[300:] @ weights, axis=1) == labels[300:]).mean()
    assert accuracy < 0.42


def test_the_same_on_every_machine():
    digest = hashlib.sha256(b"".join(draw(label, seed=7).tobytes() for label in range(3))).hexdigest()
    assert digest == "8238b192aef5dc04943bd6bfa160f83b609ef0298d418fed00c3b010ddcbedcb"


def test_the_same_in_another_process():
    code = (
        "import hashlib; from resnext_jax.data.demo import DemoSource; "
        "print(hashlib.sha256(DemoSource('val', 600, 150)[3]['image'].tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    image = DemoSource("val", 600, 150)[3]["image"]
    assert image.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    assert hashlib.sha256(image.tobytes()).hexdigest() == other.stdout.strip()


def test_group_by_is_refused():
    with pytest.raises(ValueError, match="demo is already divided"):
        open_dataset("demo", group_by="(.)").split("train")
