"""Own images: photos/<class>/*, cut by hash, or photos/{train,val}/<class>/*, or extra ones without classes."""

from os.path import basename
from pathlib import Path

from kdlib.data import coco
from kdlib.data.base import Dataset
from kdlib.data.files import SUFFIXES, DataError, by_hash, in_classes, left_out, reading, scan

DEV_SHARE, TEST_SHARE = 0.1, 0.2


def load(root: str | Path, split: str) -> Dataset:
    """Of each class the images with the smallest SHA-1 of the name are ``test`` (20 %), the next ``dev`` (10 %)."""
    top = Path(root).expanduser()
    if not top.is_dir():
        raise DataError(f"{top}: there is no such folder. Set data_root to one that holds a folder for each class.")
    inner = [path for path in top.glob("[!.]*") if path.is_dir() or path.name.lower().endswith(SUFFIXES)]
    if len(inner) == 1 and inner[0].is_dir() and sum(path.is_dir() for path in inner[0].iterdir()) > 1:
        top = inner[0]  # one folder more
    val = next((name for name in ("val", "valid", "validation", "test") if (top / name).is_dir()), "")
    cut = not val or not (top / "train").is_dir()
    found, rest = in_classes(top, "" if cut else "train")
    if not cut:
        tests, more = in_classes(top, val, list(found))
        beside = [path for path in scan(top) if path.split("/")[0] not in ("train", val)]
        rest += more + [(path, f"is beside train and {val}") for path in beside]
    ids, labels, classes = [], [], sorted(found)
    for label, name in enumerate(classes):
        order, count = by_hash(found[name], basename), len(found[name])
        test = max(1, round(TEST_SHARE * count)) if cut and count > 1 else 0
        dev = test + (max(1, round(DEV_SHARE * count)) if count - test > 1 else 0)
        parts = {"test": order[:test] if cut else tests[name], "dev": order[test:dev], "fit": order[dev:]}
        ids += sorted(parts[split])
        labels += [label] * len(parts[split])
    paths, left = [str(top / path) for path in ids], rest if split == "fit" else ()
    return Dataset("folder", split, ids, paths, labels, classes, left_out=left, title=top.name)


def loose(root: Path, first: Dataset, on_missing: str) -> Dataset:
    """All images below ``root``, with the captions of captions.json: {"folder/name.jpg": ["a caption", ...], ...}."""
    files, path, captions = scan(root), root / "captions.json", None
    names = [name for name in files if name.lower().endswith(SUFFIXES)]
    rest = [(name, "has no suffix of an image format") for name in files if name not in (*names, path.name)]
    if first.captions is not None and path.exists():
        with reading(path) as record:
            texts = {name: tuple(record.get(name, ())[: coco.CAPTIONS]) for name in names}
        silent = [name for name, own in texts.items() if not own or not all(map(coco.is_caption, own))]
        rest += left_out(path, [(name, "has no caption, or a blank one") for name in silent], on_missing)
        names = [name for name in names if name not in silent]
        captions = [texts[name] for name in names]
    if not names:
        raise DataError(f"extra_images: no image in {root} can be used. Give a folder of images, or 'shapes:20000'.")
    ids, paths = [f"extra/{name}" for name in names], [str(root / name) for name in names]
    return Dataset(first.name, "extra", ids, paths, captions=captions, left_out=rest)
