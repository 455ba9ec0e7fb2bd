"""Images to distil from that are never scored: a folder or zip of any images, or more drawn ones."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from kdlib.data import coco, shapes, tinyimagenet
from kdlib.data.dataset import DataError, Dataset
from kdlib.data.splits import take
from kdlib.data.tree import Tree
from kdlib.files import digest, runs_root

DRAWN, MOST = "drawn:", 100_000
SEED = 2  # the embedded study's data have seed 0, the images that its stand-ins were trained on seed 1
SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
CAPTIONS = "captions.json"  # beside the images: {"folder/name.jpg": ["a caption", ...], ...}
PREFIX = "extra/"  # of their ids, so that none is an id of the data set


def load(given: str, first: Dataset) -> Dataset:
    """The extra images of a configuration. ``first``: its split fit, whose kind of annotation they get.

    ``given``: 'drawn:20000' for so many drawn images with labels or captions; or a folder or zip of images, which have
    captions where it holds captions.json and never have labels. Raises DataError with the remedy.
    """
    return _drawn(given, first) if given.startswith(DRAWN) else _gathered(given, first)


def _drawn(given: str, first: Dataset) -> Dataset:
    number = given.removeprefix(DRAWN)
    if not number.isdecimal() or not 2 <= int(number) <= MOST:
        raise DataError(f"extra_images is '{given}'; write 'drawn:20000' for 20,000 drawn images, up to 100,000.")
    spec = spec_of(int(number), first.captions is not None)
    read = coco.load if first.captions is not None else tinyimagenet.load
    fit, dev = (read(shapes.ensure(spec, folder_of(spec)), split) for split in ("fit", "dev"))

    def both(name: str) -> tuple | None:
        return None if getattr(fit, name) is None else (*getattr(fit, name), *getattr(dev, name))

    alike = fit.class_names == first.class_names  # drawn classes say nothing of another data set's
    whole = replace(
        fit,
        split="extra",
        ids=tuple(PREFIX + name for name in both("ids")),
        image_names=both("image_names"),
        labels=np.array(both("labels")) if fit.labels is not None and alike else None,
        captions=both("captions"),
        categories=both("categories"),
        _fingerprint=[],
    )
    return take(whole, range(int(number)))


def spec_of(count: int, scenes: bool) -> shapes.ShapesSpec:
    """What to draw for at least ``count`` images: scenes with captions, or single objects with labels."""
    classes = len(shapes.OUTLINES) * len(shapes.FILLS)
    each = max(2, -(-count // classes))  # of one alone none would be left for dev, which is read too
    return shapes.ShapesSpec(SEED, 0 if scenes else each, 0, count if scenes else 0, 0)


def folder_of(spec: shapes.ShapesSpec) -> Path:
    """The folder of the drawn images: runs/data/drawn-<digest>."""
    return runs_root() / "data" / f"drawn-{digest(spec.__dict__)[:8]}"


def _gathered(given: str, first: Dataset) -> Dataset:
    tree = Tree(given, "")
    try:
        names = [name for name in tree.below("") if name.lower().endswith(SUFFIXES)]
    except OSError as error:
        raise DataError(f"extra_images: {error}") from error
    names = [name for name in names if not name.rsplit("/", 1)[-1].startswith(".")]
    if not names:
        raise DataError(
            f"extra_images: there are no images in {given}. Give a folder or a zip archive with files that end in "
            f"{', '.join(SUFFIXES)}, or 'drawn:20000'."
        )
    return Dataset(
        name=first.name,
        split="extra",
        tree=tree,
        ids=tuple(PREFIX + name for name in names),
        image_names=tuple(names),
        captions=_captions(tree, names) if first.captions is not None else None,
    )


def _captions(tree: Tree, names: list[str]) -> tuple[tuple[str, ...], ...] | None:
    """The captions of each image from captions.json; None where there is no such file."""
    if not tree.exists(CAPTIONS):
        return None
    try:
        known = json.loads(tree.read(CAPTIONS))
        lists = [known.get(name, []) for name in names]
        if other := [entry for entry in lists if not isinstance(entry, list)]:
            raise TypeError(f"{str(other[0])[:60]!r} is no list of captions")
    except (ValueError, RecursionError, AttributeError, TypeError) as error:
        raise DataError(
            f'{tree.where}: {CAPTIONS} is not of the form {{"image.jpg": ["a caption"]}} ({error}).'
        ) from error
    found = tuple(tuple(entry[: coco.CAPTIONS]) for entry in lists)
    silent = [name for name, texts in zip(names, found, strict=True) if not texts]
    wrong = [name for name, texts in zip(names, found, strict=True) if not all(map(_is_caption, texts))]
    for which, what in ((silent, "no caption"), (wrong, "a caption that is blank, no text, or has half a character")):
        if which:
            raise DataError(
                f"{tree.where}: {len(which)} images have {what} in {CAPTIONS}: {', '.join(which[:5])}. Add a list of "
                "texts for each, or take the file away; then all are taken without captions."
            )
    return found


def _is_caption(text: object) -> bool:
    """Whether it is a text with more than spaces and without a lone surrogate, which no tokenizer takes."""
    return isinstance(text, str) and bool(text.strip()) and not any("\ud800" <= letter <= "\udfff" for letter in text)
