"""Pictures of the last validation, for who watches a run: some images as the network sees them, and what it
takes them for."""

import base64
import io
import logging
from typing import Any

import numpy as np
from PIL import Image

from resnext_jax import runs
from resnext_jax.inference import LabelledPredictions, turns
from resnext_jax.training import Progress

MOST = 12  # images
MOST_WRONG = 6  # of them, at most, named wrong and chosen for that; the others are the same ones each time
SIDE = 160  # pixels at most
QUALITY = 82  # of JPEG

logger = logging.getLogger(__name__)


def write_pictures(progress: Progress) -> None:
    """Write `validation.json` in the run directory; a writer for `fit`.

    It holds `epoch` and `images`, each with `name`, `true`, `predicted`, `probability` (of the predicted
    class) and `picture` (a data URI): first the mistakes of which the model is surest, then of every class in
    turn images that stay the same from epoch to epoch.
    """
    classes = progress.spec.classes
    predictions = LabelledPredictions(progress.images, progress.log_probabilities, classes)
    chosen = _choose(predictions)
    pixels = predictions.images.gather(chosen)
    shown = [_describe(predictions, int(i), image) for i, image in zip(chosen, pixels, strict=True)]
    values = {"epoch": progress.history[-1]["epoch"], "images": shown}
    try:
        runs.write_json(progress.directory / runs.PICTURES, values)
    except OSError as error:  # nothing that a run would have to stop for
        logger.warning("the pictures of the validation are not written: %s", error)


def _choose(predictions: LabelledPredictions) -> np.ndarray:
    """Which images are shown, int [n]."""
    wrong = predictions.mistakes(MOST_WRONG).tolist()
    order = np.random.default_rng(0).permutation(len(predictions.labels))
    order = order[np.argsort(turns(predictions.labels[order].tolist()), kind="stable")]
    others = [i for i in order[:MOST].tolist() if i not in wrong]
    return np.array([*wrong, *others][:MOST])


def _describe(predictions: LabelledPredictions, i: int, image: np.ndarray) -> dict[str, Any]:
    row = predictions.log_probabilities[i]
    guess = int(row.argmax())
    return {
        "name": predictions.keys[i],
        "true": predictions.classes[predictions.labels[i]],
        "predicted": predictions.classes[guess],
        "probability": float(np.exp(row[guess])),
        "picture": data_uri(image, SIDE),
    }


def data_uri(image: np.ndarray, most: int | None = None) -> str:
    """An image as a page holds it.

    Args:
        image: uint8 [h, w, 3].
        most: pixels of its longer side; None: as it is.

    Example:
        >>> data_uri(np.zeros((8, 8, 3), np.uint8))[:23]
        'data:image/jpeg;base64,'
    """
    picture = Image.fromarray(image)
    if most is not None:
        picture.thumbnail((most, most))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")
