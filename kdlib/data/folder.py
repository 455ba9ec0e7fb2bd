"""A folder of images: photos/<class>/*, cut by hash, or photos/{train,val}/<class>/*, where val/ is ``test``."""

from os.path import basename, dirname, splitext
from pathlib import Path

import numpy as np

from kdlib.data.base import Dataset
from kdlib.data.files import DataError, by_hash, in_classes, is_image, scan

DEV_SHARE, TEST_SHARE = 0.1, 0.2


def load(root: str | Path, split: str) -> Dataset:
    """Of each class the images with the smallest SHA-1 of the name are ``test`` (20 %), the next ``dev`` (10 %)."""
    top, images, rest = read(root)
    classes = sorted({name for part in images.values() for name in part})
    rows = [(path, label) for label, name in enumerate(classes) for path in images[split].get(name, ())]
    ids, labels = tuple(path for path, _ in rows), np.array([label for _, label in rows], dtype=np.int64)
    paths, left = tuple(str(top / path) for path in ids), tuple(rest) if split == "fit" else ()
    return Dataset("folder", split, ids, paths, labels, tuple(classes), left_out=left, title=top.name)


def read(root: str | Path) -> tuple[Path, dict[str, dict[str, list[str]]], list]:
    """The folder, {split: {class: paths below it}}, and (path, reason) of what is not used."""
    top = Path(root).expanduser()
    if not top.is_dir():
        raise DataError(f"{top}: there is no such folder. Set data_root to one that holds a folder for each class.")
    inner = [path for path in top.iterdir() if not path.name.startswith(".") and (path.is_dir() or is_image(path.name))]
    if len(inner) == 1 and inner[0].is_dir() and sum(path.is_dir() for path in inner[0].iterdir()) > 1:
        top = inner[0]  # one folder more
    val = next((name for name in ("val", "valid", "validation", "test") if (top / name).is_dir()), "")
    parts = ["train", val] if val and (top / "train").is_dir() else [""]
    found, rest = in_classes(top, parts[0])
    images = {"fit": {}, "dev": {}, "test": {}}
    if len(parts) == 2:
        images["test"], more = in_classes(top, val, list(found))
        rest += more + [(path, f"is beside train and {val}") for path in scan(top) if path.split("/")[0] not in parts]
    for name, paths in found.items():
        order, count = by_hash(paths, basename), len(paths)
        tests = max(1, round(TEST_SHARE * count)) if len(parts) == 1 and count > 1 else 0
        devs = tests + (max(1, round(DEV_SHARE * count)) if count - tests > 1 else 0)
        for split, part in (("test", order[:tests]), ("dev", order[tests:devs]), ("fit", order[devs:])):
            images[split].setdefault(name, sorted(part))
    return top, images, rest


def counts(root: str | Path):
    """A table of the files: split, class, suffix, the reason why they are left out, and how many."""
    import pandas as pd

    _, images, rest = read(root)
    rows = [(split, name, path, "") for split, part in images.items() for name, paths in part.items() for path in paths]
    rows += [("", basename(dirname(path)), path, reason) for path, reason in rest]
    rows = [(split, name, splitext(path)[1].lower(), reason) for split, name, path, reason in rows]
    frame = pd.DataFrame(rows, columns=["split", "class", "suffix", "left_out"])
    return frame.value_counts(sort=False).rename("images").reset_index()
