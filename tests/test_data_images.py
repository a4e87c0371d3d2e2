"""Every kind of image file arrives as upright 8-bit RGB, or is refused by name."""

import contextlib
import io
import threading

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from resnext_jax.data import images
from resnext_jax.data.images import decode, image_suffixes

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)


def encode(image, format="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
        ("JPEG2000", {}),
        ("TGA", {}),
        ("QOI", {}),
    ],
)
def test_lossless_formats(format, options):
    decoded = decode(encode(Image.fromarray(RGB), format, **options), "x")
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, RGB)


@pytest.mark.parametrize("quality", [30, 90, 100])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_is_pillows(quality, subsampling, progressive):
    """Whichever library decodes it, in sizes that no block divides."""
    for height, width in [(1, 1), (7, 9), (33, 50), (61, 16)]:
        smooth = np.add.outer(np.arange(height) * 3, np.arange(width) * 5)[..., None] * np.array([1, -1, 2])
        pixels = (smooth + RNG.integers(0, 90, (height, width, 3))) % 256
        options = {"quality": quality, "subsampling": subsampling, "progressive": progressive}
        for image in (
            Image.fromarray(pixels.astype(np.uint8)),
            Image.fromarray(pixels[..., 0].astype(np.uint8)),
        ):
            data = encode(image, "JPEG", **options)
            expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            np.testing.assert_array_equal(decode(data, "x"), expected)


def test_jpeg_without_the_faster_decoder(monkeypatch):
    data = encode(Image.fromarray(RGB), "JPEG")
    fast = decode(data, "x")
    monkeypatch.setattr(images, "simplejpeg", None)
    np.testing.assert_array_equal(decode(data, "x"), fast)


def test_first_of_several_frames():
    colours = [Image.new("RGB", (4, 4), (value, 0, 0)) for value in (250, 20)]
    for format in ("GIF", "TIFF", "WEBP", "PNG"):
        options = {"lossless": True} if format == "WEBP" else {}
        data = encode(colours[0], format, save_all=True, append_images=colours[1:], **options)
        assert decode(data, "x")[0, 0, 0] == 250


@pytest.mark.parametrize("format", ["AVIF", "HEIF"])
def test_formats_that_may_be_absent(format):
    if format == "HEIF":
        pytest.importorskip("pillow_heif")
    elif not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    assert {"AVIF": ".avif", "HEIF": ".heic"}[format] in image_suffixes()
    smooth = np.add.outer(np.arange(64), 2 * np.arange(48))[..., None].repeat(3, 2).astype(np.uint8)
    np.testing.assert_allclose(
        decode(encode(Image.fromarray(smooth), format, quality=95), "x").astype(int), smooth, atol=12
    )


def test_suffixes_are_what_pillow_reads_but_no_postscript():
    assert {".jpg", ".jpeg", ".jfif", ".png", ".tif", ".gif", ".ppm", ".webp", ".bmp"} <= image_suffixes()
    assert not {".eps", ".ps", ".pdf", ".txt", ".h5", ".mpg", ".csv"} & image_suffixes()


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
    for format in ("PNG", "TIFF"):
        decoded = decode(encode(Image.fromarray(deep), format), "x")
        np.testing.assert_array_equal(decoded[..., 1], deep >> 8)


def test_12_bits_in_16_are_noticed_once(monkeypatch, caplog):
    monkeypatch.setattr(images, "_dark_noted", threading.Event())
    for top, name in [(65_000, "full.png"), (200, "mask.png"), (4_000, "camera.png"), (4_095, "other.png")]:
        deep = np.linspace(0, top, 30).astype(np.uint16).reshape(6, 5)
        decode(encode(Image.fromarray(deep)), name)
    assert [record.args[:2] for record in caplog.records] == [("camera.png", 4_000)]


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


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
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
        (b"no image at all", "not an image"),
        (b"\n<!DOCTYPE html><html><title>404</title></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
        (encode(Image.fromarray(RGB[..., 0].astype(np.float32) / 255), "TIFF"), "floating-point values"),
        (encode(Image.fromarray(RGB[..., 0].astype(np.int32) + 70_000), "TIFF"), "more than 16 bits"),
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
    for format in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000"):
        whole = np.frombuffer(encode(Image.fromarray(RGB), format, exif=exif), np.uint8)
        for _ in range(100):
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
