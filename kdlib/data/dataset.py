"""What every dataset looks like to the rest of the package: images, ids, and labels or captions."""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, UnidentifiedImageError

from kdlib.data.tree import Tree

SPLITS = ("fit", "dev", "test")
TEXT_BYTES = 100 * 10**6  # the largest file of classes or labels that is read
IMAGE_BYTES = 200 * 10**6  # the largest image file that is read
ORIENTATION = 0x0112  # the EXIF tag
# EXIF orientation -> the transposition that turns the stored image upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class DataError(Exception):
    """Something is wrong with the data on disk; the message names the file and the remedy."""


class BadImageError(DataError):
    """One image that cannot be decoded."""


def decode(content: bytes, name: str, least: int = 0) -> Image.Image:
    """Decode ``content`` to an upright RGB image; greyscale (16 bits too), palette and CMYK are converted.

    With ``least`` a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as no side falls below ``least``
    pixels; this saves most of the time for a large one. Raises BadImageError when the bytes are no image or end too
    early, and for pixels of 32 bits, whose range is not defined.
    """
    try:
        image = Image.open(io.BytesIO(content))
        if least:
            image.draft(None, (least, least))
        image.load()  # a truncated file fails here
        if image.mode in ("I", "F"):
            raise BadImageError(f"{name}: 32 bits a pixel, whose white is not defined; save it with 8 or 16 bits")
        turn = UPRIGHT.get(_orientation(image))
        if image.mode.startswith("I;16"):  # convert() would cut all above 255 to white
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        image = image.convert("RGB")
        return image if turn is None else image.transpose(turn)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise BadImageError(f"{name}: not a readable image ({error})") from error


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 where there is none; damaged EXIF leaves an image as it is."""
    if not {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"} & set(image.info):
        return 1
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # whatever a parser makes of damaged bytes: the pixels are whole
        return 1


@dataclass(frozen=True)
class Images(Sequence):
    """The images of a split, decoded when they are asked for."""

    tree: Tree
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> Image.Image:
        return self.at_least(row, 0)

    def at_least(self, row: int, least: int) -> Image.Image:
        """Image ``row``; a JPEG may be reduced while its sides stay at ``least`` pixels or more, see :func:`decode`."""
        name = f"{self.tree.where}: {self.names[row]}"
        try:
            content = self.tree.read(self.names[row], IMAGE_BYTES)
        except FileNotFoundError:
            raise  # it was there when the split was read
        except OSError as error:
            raise BadImageError(f"{name}: cannot be read ({error})") from error
        return decode(content, name, least)


@dataclass(frozen=True)
class Dataset:
    """One split of one data set. It knows nothing of teachers.

    ``labels`` (int64, one an image) belong to classification sets; ``captions`` (up to 5 an image) and
    ``categories`` (indices into ``category_names``, possibly none) to captioned ones.
    """

    name: str
    split: str
    tree: Tree
    ids: tuple[str, ...]
    image_names: tuple[str, ...]
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    captions: tuple[tuple[str, ...], ...] | None = None
    categories: tuple[tuple[int, ...], ...] | None = None
    category_names: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()  # (image that is not here, the same image in another split)
    _fingerprint: list = field(default_factory=list, repr=False, compare=False)

    def __post_init__(self):
        if not self.ids:
            raise DataError(
                f"{self.tree.where}: the split '{self.split}' of {self.name} is empty. "
                "Check that the archive was extracted completely."
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def images(self) -> Images:
        """The images in the order of ``ids``, decoded when they are asked for."""
        return Images(self.tree, self.image_names)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the content of every image and its annotations; the same for a folder and its zip."""
        if not self._fingerprint:
            content = {
                "name": self.name,
                "split": self.split,
                "ids": self.ids,
                "files": self.tree.checksums(self.image_names),
                "labels": None if self.labels is None else self.labels.tolist(),
                "class_names": self.class_names,
                "captions": self.captions,
                "categories": self.categories,
                "category_names": self.category_names,
            }
            self._fingerprint.append(hashlib.sha256(json.dumps(content).encode()).hexdigest())
        return self._fingerprint[0]


def text_lines(tree: Tree, name: str) -> list[tuple[int, str]]:
    """(number, line) of a text file's lines that are not blank. Raises DataError with the line that is not UTF-8."""
    lines = []
    for number, line in enumerate(tree.read(name, TEXT_BYTES).removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        try:
            lines.append((number, line.decode()))
        except UnicodeDecodeError as error:
            raise DataError(
                f"{tree.where}: {name}, line {number}: not UTF-8 text ({line[:40]!r}). Save the file as UTF-8."
            ) from error
    return [(number, line) for number, line in lines if line.strip()]


def sha1(text: str) -> str:
    """SHA-1 of a text, in hex."""
    return hashlib.sha1(text.encode()).hexdigest()


def hashed_dev(names: Sequence[str], count: int) -> set[str]:
    """The ``count`` names with the smallest SHA-1: a dev split that no order or seed can move."""
    return set(sorted(names, key=sha1)[:count])
