"""Heat maps over the images that they explain."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from resnext_jax.errors import BadInput
from resnext_jax.inference import Explanations
from resnext_jax.reports.fonts import fonts_for

MOST_IMAGES = 64
SMALLEST, CELL, WIDEST = 220, 640, 2400  # longer side of one picture, and width of a row, in pixels
DPI = 100


def draw_explanations(explanations: Explanations, file: Path) -> None:
    """Draw each image beside its heat maps, a row an image.

    Args:
        explanations: of up to `MOST_IMAGES` images.
        file: picture to write; the format is by its ending.
    """
    targets = explanations.targets
    columns = 1 + targets.shape[1]
    cell = min(CELL, WIDEST // columns)
    rows, captions = [], []
    for i in range(len(targets)):
        original = fit(explanations.originals[i], min(SMALLEST, cell), cell)
        maps = [overlay(explanations, i, j, original) for j in range(columns - 1)]
        rows.append([original, *maps])
        captions.append(
            [Path(explanations.keys[i]).name, *(_caption(explanations, i, j) for j in range(columns - 1))]
        )
    _draw(rows, captions, file)


def overlay(explanations: Explanations, image: int, place: int, original: np.ndarray) -> np.ndarray:
    """A heat map over an image, uint8 [h, w, 3].

    Where there is more evidence the colour is brighter and covers more; what speaks against the class (only
    occlusion tells) is blue. What the network did not see is dark.

    Args:
        explanations: as `Predictor.explain` has them.
        image: which image.
        place: which of its classes.
        original: the image in the size wanted, uint8 [h, w, 3].
    """
    values = explanations.over(image, place, original.shape[:2])
    return blend(original, values, _largest(explanations, image, place))


def blend(original: np.ndarray, values: np.ndarray, largest: float) -> np.ndarray:
    """An image with evidence in colour, uint8 [h, w, 3].

    Args:
        original: uint8 [h, w, 3].
        values: the evidence, float [h, w]; negative: against; NaN: not seen.
        largest: what is drawn brightest.
    """
    seen = np.isfinite(values)
    strength = np.clip(np.where(seen, values, 0) / largest, -1, 1)
    hot = matplotlib.colormaps["inferno"](0.25 + 0.75 * np.clip(strength, 0, 1))[..., :3]
    color = np.where(strength[..., None] < 0, (0.1, 0.35, 0.9), hot)
    # Grey beneath, so that colours are the map's alone.
    grey = (original @ np.array([0.299, 0.587, 0.114]))[..., None] / 255
    share = 0.75 * np.abs(strength)[..., None] ** 0.7
    mixed = np.where(seen[..., None], (1 - share) * grey + share * color, 0.3 * grey)
    return np.round(255 * np.clip(mixed, 0, 1)).astype(np.uint8)


def _largest(explanations: Explanations, image: int, place: int) -> float:
    """What is drawn brightest: of Grad-CAM, which has no unit, each map's largest value."""
    if explanations.method == "occlusion":
        # An image's maps are drawn on one scale, and nothing under a percent looks like evidence.
        return max(float(np.abs(explanations.maps[image]).max()), 0.01)
    return float(explanations.maps[image, place].max()) or 1.0


def fit(image: np.ndarray, least: int, most: int) -> np.ndarray:
    """An image whose longer side has so many pixels, at least and at most."""
    longer = max(image.shape[:2])
    scale = min(max(longer, least), most) / longer
    size = [max(1, round(scale * length)) for length in image.shape[1::-1]]
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def _caption(explanations: Explanations, image: int, place: int) -> str:
    target = explanations.targets[image, place]
    probability = explanations.probabilities[image, target]
    caption = f"{explanations.classes[target]} {100 * probability:.1f} %"
    if explanations.method == "occlusion":
        caption += f"\ncovered {100 * (probability - explanations.maps[image, place].max()):.1f} %"
    return caption


def _draw(rows: Sequence[Sequence[np.ndarray]], captions: Sequence[Sequence[str]], file: Path) -> None:
    """Draw pictures in rows of one height each, without enlarging them."""
    lines = 1 + max(caption.count("\n") for row in captions for caption in row)
    heights = [max(image.shape[0] for image in row) / DPI for row in rows]
    width = max(image.shape[1] for row in rows for image in row) / DPI
    # Text grows with the pictures, and has room above each.
    font = 5 + 1.5 * min(width, 6)
    above = lines * 1.6 * font / 72
    gap = 0.12
    figure = Figure(
        figsize=(len(rows[0]) * (width + gap) + gap, sum(heights) + len(rows) * (above + gap) + gap), dpi=DPI
    )
    wide, tall = figure.get_size_inches()
    top = tall
    with fonts_for(caption for row in captions for caption in row):
        for row, texts, height in zip(rows, captions, heights, strict=True):
            top -= above + gap + height
            for column, (image, text) in enumerate(zip(row, texts, strict=True)):
                left = gap + column * (width + gap)
                shape = np.array(image.shape[1::-1]) / DPI
                axes = figure.add_axes(
                    (left / wide, (top + height - shape[1]) / tall, shape[0] / wide, shape[1] / tall)
                )
                axes.imshow(image, interpolation="nearest", aspect="auto")
                axes.axis("off")
                fitting = _fit(text, int(width * 72 / (0.55 * font)))
                figure.text(
                    left / wide,
                    (top + height + 0.05) / tall,
                    fitting,
                    fontsize=font,
                    va="bottom",
                    parse_math=False,
                )
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file)


def _fit(text: str, most: int) -> str:
    """Lines of so many characters at most; of longer ones the end is kept, which tells files apart."""
    return "\n".join(line if len(line) <= most else f"…{line[1 - most :]}" for line in text.splitlines())


def check_count(count: int) -> None:
    """Check that so many images fit one picture.

    Raises:
        BadInput: they do not.
    """
    if count > MOST_IMAGES:
        raise BadInput(f"{count} images: at most {MOST_IMAGES} fit one picture; choose some, or draw several")
