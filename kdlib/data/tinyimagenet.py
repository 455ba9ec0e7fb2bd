"""Tiny ImageNet, with as many classes as wnids.txt names: train/ is cut into ``fit`` and ``dev``, val/ is ``test``."""

import re
from os.path import basename
from pathlib import Path

import numpy as np

from kdlib.data.base import Dataset
from kdlib.data.files import DataError, by_hash, in_classes, is_image, left_out, place, scan, text_lines

FOLDER, DEV_SHARE, ANNOTATIONS = "tiny-imagenet-200", 0.1, "val/val_annotations.txt"


def load(root: str | Path, split: str, on_missing: str = "error") -> Dataset:
    """In each class the 10 % of training images with the smallest SHA-1 of the file name are dev, at least one.

    Images lie anywhere below train/<wnid>/; below val/ beside val_annotations.txt, or in class folders as in train/.
    """
    top = place(root, FOLDER, "wnids.txt")
    wnids = [wnid for _, line in text_lines(top / "wnids.txt") for wnid in line.split()]
    if twice := sorted({wnid for wnid in wnids if wnids.count(wnid) > 1}):
        raise DataError(f"{top / 'wnids.txt'} names a class twice: {', '.join(twice)}. Take one of the two out.")
    if split == "test" and (top / ANNOTATIONS).exists():
        rows, rest = _annotated(top, wnids, on_missing)
    else:
        part = "val" if split == "test" else "train"
        images, rest = in_classes(top, part, wnids)
        rest += left_out(top, [(f"{part}/{wnid}", "has no image") for wnid in wnids if not images[wnid]], on_missing)
        rows = [(path, label) for label, wnid in enumerate(wnids) for path in _part(images[wnid], split)]
    lines = text_lines(top / "words.txt") if (top / "words.txt").exists() else []
    words = dict(line.split("\t", 1) for _, line in lines if "\t" in line)
    names = [words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    title = "Tiny ImageNet" if all(re.fullmatch(r"n\d{8}", wnid) for wnid in wnids) else top.name
    # An official name says the class or the split; another needs its folder to be the image's own.
    official = [basename(path).startswith((f"{wnids[label]}_", "val_")) for path, label in rows]
    ids = tuple(basename(path) if named else path for named, (path, _) in zip(official, rows, strict=True))
    paths, labels = tuple(str(top / path) for path, _ in rows), np.array([label for _, label in rows], dtype=np.int64)
    left = () if split == "dev" else tuple(rest)
    return Dataset("tinyimagenet", split, ids, paths, labels, tuple(names), left_out=left, title=title)


def _part(paths: list[str], split: str) -> list[str]:
    """The images of one class that belong to a split."""
    dev = set(by_hash(paths, basename)[: max(1, round(DEV_SHARE * len(paths)))] if len(paths) > 1 else ())
    return [path for path in paths if split == "test" or (path in dev) == (split == "dev")]


def _annotated(top: Path, wnids: list[str], on_missing: str) -> tuple[list, list]:
    """(image, label) in the order of val_annotations.txt, wherever below val/ the images lie; and what is not used."""
    files, labels = [f"val/{name}" for name in scan(top / "val")], {}
    there = {basename(path): path for path in reversed(files) if is_image(path)}
    for number, line in text_lines(top / ANNOTATIONS):
        name, wnid = [*line.split("\t"), ""][:2]
        if wnid not in wnids or name in labels:
            reason = f"{name} is there already" if name in labels else f"no class of wnids.txt in {line!r}"
            raise DataError(f"{top / ANNOTATIONS}, line {number}: {reason}. Correct the line.")
        labels[name] = wnids.index(wnid)
    wrong = [(name, "is not in val/") for name in labels if name not in there]
    wrong += [(there[name], "has no line") for name in sorted(there.keys() - labels.keys())]
    rest = [(path, "is not in the annotations") for path in sorted({*files} - {*there.values(), ANNOTATIONS})]
    rest += left_out(top / ANNOTATIONS, wrong, on_missing)
    return [(there[name], label) for name, label in labels.items() if name in there], rest
