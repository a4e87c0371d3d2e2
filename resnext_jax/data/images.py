"""Encoded images of any kind to upright 8-bit RGB."""

from __future__ import annotations

import io

import numpy as np
from PIL import ExifTags, Image

from resnext_jax.errors import BadInput

# What Pillow may open: none of its rarely used parsers. JPEG includes the multi-picture files of phones.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")

# EXIF orientation: how to turn what is stored into what was seen.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(image: bytes | np.ndarray, key: str) -> np.ndarray:
    """Decode an image to upright RGB.

    Greyscale, palette, CMYK and 16-bit images are converted; transparency is dropped, as torchvision does;
    EXIF orientation is applied, which torchvision does not.

    Args:
        image: the bytes of a JPEG, PNG, WebP or BMP file; or uint8 [h, w, 3], passed through, or [h, w, 1].
        key: names the image in errors.

    Returns:
        uint8 [h, w, 3].

    Raises:
        ValueError: the bytes are no such image, damaged, truncated, or more pixels than Pillow accepts.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
            raise BadInput(f"{key}: expected uint8 [h, w, 3], got {image.dtype} {list(image.shape)}")
        return np.broadcast_to(image, (*image.shape[:2], 3))
    try:
        with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
            orientation = opened.getexif().get(ExifTags.Base.Orientation)
            picture = _to_rgb(opened)
    except Exception as error:  # Pillow's parsers raise anything on damaged bytes: struct.error, KeyError...
        raise BadInput(f"{key}: {_reason(error, image)}") from error
    if orientation in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[orientation])
    return np.asarray(picture)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit greyscale: convert() would clip everything above 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P":  # a palette with transparency converts through RGBA only without a warning
        image = image.convert("RGBA")
    return image.convert("RGB")


def _reason(error: Exception, data: bytes) -> str:
    if not data:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a JPEG, PNG, WebP or BMP image"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than the {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels that are accepted"
    return str(error) or type(error).__name__
