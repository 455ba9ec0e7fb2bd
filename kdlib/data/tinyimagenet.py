"""Tiny ImageNet in its official layout: 200 classes (here: as many as wnids.txt names), 64 x 64 JPEGs.

train/<wnid>/images/*.JPEG is cut into ``fit`` and ``dev``; val/ with val_annotations.txt is ``test``.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np

from kdlib.data.dataset import DataError, Dataset, hashed_dev, text_lines
from kdlib.data.tree import Tree

FOLDER = "tiny-imagenet-200"
DEV_SHARE = 0.1


def load(root: str | Path, split: str) -> Dataset:
    """One of the splits fit, dev, test. ``root``: the folder, the zip, or a folder that holds either.

    Classes are in the order of wnids.txt. In each class the 10 % of training images with the smallest
    SHA-1 of the file name are dev (at least one). Raises DataError with the file and the remedy.
    """
    tree = Tree(root, FOLDER)
    if not tree.exists("wnids.txt"):
        raise DataError(
            f"{tree.where}: no Tiny ImageNet here (wnids.txt is missing). Give the folder or zip archive of "
            f"{FOLDER}, or run 'kdlib data get tinyimagenet'."
        )
    wnids = _wnids(tree)
    rows = _train_rows(tree, wnids, split) if split in ("fit", "dev") else _test_rows(tree, wnids)
    return Dataset(
        name="tinyimagenet",
        split=split,
        tree=tree,
        ids=tuple(name.rsplit("/", 1)[1] for name, _ in rows),
        image_names=tuple(name for name, _ in rows),
        labels=np.array([label for _, label in rows], dtype=np.int64),
        class_names=tuple(_class_names(tree, wnids)),
    )


def _wnids(tree: Tree) -> list[str]:
    line_of: dict[str, int] = {}
    for number, line in text_lines(tree, "wnids.txt"):
        for wnid in line.split():
            if wnid in line_of:
                raise DataError(
                    f"{tree.where}: wnids.txt, line {number}: the class {wnid} is there already, in line "
                    f"{line_of[wnid]}. Take one of the two out."
                )
            line_of[wnid] = number
    return list(line_of)


def _train_rows(tree: Tree, wnids: list[str], split: str) -> list[tuple[str, int]]:
    by_class = defaultdict(list)
    for name in tree.below("train"):
        parts = name.split("/")
        if len(parts) == 4 and parts[2] == "images" and is_image(parts[3]):
            by_class[parts[1]].append(name)
    empty = [wnid for wnid in wnids if not by_class[wnid]]
    if empty:
        raise DataError(
            f"{tree.where}: {len(empty)} classes of wnids.txt have no images in train/<wnid>/images: "
            f"{', '.join(empty[:5])}. Extract the archive again, or take the classes out of wnids.txt."
        )
    rows = []
    for label, wnid in enumerate(wnids):
        files = {name.rsplit("/", 1)[1]: name for name in by_class[wnid]}
        dev = hashed_dev(list(files), max(1, round(DEV_SHARE * len(files))) if len(files) > 1 else 0)
        rows += [(name, label) for file, name in files.items() if (file in dev) == (split == "dev")]
    return rows


def is_image(file: str) -> bool:
    """Whether a file's name is that of an image: folders of images also hold files like .DS_Store."""
    return not file.startswith(".") and file.lower().endswith((".jpeg", ".jpg", ".png"))


def _test_rows(tree: Tree, wnids: list[str]) -> list[tuple[str, int]]:
    where = "val/val_annotations.txt"
    if not tree.exists(where):
        raise DataError(
            f"{tree.where}: {where} is missing, and the validation images have no other labels. "
            "Extract the archive again."
        )
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    rows: dict[str, tuple[int, int]] = {}  # image -> (label, line)
    for number, line in text_lines(tree, where):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in label_of:
            raise DataError(f"{tree.where}: {where}, line {number}: no class of wnids.txt in {line!r}.")
        name = f"val/images/{fields[0]}"
        if name in rows:
            raise DataError(
                f"{tree.where}: {where}, line {number}: the image {fields[0]} is there already, in line "
                f"{rows[name][1]}. Take one of the two out; it would be scored twice."
            )
        rows[name] = (label_of[fields[1]], number)
    present = set(tree.below("val/images"))
    absent = [f"{name} (line {number})" for name, (_, number) in rows.items() if name not in present]
    if absent:
        raise DataError(
            f"{tree.where}: {where} names {len(absent)} images that are not there: {', '.join(absent[:5])}. "
            "Extract the archive again."
        )
    unnamed = sorted(name for name in present - set(rows) if is_image(name.rsplit("/", 1)[1]))
    if unnamed:
        raise DataError(
            f"{tree.where}: {where} has no line for {len(unnamed)} images of val/images: {', '.join(unnamed[:5])}. "
            "Extract the archive again, or take these images out."
        )
    return [(name, label) for name, (label, _) in rows.items()]


def _class_names(tree: Tree, wnids: list[str]) -> list[str]:
    if not tree.exists("words.txt"):
        return wnids
    words = dict(line.split("\t", 1) for _, line in text_lines(tree, "words.txt") if "\t" in line)
    return [words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
