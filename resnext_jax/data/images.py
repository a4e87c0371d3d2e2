"""Encoded images of any kind to upright 8-bit RGB."""

from __future__ import annotations

import io
import logging
import threading
from functools import cache

import numpy as np
from PIL import ExifTags, Image

from resnext_jax.errors import BadInput

try:
    import simplejpeg
except ImportError:  # no wheel for this platform: Pillow decodes, with the same pixels
    simplejpeg = None

logger = logging.getLogger(__name__)

_dark_noted = threading.Event()  # the first image of 12 bits in 16 was told of

# Formats of Pillow that are not opened: EPS starts Ghostscript, the rest only recognises files for others.
_LEFT_OUT = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"})

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


@cache
def image_suffixes() -> frozenset[str]:
    """Lower-case endings of the files that are read as images: all that the installed Pillow reads.

    HEIC and HEIF are among them if pillow-heif is installed.
    """
    formats = _formats()
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in formats)


def decode(image: bytes | np.ndarray, key: str) -> np.ndarray:
    """Decode an image to upright RGB.

    Greyscale, palette and CMYK images are converted; 16-bit values are divided by 256; of several frames the
    first is taken; transparency is dropped, as torchvision does; EXIF orientation is applied, which
    torchvision does not.

    Args:
        image: the bytes of a file of any kind that Pillow reads; or uint8 [h, w, 3], passed through, or
            [h, w, 1].
        key: names the image in errors.

    Returns:
        uint8 [h, w, 3].

    Raises:
        BadInput: the bytes are no such image, damaged, truncated, more pixels than Pillow accepts, or of
            values that have no 8-bit form.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("L", (4, 2)).save(file, "PNG")
        >>> decode(file.getvalue(), "grey.png").shape
        (2, 4, 3)
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
            raise BadInput(f"{key}: expected uint8 [h, w, 3], got {image.dtype} {list(image.shape)}")
        return np.broadcast_to(image, (*image.shape[:2], 3))
    try:
        with Image.open(io.BytesIO(image), formats=_formats()) as opened:
            pixels = _decode_jpeg(image, opened)
            return upright(opened, key) if pixels is None else _turn(pixels, opened)
    except BadInput:
        raise
    except Exception as error:  # Pillow's parsers raise anything on damaged bytes: struct.error, KeyError...
        raise BadInput(f"{key}: {_reason(error, image)}") from error


def upright(image: Image.Image, key: str) -> np.ndarray:
    """The pixels of one of Pillow's images, as `decode` has them of its file.

    Args:
        image: of any mode; of several frames, the one that is selected.
        key: names the image in errors.

    Returns:
        uint8 [h, w, 3].

    Raises:
        BadInput: its file is damaged, or its values have no 8-bit form.
    """
    try:
        pixels = np.asarray(_to_rgb(image, key))
        # Only now: some formats turn the image upright as they load it.
        return _turn(pixels, image)
    except Exception as error:  # as above
        raise BadInput(f"{key}: {_reason(error)}") from error


def _turn(pixels: np.ndarray, image: Image.Image) -> np.ndarray:
    """What was seen, of what is stored."""
    turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return pixels if turn is None else np.asarray(Image.fromarray(pixels).transpose(turn))


@cache
def _formats() -> tuple[str, ...]:
    """Formats that may be opened, the usual ones first."""
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports]  (an extra)
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
    suffixed = set(Image.registered_extensions().values())
    usual = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
    others = sorted((suffixed & set(Image.OPEN)) - _LEFT_OUT - set(usual))
    return (*usual, *others)


def _decode_jpeg(data: bytes, opened: Image.Image) -> np.ndarray | None:
    """The pixels by libjpeg-turbo's own interface, faster and equal to Pillow's; None if Pillow must do it.

    Pillow has the last word on damaged files, CMYK and odd subsampling.
    """
    if simplejpeg is None or opened.format not in ("JPEG", "MPO") or opened.mode not in ("RGB", "L"):
        return None
    try:
        return simplejpeg.decode_jpeg(data)
    except ValueError:
        return None


def _to_rgb(image: Image.Image, key: str) -> Image.Image:
    if image.mode.startswith("I"):  # convert() would clip everything above 255
        deep = np.asarray(image)
        top = int(deep.max())
        if top > 0xFFFF or int(deep.min()) < 0:
            raise BadInput("values of more than 16 bits; save it with 8 or 16 bits a channel")
        if 0xFF < top < 0x1000:
            _note_dark(key, top)
        return Image.fromarray((deep >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise BadInput("floating-point values, of no known range; save it with 8 or 16 bits a channel")
    if image.mode == "P":  # a palette with transparency converts through RGBA only without a warning
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _note_dark(key: str, top: int) -> None:
    if not _dark_noted.is_set():
        _dark_noted.set()
        logger.warning(
            "%s: 16-bit values of at most %d, such as 12-bit cameras write, come out nearly black; stretch "
            "them to 16 bits before. Other such images are not named",
            key,
            top,
        )


def _reason(error: Exception, data: bytes | None = None) -> str:
    if data == b"":
        return "the file is empty"
    start = (data or b"")[:64].lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer instead of the image; `git lfs pull` fetches that"
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page, perhaps of a failed download"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image, or of a kind that the installed Pillow does not read"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than the {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels that are accepted"
    return str(error) or type(error).__name__
