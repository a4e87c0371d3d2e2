"""The fixed geometry from an image of any size to the square that the network sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from PIL import Image

from resnext_jax.fields import Config, Range

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Resize = Literal["crop", "stretch"]
Normalize = Callable[[Any], Any]
"""uint8 images to the floats that a network wants, as `Preprocessing.normalize` does."""
Interpolation = Literal["bilinear", "bicubic", "nearest"]

# A larger frame is not resized as a whole: 64 MiB in Pillow.
_MOST_PIXELS = 1 << 24


class Geometry(Protocol):
    """From an image of any size to a square one."""

    @property
    def image_size(self) -> int:
        """Side of the result in pixels."""
        ...

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """From uint8 [h, w, 3] to uint8 [image_size, image_size, 3]."""
        ...


@dataclass(frozen=True)
class Preprocessing(Config):
    """Resize, centre crop, and the normalisation that the device applies afterwards.

    The geometry is torchvision's `Resize` and `CenterCrop` on PIL images, to the bit. The only exception are
    shapes such as 1 x 20,000 pixels, which would be huge after the resize: the part that the crop keeps is
    resized alone, and a few of its values may differ by 1.

    Args:
        image_size: side of the square that the network sees, in pixels.
        resize_size: length of the shorter side before the centre crop; None: `image_size`.
        resize: `crop` keeps the aspect ratio and crops the longer side; `stretch` makes a square.
        interpolation: filter of the resize, antialiased; "nearest" takes single pixels, as Keras does.
        mean: of each RGB channel, for values scaled to [0, 1].
        std: of each RGB channel, for values scaled to [0, 1].

    Raises:
        BadInput: a size that is not positive, `resize_size` below `image_size`, an unknown word, or a
            standard deviation that is not positive.

    Example:
        >>> prepare = Preprocessing(224, 256)
        >>> pixels = prepare(np.zeros((375, 500, 3), np.uint8))
        >>> pixels.shape, prepare.normalize(pixels).dtype
        ((224, 224, 3), dtype('float32'))
    """

    image_size: Annotated[int, Range(least=1)] = 224
    resize_size: Annotated[int | None, Range(least="image_size")] = None
    resize: Resize = "crop"
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: Annotated[tuple[float, float, float], Range(above=0)] = IMAGENET_STD

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Resize and crop one image; normalisation is left to the device.

        Args:
            image: uint8 [h, w, 3].

        Returns:
            uint8 [image_size, image_size, 3].
        """
        height, width = image.shape[:2]
        size, target = self._resized(height, width), self.image_size
        if size != (width, height):
            resample = Image.Resampling[self.interpolation.upper()]
            picture = Image.fromarray(image)
            if size[0] * max(size[1], height) > max(_MOST_PIXELS, 20 * min(size) ** 2):
                return np.asarray(picture.resize((target, target), resample, self.visible(height, width)))
            image = np.asarray(picture.resize(size, resample))
        left, top = self._corner(size)
        return image[top : top + target, left : left + target]

    def visible(self, height: int, width: int) -> tuple[float, float, float, float]:
        """The part of an image that is left after cropping.

        Args:
            height: of the image, in pixels.
            width: of the image, in pixels.

        Returns:
            Its left, top, right and bottom edge, in pixels of the image.

        Example:
            >>> Preprocessing(224, 256).visible(512, 1024)
            (288.0, 32.0, 736.0, 480.0)
        """
        size = self._resized(height, width)
        left, top = self._corner(size)
        across, down = width / size[0], height / size[1]
        right, bottom = left + self.image_size, top + self.image_size
        return left * across, top * down, min(right * across, width), min(bottom * down, height)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Width and height before the crop."""
        side = self.resize_size or self.image_size
        if self.resize == "stretch":
            return side, side
        if width <= height:
            return side, int(side * height / width)
        return int(side * width / height), side

    def _corner(self, size: tuple[int, int]) -> tuple[int, int]:
        """Left and top edge of the crop in an image of this width and height."""
        left, top = (round((length - self.image_size) / 2) for length in size)
        return left, top

    def normalize(self, images: Any) -> Any:
        """(x / 255 - mean) / std, the normalisation that follows the geometry.

        Args:
            images: uint8 [..., H, W, 3], of NumPy or JAX.

        Returns:
            float32 [..., H, W, 3], of the same library.

        Example:
            >>> Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3).normalize(np.full((1, 1, 3), 255, np.uint8))
            array([[[1., 1., 1.]]], dtype=float32)
        """
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return (images.astype(np.float32) / 255 - mean) / std
