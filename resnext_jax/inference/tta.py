"""Test-time augmentation: several views of an image, whose predictions are averaged."""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from resnext_jax.data import Preprocessing

ENLARGED = 8 / 7  # of images that are not cropped anyway: 256 pixels for 224, as in the papers


@dataclass(frozen=True)
class View:
    """One view of an image; stands in the place of its `Preprocessing`.

    Args:
        preprocessing: geometry of the usual view.
        corner: the one that is seen, 0 or 1 across and 0 or 1 down; None: the usual view.
        mirrored: left and right exchanged.
    """

    preprocessing: Preprocessing
    corner: tuple[int, int] | None
    mirrored: bool

    @property
    def image_size(self) -> int:
        """Side of the view in pixels."""
        return self.preprocessing.image_size

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The view, uint8 [S, S, 3], of an image uint8 [h, w, 3]."""
        seen = self.preprocessing(image) if self.corner is None else self._corner(image, *self.corner)
        return seen[:, ::-1] if self.mirrored else seen

    def _corner(self, image: np.ndarray, across: int, down: int) -> np.ndarray:
        side, whole = self.image_size, self.preprocessing
        if whole.resize_size in (None, side):
            whole = replace(whole, resize_size=round(ENLARGED * side))
        height, width = image.shape[:2]
        left, top, right, bottom = whole.visible(height, width)
        wide, high = right - left, bottom - top
        x, y = across * (width - wide), down * (height - high)
        resample = Image.Resampling[whole.interpolation.upper()]
        return np.asarray(Image.fromarray(image).resize((side, side), resample, (x, y, x + wide, y + high)))


def views(preprocessing: Preprocessing) -> list[View]:
    """Ten views of an image: the usual one, its four corners, and the mirror images of these five.

    With a centre crop it is torchvision's `TenCrop`. If nothing is cropped (`resize_size` is the image size),
    the corners are those of the image enlarged by 8/7.
    """
    corners = (None, (0, 0), (1, 0), (0, 1), (1, 1))
    return [View(preprocessing, corner, mirrored) for mirrored in (False, True) for corner in corners]
