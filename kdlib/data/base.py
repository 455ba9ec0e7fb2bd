"""What every data set looks like to the rest of the package: images, ids, and labels or captions."""

import contextlib
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from kdlib.data.files import DataError, content_hashes, listed
from kdlib.utils import digest

SPLITS = ("fit", "dev", "test")
PRECEDENCE = ("test", "dev", "fit", "extra")  # an image that is in two splits stays in the first of these
ROWS = ("ids", "paths", "labels", "captions", "categories")  # the fields of a Dataset that have a row an image


class BadImageError(DataError):
    """One image that cannot be decoded."""


def decode(content: bytes, name: str, least: int = 0) -> Image.Image:
    """An upright RGB image as a viewer shows it on white; a JPEG may be reduced to sides of ``least`` pixels."""
    try:
        image = Image.open(io.BytesIO(content))
        if least:
            image.draft(None, (least, least))
        image.load()  # a truncated file fails here
        with contextlib.suppress(Exception):  # whatever a parser makes of damaged EXIF: the pixels are whole
            ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # convert() would cut all above 255
        if image.mode in ("I", "F"):
            raise ValueError("32 bits a pixel, whose white is not defined: save it with 8 or 16 bits")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")
    except Exception as error:  # damaged bytes make decoders raise anything
        raise BadImageError(f"{name}: not a readable image ({error})") from error


@dataclass(frozen=True)
class Images(Sequence):
    """The images of a split, decoded when they are asked for; ``at_least(row, side)`` may reduce a JPEG."""

    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int, least: int = 0) -> Image.Image:
        path = self.paths[row]
        if os.path.lexists(path) and not os.access(path, os.R_OK):  # one that is gone is no bad image: a lost disk
            raise BadImageError(f"{path}: a broken link, or no permission to read it")
        return decode(Path(path).read_bytes(), path, least)

    at_least = __getitem__


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of one data set; it knows nothing of teachers. N images, each a file.

    ``labels`` (N,) int64 belong to classification, -1 where unknown; ``captions`` and ``categories`` (indices into
    ``category_names``) to captioned images. ``left_out``: (image or file, reason) of what is there and not used. What
    a reason has after a comma, as the image's twin, does not count as another reason.
    """

    name: str
    split: str
    ids: tuple[str, ...]
    paths: tuple[str, ...]
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    captions: tuple[tuple[str, ...], ...] | None = None
    categories: tuple[tuple[int, ...], ...] | None = None
    category_names: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    title: str = ""

    def __post_init__(self):
        own = self.__dict__
        own["title"] = self.title or self.name
        for field in ("ids", "paths", "class_names", "captions", "categories", "category_names", "left_out"):
            own[field] = own[field] if own[field] is None else tuple(own[field])
        if self.labels is not None:
            own["labels"] = np.asarray(self.labels, dtype=np.int64)
        if not self.ids:
            unused = listed(self.left_out) or "nothing"
            raise DataError(f"{self.title}: the split '{self.split}' is empty; not used: {unused}.")
        counts = {field: len(values) for field, values in self._rows().items()} | {"different ids": len(set(self.ids))}
        if len(set(counts.values())) > 1:
            raise DataError(f"{self.title}: the split '{self.split}' needs one of each for an image: {counts}.")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def images(self) -> Images:
        """The images in the order of ``ids``."""
        return Images(self.paths)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the content of every image and its annotations, wherever the files lie."""
        fields = ("name", "split", "ids", "class_names", "captions", "categories", "category_names")
        labels = None if self.labels is None else self.labels.tolist()
        return digest([content_hashes(self.paths), labels, *(getattr(self, field) for field in fields)])

    def _rows(self) -> dict[str, Sequence]:
        return {field: getattr(self, field) for field in ROWS if getattr(self, field) is not None}

    def take(self, rows: Iterable[int], **changes) -> "Dataset":
        """The same data set with only these rows, in this order."""
        rows = list(rows)
        kept = {field: [values[row] for row in rows] for field, values in self._rows().items()}
        return replace(self, **kept | changes)

    def followed_by(self, extra: "Dataset", **changes) -> "Dataset":
        """These images, then the extra ones, whose label is -1 and whose captions are () where they have none."""
        unknown = {"labels": [-1] * len(extra), "captions": [()] * len(extra), "categories": [()] * len(extra)}
        unknown |= extra._rows()
        return replace(self, **{field: [*values, *unknown[field]] for field, values in self._rows().items()} | changes)


def separate(splits: dict[str, Dataset], on_overlap: str = "error") -> dict[str, Dataset]:
    """No image, by id or content, in two splits: it stays in the first of test, dev, fit and extra that has it."""
    seen, kept, every = {}, {}, []
    for split in sorted(splits, key=PRECEDENCE.index):
        data = splits[split]
        marks = list(zip(data.ids, content_hashes(data.paths), strict=True))
        twins = [seen.get(name) or seen.get(content) for name, content in marks]
        pairs = [(name, f"is in {twin}") for name, twin in zip(data.ids, twins, strict=True) if twin]
        seen = {mark: f"{split}, as {name}" for name, content in marks for mark in (name, content) if mark} | seen
        every += pairs
        if pairs and on_overlap == "drop":
            rows = [row for row, twin in enumerate(twins) if not twin]
            data = data.take(rows, left_out=(*data.left_out, *pairs))
        kept[split] = data
    if every and on_overlap == "error":
        remedy = "Set on_overlap to 'drop', which leaves them out of training and counts them"
        raise DataError(f"{len(every)} images are in two splits: {listed(every)}. {remedy}.")
    return {split: kept[split] for split in splits}
