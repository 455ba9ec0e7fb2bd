"""Data sets by name. Another one: a function ``(root, split) -> Dataset``, used as 'package.module:function'."""

import inspect
from collections.abc import Callable
from pathlib import Path

from kdlib.config import RunConfig
from kdlib.data import coco, extra, folder, shapes, tinyimagenet
from kdlib.data.base import SPLITS, BadImageError, Dataset, separate
from kdlib.data.files import DataError
from kdlib.data.folder import counts
from kdlib.utils import find

DATASETS: dict[str, Callable] = {"tinyimagenet": tinyimagenet.load, "coco": coco.load, "folder": folder.load}

__all__ = ["DATASETS", "SPLITS", "BadImageError", "DataError", "Dataset", "counts", "load", "open_data", "separate"]


def load(name: str, root: str | Path, split: str, on_missing: str = "error") -> Dataset:
    """``split`` (fit, dev or test) of data set ``name`` below ``root``; 'shapes' is the synthetic data."""
    if split not in SPLITS:
        raise ValueError(f"There is no split '{split}'; the splits are {', '.join(SPLITS)}.")
    read = find(DATASETS, name, "data set")  # an unknown name is an error before anything is made
    if str(root) == "shapes" and read in (tinyimagenet.load, coco.load):
        root = shapes.ensure()
    takes = "on_missing" in inspect.signature(read).parameters
    return read(root, split, on_missing) if takes else read(root, split)


def open_data(config: RunConfig) -> dict[str, Dataset]:
    """The splits that a run reads, no image in two of them; with extra images also 'train', fit and then those.

    Captions need dev only with a cooldown, and scores on dev need no test.
    """

    def read(split: str) -> Dataset:
        return load(config.dataset, config.data_root, split, config.on_missing)

    fit = read("fit").limited(config.train_limit)
    dev = config.score_on == "dev" or fit.labels is not None or config.cooldown > 0
    names = [name for name, wanted in (("dev", dev), ("test", config.score_on == "test")) if wanted]
    splits = {"fit": fit} | {name: read(name) for name in names}
    if config.extra_images:
        splits["extra"] = extra.load(config.extra_images, fit, config.on_missing)
    splits = separate(splits, config.on_overlap)
    if more := splits.pop("extra", None):
        splits["train"] = splits["fit"].followed_by(more, split="train", left_out=more.left_out)
    return splits
