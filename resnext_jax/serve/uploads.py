"""The images of a request: read within limits, checked by their headers, and only then decoded."""

import asyncio
import base64
import binascii
import io
import json
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from resnext_jax.data import decode, image_suffixes
from resnext_jax.errors import BadInput
from resnext_jax.serve.config import ServeConfig

# The kinds that browsers and cameras make: strangers' bytes reach none of Pillow's rarely used parsers.
_KINDS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF")
image_suffixes()  # registers what the installed Pillow reads
FORMATS = tuple(kind for kind in _KINDS if kind in Image.OPEN)

EXPECTED = (
    'expected images: multipart/form-data with files, or JSON {"images": ["<base64>", ...]} as '
    "application/json"
)


@dataclass(frozen=True)
class Upload:
    """A file as it came.

    Args:
        name: what the client calls it; never a path that is opened.
        data: its bytes.
    """

    name: str
    data: bytes


async def read_uploads(request: Request, config: ServeConfig) -> list[Upload]:
    """Read the images of a request.

    Args:
        request: its body is a form, or JSON.
        config: the limits.

    Raises:
        HTTPException: with the status 400, 413 or 415, and what is wrong in one line.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = _limited(request, config.max_bytes)
    if kind == "multipart/form-data":
        uploads = await _from_form(request, body, config.max_images)
    elif kind == "application/json":
        # Of many megabytes that takes a while; others are answered meanwhile.
        uploads = await asyncio.to_thread(_from_json, b"".join([chunk async for chunk in body]))
    else:
        raise HTTPException(415, f"{kind or 'no content type'}: {EXPECTED}")
    if not uploads:
        raise HTTPException(400, f"no image in the request: {EXPECTED}")
    if len(uploads) > config.max_images:
        raise HTTPException(413, f"{len(uploads)} images: expected at most {config.max_images} in a request")
    return uploads


async def _limited(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    """The body in pieces, until it is too long."""
    refusal = HTTPException(413, f"the request is too large: expected at most {most / 1e6:g} MB")
    if int(request.headers.get("content-length", 0)) > most:
        raise refusal
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise refusal
        yield chunk


class _FormInMemory(MultiPartParser):
    spool_max_size = sys.maxsize  # photos of patients do not lie in temporary files


async def _from_form(request: Request, body: AsyncGenerator[bytes, None], most: int) -> list[Upload]:
    try:
        form = await _FormInMemory(request.headers, body, max_files=most, max_fields=0).parse()
    except (MultiPartException, FormParserError) as error:
        raise HTTPException(400, f"the form cannot be read: {error}; {EXPECTED}") from error
    files = [file for _, file in form.multi_items() if isinstance(file, UploadFile)]
    return [Upload(file.filename or "image", await file.read()) for file in files]


def _from_json(body: bytes) -> list[Upload]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the JSON cannot be read: {error}") from error
    if not isinstance(content, dict) or set(content) != {"images"} or not isinstance(content["images"], list):
        raise HTTPException(400, EXPECTED)
    return [_from_base64(text, f"image {i}") for i, text in enumerate(content["images"])]


def _from_base64(text: Any, name: str) -> Upload:
    if not isinstance(text, str):
        raise HTTPException(400, f"{name}: expected its bytes as base64 text")
    if text.startswith("data:"):  # as a browser's FileReader writes it
        text = text.partition(",")[2]
    try:
        return Upload(name, base64.b64decode("".join(text.split()), validate=True))
    except (binascii.Error, ValueError) as error:
        raise HTTPException(400, f"{name}: not base64: {error}") from error


def decode_upload(upload: Upload, max_pixels: int) -> np.ndarray:
    """Decode an image.

    Args:
        upload: the file.
        max_pixels: the most pixels; an image of more is refused by its header alone.

    Returns:
        uint8 [h, w, 3], upright.

    Raises:
        HTTPException: 413 for too many pixels, 415 for what is not a still image.
    """
    if not upload.data:
        raise HTTPException(415, f"{upload.name}: the file is empty")
    try:
        with Image.open(io.BytesIO(upload.data), formats=FORMATS) as header:
            width, height = header.size
            # A phone's JPEG may hold further pictures behind the first one (MPO); that is no animation.
            animated = getattr(header, "is_animated", False) and header.format != "MPO"
    except Image.UnidentifiedImageError:
        kinds = ", ".join(FORMATS)
        raise HTTPException(415, f"{upload.name}: not an image; expected one of {kinds}") from None
    except Image.DecompressionBombError:
        raise HTTPException(413, f"{upload.name}: {_too_many(max_pixels)}") from None
    except Exception as error:  # Pillow's parsers raise anything on damaged bytes
        raise HTTPException(415, f"{upload.name}: {error}") from error
    if width * height > max_pixels:
        raise HTTPException(413, f"{upload.name}: {width} x {height} pixels; {_too_many(max_pixels)}")
    if animated:
        raise HTTPException(415, f"{upload.name}: of several frames; expected a still image")
    try:
        return decode(upload.data, upload.name)
    except BadInput as error:
        raise HTTPException(415, str(error)) from error


def _too_many(most: int) -> str:
    return f"too many pixels: expected at most {most / 1e6:g} million"
