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


class DataError(Exception):
    """Something is wrong with the data on disk; the message names the file and the remedy."""


class BadImageError(DataError):
    """One image that cannot be decoded."""


def decode(content: bytes, name: str, least: int = 0) -> Image.Image:
    """Decode ``content`` to an RGB image; greyscale, palette and CMYK are converted.

    With ``least`` a JPEG may come at 1/2, 1/4 or 1/8 of its size, as long as no side falls below it, which saves
    most of the decoding of a large one. Raises BadImageError when the bytes are no image or end too early.
    """
    try:
        image = Image.open(io.BytesIO(content))
        if least:
            image.draft(None, (least, least))
        return image.convert("RGB")  # forces a full decode: a truncated file fails here
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise BadImageError(f"{name}: not a readable image ({error})") from error


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
        """Image ``row``, reduced while it is decoded where its sides stay at ``least`` or more; 0 never reduces."""
        return decode(self.tree.read(self.names[row]), f"{self.tree.where}: {self.names[row]}", least)


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


def sha1(text: str) -> str:
    """SHA-1 of a text, in hex."""
    return hashlib.sha1(text.encode()).hexdigest()


def hashed_dev(names: Sequence[str], count: int) -> set[str]:
    """The ``count`` names with the smallest SHA-1: a dev split that no order or seed can move."""
    return set(sorted(names, key=sha1)[:count])
