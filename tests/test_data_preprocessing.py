"""The geometry is torchvision's on PIL images, to the bit."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resnext_jax.data import IMAGENET_MEAN, Preprocessing, preprocessing


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("resize", ["crop", "stretch"])
def test_torchvision(torchvision, resize, interpolation):
    transforms = torchvision.transforms
    mode = transforms.InterpolationMode(interpolation)

    @given(
        height=st.integers(1, 90),
        width=st.integers(1, 90),
        image_size=st.integers(1, 48),
        margin=st.none() | st.integers(0, 16),
    )
    @settings(max_examples=60, deadline=None)
    def check(height, width, image_size, margin):
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        side = None if margin is None else image_size + margin
        ours = Preprocessing(image_size, side, resize=resize, interpolation=interpolation)(image)
        size = side or image_size
        theirs = transforms.Compose(
            [
                transforms.Resize((size, size) if resize == "stretch" else size, interpolation=mode),
                transforms.CenterCrop(image_size),
            ]
        )(Image.fromarray(image))
        np.testing.assert_array_equal(ours, np.asarray(theirs))
        assert ours.shape == (image_size, image_size, 3)

    check()


def test_json_round_trip():
    made = Preprocessing(96, 128, "stretch", "bicubic", (0.5, 0.5, 0.5), (0.25, 0.5, 1.0))
    stored = json.loads(json.dumps(made.to_dict()))
    assert Preprocessing.from_dict(stored) == made
    assert Preprocessing.from_dict({}) == Preprocessing()
    assert hash(Preprocessing.from_dict(stored)) == hash(made)
    assert Preprocessing().mean == IMAGENET_MEAN


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": 0}, "image_size=0: expected a number of at least 1"),
        (
            {"image_size": 64, "resize_size": 32},
            "resize_size=32: expected a number of at least image_size=64",
        ),
        ({"resize": "pad"}, "expected one of crop, stretch"),
        ({"interpolation": "lanczos"}, "expected one of bilinear, bicubic, nearest"),
        ({"std": [1, 1, 0]}, r"std=\(1, 1, 0\): expected a number above 0"),
        ({"mean": [1, 1]}, "expected 3 finite numbers"),
        ({"mean": [1, 1, float("nan")]}, "expected 3 finite numbers"),
        ({"image_size": 1.5}, "image_size=1.5: expected a whole number"),
        ({"size": 3}, "unknown field size"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing.from_dict(values)


def test_only_huge_frames_are_resized_in_part(monkeypatch):
    """The whole frame beside the part, where both can be done."""
    image = np.random.default_rng(0).integers(0, 256, (900, 3, 3), dtype=np.uint8)
    for shape in (image, image.swapaxes(0, 1)):
        whole = Preprocessing(16, 20)(shape)
        monkeypatch.setattr(preprocessing, "_MOST_PIXELS", 100)
        part = Preprocessing(16, 20)(shape)
        monkeypatch.undo()
        assert part.shape == whole.shape
        assert np.abs(part.astype(int) - whole).max() <= 1


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")
def test_extreme_shapes_take_little_memory():
    code = (
        "import numpy as np, resource, resnext_jax.data as d\n"
        "d.Preprocessing(8)(np.zeros((9, 9, 3), np.uint8))\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)\n"
        "for shape in ((20_000, 1, 3), (1, 20_000, 3), (60_000, 2, 3), (2, 60_000, 3)):\n"
        "    print(d.Preprocessing(224, 256)(np.full(shape, 7, np.uint8)).min())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["7"] * 4, done.stderr
