"""Heat maps for the page: where in an image the evidence for its most probable classes lies."""

import base64
import io

import numpy as np
from PIL import Image

from resnext_jax.inference import Explanations, Predictor, finest_stage, gradient_maps
from resnext_jax.reports import heatmaps

METHOD = "grad-cam"
SMALLEST, LARGEST = 220, 480  # longer side of a picture, in pixels


class HeatMaps:
    """Draws heat maps with what is compiled ahead.

    Args:
        predictor: the model.
        classes: how many of an image's most probable classes get one.
    """

    def __init__(self, predictor: Predictor, classes: int):
        self._predictor = predictor
        self._count = min(classes, len(predictor.classes))
        # The last stage's map of a small image would have too few places to show anything.
        stage = finest_stage(predictor.model, predictor.preprocessing.image_size)
        self._compute = gradient_maps(predictor.model, predictor.preprocessing, METHOD, stage)

    def warm(self) -> None:
        """Compile; called before the first image comes."""
        side = self._predictor.preprocessing.image_size
        self.compute(np.zeros((side, side, 3), np.uint8), np.zeros(len(self._predictor.classes), np.float32))

    def compute(self, image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """Maps, float32 [k, S, S], of an image, uint8 [S, S, 3], and its probabilities, float32 [K]."""
        targets = self._targets(probabilities)
        return np.asarray(self._compute(image[None], targets[None]))[0]

    def draw(self, original: np.ndarray, probabilities: np.ndarray, maps: np.ndarray) -> list[str]:
        """Pictures of the maps over the image, as `data:` addresses.

        Args:
            original: the whole image in any size, uint8 [h, w, 3].
            probabilities: float32 [K].
            maps: as `compute` has them.
        """
        targets = self._targets(probabilities)
        names, preprocessing = self._predictor.classes, self._predictor.preprocessing
        explained = Explanations(
            ["image"],
            [original],
            probabilities[None],
            names,
            targets[None],
            maps[None],
            METHOD,
            preprocessing,
        )
        return [_address(heatmaps.overlay(explained, 0, place, original)) for place in range(len(targets))]

    def _targets(self, probabilities: np.ndarray) -> np.ndarray:
        return np.argsort(-probabilities, kind="stable")[: self._count]


def shrink(original: np.ndarray) -> np.ndarray:
    """An image in the size in which its heat maps are drawn."""
    return heatmaps.fit(original, SMALLEST, LARGEST)


def _address(picture: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
