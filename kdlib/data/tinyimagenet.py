"""Tiny ImageNet, with as many classes as wnids.txt names: train/ is cut into ``fit`` and ``dev``, val/ is ``test``."""

import re
from os.path import basename
from pathlib import Path

from kdlib.data.base import Dataset
from kdlib.data.files import SUFFIXES, by_hash, in_classes, left_out, place, reading, scan

FOLDER, DEV_SHARE, ANNOTATIONS = "tiny-imagenet-200", 0.1, "val/val_annotations.txt"


def load(root: str | Path, split: str, on_missing: str = "error") -> Dataset:
    """In each class the 10 % of training images with the smallest SHA-1 of the file name are dev, at least one.

    Images lie anywhere below train/<wnid>/; below val/ beside val_annotations.txt, or in class folders as in train/.
    """
    top = place(root, FOLDER, "wnids.txt")
    with reading(top / "wnids.txt") as content:
        wnids = content.split()
    if split == "test" and (top / ANNOTATIONS).exists():
        rows, rest = _annotated(top, wnids, on_missing)
    else:
        part, rows = "val" if split == "test" else "train", []
        images, rest = in_classes(top, part, wnids)
        rest += left_out(top, [(f"{part}/{wnid}", "has no image") for wnid in wnids if not images[wnid]], on_missing)
        for label, wnid in enumerate(wnids):
            count = max(1, round(DEV_SHARE * len(images[wnid]))) if len(images[wnid]) > 1 else 0
            dev = set(by_hash(images[wnid], basename)[:count])
            rows += [(path, label) for path in images[wnid] if split == "test" or (path in dev) == (split == "dev")]
    words = {}
    if (top / "words.txt").exists():
        with reading(top / "words.txt") as content:
            words = dict(line.split("\t", 1) for line in content.splitlines() if "\t" in line)
    names = [words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    title = "Tiny ImageNet" if all(re.fullmatch(r"n\d{8}", wnid) for wnid in wnids) else top.name
    # An official name says the class or the split; another needs its folder to be the image's own.
    official = [basename(path).startswith((f"{wnids[label]}_", "val_")) for path, label in rows]
    ids = [basename(path) if named else path for named, (path, _) in zip(official, rows, strict=True)]
    paths, labels = [str(top / path) for path, _ in rows], [label for _, label in rows]
    left = rest if split != "dev" else ()
    return Dataset("tinyimagenet", split, ids, paths, labels, names, left_out=left, title=title)


def _annotated(top: Path, wnids: list[str], on_missing: str) -> tuple[list, list]:
    """(image, label) in the order of val_annotations.txt, wherever below val/ the images lie; and what is not used."""
    files = [f"val/{name}" for name in scan(top / "val")]
    there = {basename(path): path for path in reversed(files) if path.lower().endswith(SUFFIXES)}
    with reading(top / ANNOTATIONS) as content:
        lines = [line.split("\t") for line in content.splitlines() if line.strip()]
        labels = {name: wnids.index(wnid) for name, wnid, *_ in lines}
    wrong = [(name, "is not in val/") for name in labels if name not in there]
    wrong += [(there[name], "has no line") for name in sorted(there.keys() - labels.keys())]
    rest = [(path, "is not in the annotations") for path in sorted({*files} - {*there.values(), ANNOTATIONS})]
    rest += left_out(top / ANNOTATIONS, wrong, on_missing)
    return [(there[name], label) for name, label in labels.items() if name in there], rest
