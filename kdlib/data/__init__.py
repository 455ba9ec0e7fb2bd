"""Data sets by name. Another one: a function ``(root, split) -> Dataset``, used as 'package.module:function'."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from kdlib.config import RunConfig
from kdlib.data import coco, folder, shapes, tinyimagenet
from kdlib.data.base import SPLITS, BadImageError, Dataset, separate
from kdlib.data.files import DataError, by_hash
from kdlib.utils import find

EXTRA_SEED = 2  # the demo study's data have seed 0, the images that the toy teachers were trained on seed 1
DATASETS: dict[str, Callable] = {"tinyimagenet": tinyimagenet.load, "coco": coco.load, "folder": folder.load}

__all__ = [
    "DATASETS", "SPLITS", "BadImageError", "DataError", "Dataset", "counts", "load", "open_data", "separate", "summary",
]  # fmt: skip


def load(name: str, root: str | Path, split: str, on_missing: str = "error") -> Dataset:
    """``split`` (fit, dev or test) of data set ``name`` below ``root``; 'shapes' is the synthetic data."""
    if split not in SPLITS:
        raise ValueError(f"There is no split '{split}'; the splits are {', '.join(SPLITS)}.")
    read = find(DATASETS, name, "data set")
    if read not in (tinyimagenet.load, coco.load):
        return read(root, split)
    return read(shapes.ensure() if str(root) == "shapes" else root, split, on_missing)


def open_data(config: RunConfig) -> dict[str, Dataset]:
    """The splits that a run reads, no image in two of them; with extra images also 'train', fit and then those."""
    read = partial(load, config.dataset, config.data_root, on_missing=config.on_missing)
    splits = {"fit": read(split="fit")}
    if config.train_limit:
        ids = splits["fit"].ids
        chosen = set(by_hash(ids, "train_limit/{}".format)[: config.train_limit])
        splits["fit"] = splits["fit"].take(row for row, name in enumerate(ids) if name in chosen)
    if config.score_on == "dev" or splits["fit"].labels is not None or config.cooldown > 0:
        splits["dev"] = read(split="dev")
    if config.score_on == "test":
        splits["test"] = read(split="test")
    if config.extra_images:
        splits["extra"] = _extra(config.extra_images, splits["fit"], config.on_missing)
    splits = separate(splits, config.on_overlap)
    if more := splits.pop("extra", None):
        splits["train"] = splits["fit"].followed_by(more, split="train", left_out=more.left_out)
    return splits


def counts(splits: dict[str, Dataset]) -> dict[str, dict]:
    """Of each split the images, by suffix and by class, and what is left out, by reason and the first of it."""
    found = {}
    for name, split in splits.items():
        found[name] = {
            "images": len(split),
            "by_suffix": dict(Counter(Path(path).suffix.lower() for path in split.paths)),
            "left_out": len(split.left_out),
            "left_out_by_reason": dict(Counter(reason.split(",")[0] for _, reason in split.left_out)),
            "left_out_first": [list(pair) for pair in split.left_out[:20]],
        }
        if split.labels is not None:
            names = [*split.class_names, "unknown"]  # -1 is the last one
            own = Counter(names[label] for label in split.labels)
            found[name]["by_class"] = dict.fromkeys(split.class_names, 0) | own
    return found


def summary(splits: dict[str, Dataset]) -> str:
    """The :func:`counts` in words: a line for each split, and for each reason for which something is left out."""
    lines = []
    for name, count in counts(splits).items():
        parts = [f"{number:,} {suffix or 'without suffix'}" for suffix, number in count["by_suffix"].items()]
        line = f"{name}: {count['images']:,} images ({', '.join(parts)})"
        if by_class := count.get("by_class"):
            least, most = min(by_class, key=by_class.get), max(by_class, key=by_class.get)
            spread = f" ({least}) to {by_class[most]:,} ({most})" if by_class[most] > by_class[least] else " each"
            line += f", {len(by_class)} classes of {by_class[least]:,}{spread}"
        lines.append(f"{line}, {count['left_out']:,} left out")
        for reason, number in count["left_out_by_reason"].items():
            places = [place for place, why in splits[name].left_out if why.split(",")[0] == reason][:5]
            lines.append(f"  {reason}: {number:,} ({', '.join(places)}{', ...' if number > 5 else ''})")
    return "\n".join(lines)


def _extra(given: str, first: Dataset, on_missing: str) -> Dataset:
    """A folder of images, or 'shapes:20000', which have captions or labels as ``first`` has, the split fit."""
    if not given.startswith("shapes"):
        return folder.loose(Path(given), first, on_missing)
    count = int(given[7:]) if given[7:].isdecimal() else 0
    if not 2 <= count <= 100_000:
        raise DataError(f"extra_images is '{given}'. Write 'shapes:20000' for 20,000 synthetic images, up to 100,000.")
    scenes = first.captions is not None
    each = 0 if scenes else max(2, -(-count // len(shapes.CLASSES)))  # of one alone none would be left for dev
    root = shapes.ensure(shapes.ShapesSpec(EXTRA_SEED, each, 0, count if scenes else 0, 0))
    fit, dev = ((coco if scenes else tinyimagenet).load(root, split) for split in ("fit", "dev"))
    whole = fit.followed_by(dev).take(range(count))
    known = whole.labels if whole.class_names == first.class_names else None  # else they say nothing of its classes
    return replace(whole, split="extra", ids=[f"extra/{name}" for name in whole.ids], labels=known)
