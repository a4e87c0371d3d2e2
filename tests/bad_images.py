"""Images as they come in: whole ones of many kinds, damaged ones, and what only looks like an image."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
SUFFIX = {"JPEG": ".jpg", "TIFF": ".tif"} | {
    name: f".{name.lower()}" for name in ("PNG", "GIF", "BMP", "WEBP", "PPM")
}


def photo(rng: np.random.Generator, side: int = 24) -> Image.Image:
    """A smooth picture with noise, as JPEG likes it."""
    coarse = rng.uniform(0, 200, (3, 3, 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((side, side + 4), Image.Resampling.BICUBIC))
    return Image.fromarray((smooth + rng.integers(0, 40, smooth.shape)).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(0, len(data))]


def _flipped(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for at in rng.integers(0, len(data), rng.integers(1, 20)):
        changed[at] ^= 1 << rng.integers(0, 8)
    return bytes(changed)


def _shuffled(data: bytes, rng: np.random.Generator) -> bytes:
    """Blocks of the file in another order, as a file system leaves them that was repaired."""
    blocks = [data[at : at + 64] for at in range(0, len(data), 64)]
    return b"".join(blocks[i] for i in rng.permutation(len(blocks)))


def _zeros_inside(data: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(0, len(data)))
    return data[:at] + bytes(min(200, len(data) - at)) + data[at + 200 :]


DAMAGE: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "cut": _cut,
    "flipped": _flipped,
    "shuffled": _shuffled,
    "zeros": _zeros_inside,
}


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of any declared size, with the pixels of one row."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(3 * min(width, 1000) + 1))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def odd_images(rng: np.random.Generator) -> dict[str, bytes]:
    """Files that are no ordinary photo, by name: kinds that are read, and kinds that cannot be."""
    image = photo(rng)
    turned = Image.Exif()
    turned[0x0112] = int(rng.integers(0, 12))  # of which 1 to 8 mean something
    deep = Image.fromarray(rng.integers(0, 2**16, (20, 20), dtype=np.uint16))
    frames = [photo(rng) for _ in range(3)]
    more = {"save_all": True, "append_images": frames[1:]}
    alpha = image.convert("RGBA")
    alpha.putalpha(128)
    jpeg, png = encoded(image, "JPEG"), encoded(image, "PNG")
    return {
        "rotated.jpg": encoded(image, "JPEG", exif=turned),
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG"),
        "grey.jpg": encoded(image.convert("L"), "JPEG"),
        "progressive.jpg": encoded(image, "JPEG", progressive=True),
        "palette.png": encoded(image.convert("P"), "PNG"),
        "palette_transparent.png": encoded(image.convert("P"), "PNG", transparency=3),
        "one_bit.png": encoded(image.convert("1"), "PNG"),
        "alpha.png": encoded(alpha, "PNG"),
        "deep.png": encoded(deep, "PNG"),
        "deep.tif": encoded(deep, "TIFF"),
        "float.tif": encoded(Image.fromarray(rng.normal(size=(9, 9)).astype(np.float32)), "TIFF"),
        "cmyk.tif": encoded(image.convert("CMYK"), "TIFF"),
        "lab.tif": encoded(image.convert("RGB").convert("YCbCr"), "TIFF"),
        "animated.gif": encoded(frames[0], "GIF", **more),
        "animated.webp": encoded(frames[0], "WEBP", **more),
        "animated.png": encoded(frames[0], "PNG", **more),
        "pages.tif": encoded(frames[0], "TIFF", **more),
        "one_pixel.png": encoded(Image.new("RGB", (1, 1)), "PNG"),
        "thin.png": encoded(Image.new("L", (1, 3000)), "PNG"),
        "png_in_a.jpg": png,
        "jpeg_in_a.png": jpeg,
        "text_in_a.jpg": b"not an image\n" * 9,
        "page_in_a.png": b"<!DOCTYPE html><html><body>404</body></html>",
        "zip_in_a.jpg": b"PK\x03\x04" + bytes(60),
        "empty.jpg": b"",
        "zeros.jpg": bytes(3000),
        "huge.png": png_that_claims(60_000, 60_000),
        "wide.png": png_that_claims(2**31 - 1, 1),
        "large.png": png_that_claims(12_000, 9_000),
        "nothing.png": png_that_claims(0, 0),
        "behind.jpg": jpeg + b"\0" * 500 + b"<?php echo 1 ?>",
        "twice.jpg": jpeg + jpeg,
        "header.gif": b"GIF89a" + b"\xff" * 7,
        "header.bmp": b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 10**9, 0, 0, 54, 40, 30_000, -30_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "header.ppm": b"P6 99999999 99999999 255\n",
        "negative.ppm": b"P6 -1 5 255\n" + bytes(30),
    }


def write_bad_images(folder: Path, classes: tuple[str, ...], count: int, seed: int = 0) -> None:
    """Fill class folders with whole, odd and damaged images, and with what is no file.

    Args:
        folder: the new data set.
        classes: names of its class folders.
        count: how many damaged images there are.
        seed: another seed damages in other ways.
    """
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(10):
            (folder / name / f"whole_{i}.jpg").write_bytes(encoded(photo(rng), "JPEG"))
        for odd, data in odd_images(rng).items():
            (folder / name / f"{name}_{odd}").write_bytes(data)
    for i in range(count):
        kind, damage = FORMATS[i % len(FORMATS)], list(DAMAGE)[(i // len(FORMATS)) % len(DAMAGE)]
        data = DAMAGE[damage](encoded(photo(rng), kind), rng)
        (folder / classes[i % len(classes)] / f"{damage}_{i}{SUFFIX[kind]}").write_bytes(data)
    first = folder / classes[0]
    whole = (first / "whole_0.jpg").read_bytes()
    os.mkfifo(first / "pipe.jpg")
    (first / "folder.jpg").mkdir()
    (first / "around").symlink_to(first, target_is_directory=True)
    (first / "loop.jpg").symlink_to(first / "loop.jpg")
    (first / "nowhere.jpg").symlink_to(first / "nothing here")
    (first / "null.jpg").symlink_to("/dev/zero")
    for name in (
        b"two\nlines.jpg",
        b"not utf8 \xff\xfe.jpg",
        b"escape\x1b[31m.jpg",
        "猴痘 ü.jpg".encode(),
        b"'; rm -rf \".jpg",
    ):
        (first / os.fsdecode(name)).write_bytes(whole)
