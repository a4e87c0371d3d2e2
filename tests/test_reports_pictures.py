"""Pictures of the last validation: of the run's own images, mistakes first, and nothing a run stops for."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import resnext_jax as rj
from resnext_jax import runs
from resnext_jax.reports import pictures


def read(directory: Path) -> dict:
    return json.loads((directory / runs.PICTURES).read_text(encoding="utf-8"))


def test_every_epoch_leaves_pictures_of_its_validation(small_run, image_folder):
    (image_folder / "left" / "bad.jpg").write_bytes(b"no image")
    seen = []

    def remember(progress):
        seen.append((read(progress.directory), progress))

    config = replace(small_run, epochs=2, skip_bad_images=True, cache_gib=0, val_fraction=0.5)
    result = rj.fit(config, writers=[remember], quiet=True)
    assert [shown["epoch"] for shown, _ in seen] == [1, 2]
    assert read(result.directory) == seen[1][0]
    for shown, progress in seen:
        assert len(shown["images"]) == min(pictures.MOST, len(progress.labels))
        names = [image["name"] for image in shown["images"]]
        assert len(set(names)) == len(names)
        wrong = [image for image in shown["images"] if image["true"] != image["predicted"]]
        mistakes = int((progress.log_probabilities.argmax(axis=1) != progress.labels).sum())
        assert len(wrong) >= min(mistakes, pictures.MOST_WRONG)
        assert wrong[: pictures.MOST_WRONG] == shown["images"][: min(len(wrong), pictures.MOST_WRONG)]
        for image in shown["images"]:
            i = progress.images.keys.index(image["name"])
            assert image["true"] == progress.spec.classes[progress.labels[i]] in image["name"]
            row = progress.log_probabilities[i]
            assert image["predicted"] == progress.spec.classes[row.argmax()]
            assert np.isclose(image["probability"], np.exp(row.max()))
            kind, _, content = image["picture"].partition(",")
            assert kind == "data:image/jpeg;base64"
            picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))), int)
            original = progress.images.gather([i])[0].astype(int)
            assert abs(picture.mean((0, 1)) - original.mean((0, 1))).max() < 6  # as far as JPEG changes it


def test_a_run_goes_on_if_they_cannot_be_written(small_run, caplog):
    def block(progress):
        if len(progress.history) == 1:
            (progress.directory / runs.PICTURES).unlink()
            (progress.directory / runs.PICTURES).mkdir()

    result = rj.fit(replace(small_run, epochs=2), writers=[block], quiet=True)
    assert len(result.history) == 2
    assert "the pictures of the validation are not written" in caplog.text
