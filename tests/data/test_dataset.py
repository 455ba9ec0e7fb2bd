"""How the bytes of an image become pixels."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from kdlib.data.dataset import ORIENTATION, BadImageError, decode

CORNER = np.zeros((24, 32, 3), dtype=np.uint8)
CORNER[:8, :8] = (255, 128, 0)  # one corner of a wide image: its place tells how it was turned


def stored(array: np.ndarray, format: str = "PNG", orientation: int | None = None, **options) -> bytes:
    buffer = io.BytesIO()
    if orientation is not None:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options["exif"] = exif
    Image.fromarray(array).save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_decode__an_image_stands_upright_as_pillows_own_rule_has_it(orientation, format):
    content = stored(CORNER, format, orientation)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    found = decode(content, "name")
    assert found.size == expected.size and found.tobytes() == expected.tobytes()
    assert (orientation == 1) == (found.tobytes() == Image.open(io.BytesIO(content)).convert("RGB").tobytes())


def test_decode__an_orientation_holds_for_a_reduced_jpeg_too():
    content = stored(np.kron(CORNER, np.ones((8, 8, 1), dtype=np.uint8)), "JPEG", 6)
    assert decode(content, "name", least=24).size == (24, 32)
    assert np.asarray(decode(content, "name", least=24))[0, -1, 0] > 200  # the corner is at the top right now


@pytest.mark.parametrize("exif", [b"Exif\x00\x00garbage", b"Exif\x00\x00MM\x00*\x00\x00\xff\xff", b""])
def test_decode__damaged_exif_leaves_the_image_as_it_is(exif):
    assert decode(stored(CORNER, "JPEG", exif=exif), "name").size == (32, 24)


def test_decode__16_bits_are_scaled_to_8():
    grey = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    found = np.asarray(decode(stored(grey), "name"))
    assert found.shape == (8, 8, 3)
    assert np.abs(found[..., 0] - grey / 257.0).max() < 1


def test_decode__32_bits_are_refused_since_their_white_is_unknown():
    values = np.arange(64, dtype=np.float32).reshape(8, 8)
    with pytest.raises(BadImageError, match=r"name: 32 bits a pixel, whose white is not defined"):
        decode(stored(values, "TIFF"), "name")
