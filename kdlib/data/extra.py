"""Images to distil from that are never scored: a folder of images, with captions.json or without, or synthetic ones."""

from dataclasses import replace
from pathlib import Path

from kdlib.data import coco, shapes, tinyimagenet
from kdlib.data.base import Dataset
from kdlib.data.files import DataError, is_image, left_out, reading, scan

SEED = 2  # the demo study's data have seed 0, the images that the toy teachers were trained on seed 1
CAPTIONS = "captions.json"  # {"folder/name.jpg": ["a caption", ...], ...}


def load(given: str, first: Dataset, on_missing: str = "error") -> Dataset:
    """The extra images of a configuration: a folder, or 'shapes:20000'. ``first``: the split fit that they go with.

    Synthetic ones have captions where ``first`` has, and labels where it has the same classes.
    """
    if not given.startswith("shapes"):
        return _folder(Path(given).expanduser(), first, on_missing)
    count = int(given[7:]) if given[7:].isdecimal() else 0
    if not 2 <= count <= 100_000:
        raise DataError(f"extra_images is '{given}'. Write 'shapes:20000' for 20,000 synthetic images, up to 100,000.")
    scenes = first.captions is not None
    each = 0 if scenes else max(2, -(-count // len(shapes.CLASSES)))  # of one alone none would be left for dev
    root = shapes.ensure(shapes.ShapesSpec(SEED, each, 0, count if scenes else 0, 0))
    fit, dev = ((coco if scenes else tinyimagenet).load(root, split) for split in ("fit", "dev"))
    whole = fit.followed_by(dev).take(range(count))
    known = whole.labels if whole.class_names == first.class_names else None  # else they say nothing of its classes
    return replace(whole, split="extra", ids=tuple(f"extra/{name}" for name in whole.ids), labels=known)


def _folder(root: Path, first: Dataset, on_missing: str) -> Dataset:
    files, texts = scan(root), None
    names = [name for name in files if is_image(name)]
    rest = [(name, "has no suffix of an image format") for name in sorted({*files} - {*names, CAPTIONS})]
    if first.captions is not None and CAPTIONS in files:
        with reading(root / CAPTIONS) as known:
            if not all(isinstance(entry, list) for entry in known.values()):
                raise ValueError('it is of the form {"folder/image.jpg": ["a caption"]}')
        texts = {name: known[name][: coco.CAPTIONS] for name in names if known.get(name)}
        texts = {name: tuple(every) for name, every in texts.items() if all(map(coco.is_caption, every))}
        silent = [(name, "has no caption, or a blank one") for name in names if name not in texts]
        rest, names = rest + left_out(root / CAPTIONS, silent, on_missing), list(texts)
    if not names:
        raise DataError(f"extra_images: no image in {root} can be used. Give a folder of images, or 'shapes:20000'.")
    ids, paths = tuple(f"extra/{name}" for name in names), tuple(str(root / name) for name in names)
    captions = tuple(texts.values()) if texts else None
    return Dataset(first.name, "extra", ids, paths, captions=captions, left_out=tuple(rest))
