"""The bytes of an image become the RGB that a viewer shows, whatever their mode and orientation."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from kdlib.data import BadImageError
from kdlib.data.base import decode

CORNER = np.zeros((24, 32, 3), dtype=np.uint8)
CORNER[:8, :8] = (255, 128, 0)  # one corner of a wide image: its place tells how it was turned


def stored(image, format: str = "PNG", orientation: int | None = None, **options) -> bytes:
    buffer = io.BytesIO()
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_decode__an_image_stands_upright(orientation, format):
    found, expected = decode(stored(CORNER, format, orientation), "name"), decode(stored(CORNER, format), "name")
    expected.getexif()[0x0112] = orientation
    expected = ImageOps.exif_transpose(expected)
    assert found.size == expected.size and found.tobytes() == expected.tobytes()


def test_decode__a_reduced_jpeg_keeps_its_sides_and_its_orientation():
    content = stored(np.kron(CORNER, np.ones((8, 8, 1), dtype=np.uint8)), "JPEG", 6)
    assert decode(content, "name", least=24).size == (24, 32)
    assert np.asarray(decode(content, "name", least=24))[0, -1, 0] > 200  # the corner is at the top right now


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_decode__grey_of_16_bits_is_scaled_to_8(format):
    grey = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    found = np.asarray(decode(stored(grey, format), "name"))
    assert found.shape == (8, 8, 3)
    assert np.abs(found[..., 0] - grey / 257.0).max() < 1


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_decode__32_bits_are_refused_since_their_white_is_unknown(dtype):
    with pytest.raises(BadImageError, match=r"name: .*32 bits a pixel, whose white is not defined"):
        decode(stored(np.zeros((8, 8), dtype), "TIFF"), "name")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_decode__what_is_transparent_is_white(mode):
    """The colour of a transparent pixel is what a program left there: no viewer shows it."""
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    found = decode(stored(image.convert(mode)), "name")
    assert (found.getpixel((0, 0)), found.getpixel((1, 0))) == ((255, 255, 255), (0, 0, 0))


@pytest.mark.parametrize(
    ("mode", "colour", "options", "expected"),
    [
        ("RGBA", (255, 0, 0, 128), {}, (255, 127, 127)),
        ("RGB", (1, 2, 3), {"transparency": (1, 2, 3)}, (255, 255, 255)),
        ("L", 7, {"transparency": 7}, (255, 255, 255)),
        ("1", 1, {}, (255, 255, 255)),
        ("L", 100, {"format": "JPEG", "exif": b"Exif\x00\x00garbage"}, (100, 100, 100)),
        ("L", 100, {"format": "JPEG", "exif": b"Exif\x00\x00MM\x00*\x00\x00\xff\xff"}, (100, 100, 100)),
        ("CMYK", (0, 255, 255, 0), {"format": "TIFF"}, (255, 0, 0)),
        ("CMYK", (0, 255, 255, 0), {"format": "JPEG"}, (254, 0, 0)),
        ("YCbCr", (76, 85, 255), {"format": "JPEG"}, (254, 0, 0)),
    ],
)
def test_decode__every_mode_has_its_colours_also_with_damaged_exif(mode, colour, options, expected):
    found = decode(stored(Image.new(mode, (16, 16), colour), **options), "name").getpixel((0, 0))
    assert np.abs(np.subtract(found, expected)).max() <= 3


@pytest.mark.parametrize("content", [stored(CORNER, "JPEG")[:400], b"<html>404</html>", b""])
def test_decode__a_broken_image_is_an_error_that_names_it(content):
    with pytest.raises(BadImageError, match=r"photos/a\.jpg: not a readable image"):
        decode(content, "photos/a.jpg")
