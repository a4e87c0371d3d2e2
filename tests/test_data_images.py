"""Every kind of image file arrives as upright 8-bit RGB, or is refused by name."""

import contextlib
import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from resnext_jax.data.images import decode

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)


def encode(image, format="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats(format, options):
    decoded = decode(encode(Image.fromarray(RGB), format, **options), "x")
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, RGB)


def test_jpeg_is_pillows():
    data = encode(Image.fromarray(RGB), "JPEG", quality=90)
    np.testing.assert_array_equal(decode(data, "x"), np.asarray(Image.open(io.BytesIO(data))))


def test_greyscale_palette_transparency():
    grey = RGB[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(grey)), "x"), expected)
    alpha = np.dstack([RGB, np.full((6, 5), 40, np.uint8)])
    np.testing.assert_array_equal(decode(encode(Image.fromarray(alpha)), "x"), RGB)
    la = Image.fromarray(np.dstack([grey, grey]), "LA")
    np.testing.assert_array_equal(decode(encode(la), "x"), expected)
    palette = Image.fromarray(RGB).quantize(30)  # one colour for each pixel
    np.testing.assert_array_equal(decode(encode(palette), "x"), np.asarray(palette.convert("RGB")))
    bits = Image.fromarray((grey > 128).astype(np.uint8) * 255).convert("1")
    assert set(decode(encode(bits), "x").ravel()) <= {0, 255}


@pytest.mark.filterwarnings("error")
def test_palette_with_transparency_is_silent():
    palette = Image.fromarray(RGB).quantize(30)
    data = encode(palette, transparency=bytes(range(30)))
    np.testing.assert_array_equal(decode(data, "x"), np.asarray(palette.convert("RGB")))


def test_16_bit_greyscale_keeps_its_shades():
    deep = (np.arange(30, dtype=np.uint16) * 2184).reshape(6, 5)
    decoded = decode(encode(Image.fromarray(deep)), "x")
    np.testing.assert_array_equal(decoded[..., 1], deep >> 8)


def test_multi_picture_file_of_a_phone():
    first, second = Image.fromarray(RGB), Image.fromarray(255 - RGB)
    data = encode(first, "MPO", save_all=True, append_images=[second], quality=95)
    assert (
        np.abs(decode(data, "x").astype(int) - RGB).mean() < np.abs(decode(data, "x") - (255.0 - RGB)).mean()
    )


def test_cmyk_jpeg():
    colour = Image.new("RGB", (16, 16), (200, 60, 30))
    decoded = decode(encode(colour.convert("CMYK"), "JPEG", quality=95), "x")
    np.testing.assert_allclose(decoded.reshape(-1, 3).mean(0), (200, 60, 30), atol=6)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(RGB), format, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    np.testing.assert_array_equal(decode(data, "x"), np.asarray(upright))
    assert decode(data, "x").shape == ((5, 6, 3) if orientation > 4 else (6, 5, 3))


def test_arrays_pass_through():
    assert np.shares_memory(decode(RGB, "x"), RGB)
    np.testing.assert_array_equal(decode(RGB[..., :1], "x"), np.repeat(RGB[..., :1], 3, axis=2))
    with pytest.raises(ValueError, match=r"a/b: expected uint8 \[h, w, 3\], got float32 \[6, 5, 3\]"):
        decode(RGB.astype(np.float32), "a/b")


def truncated(format):
    data = encode(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), format)
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"no image at all", "not a JPEG, PNG, WebP or BMP"),
        (encode(Image.fromarray(RGB), "GIF"), "not a JPEG, PNG, WebP or BMP"),
        (truncated("JPEG"), "truncated"),
        (truncated("PNG"), "."),
        (truncated("BMP"), "truncated"),
        (truncated("WEBP"), "."),
    ],
)
def test_bad_bytes_are_named(data, reason):
    with pytest.raises(ValueError, match=f"^cats/1.jpg: .*{reason}") as caught:
        decode(data, "cats/1.jpg")
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Tag data larger")
def test_damaged_bytes_never_raise_anything_else():
    exif = Image.Exif()
    exif[0x0112] = 6
    for format in ("JPEG", "PNG", "WEBP", "BMP"):
        whole = np.frombuffer(encode(Image.fromarray(RGB), format, exif=exif), np.uint8)
        for _ in range(150):
            damaged = whole.copy()
            damaged[RNG.integers(0, len(whole), 4)] = RNG.integers(0, 256, 4)
            with contextlib.suppress(ValueError):
                decoded = decode(damaged.tobytes(), "x")
                assert decoded.dtype == np.uint8
                assert decoded.shape[2] == 3


def test_decompression_bomb(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match="x: more than the 20 pixels"):
        decode(encode(Image.fromarray(RGB)), "x")
