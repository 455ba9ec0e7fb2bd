"""Data sets by name. Another one: a module with ``load(root, split) -> Dataset`` and a line below."""

from pathlib import Path

from kdlib.data import coco, tinyimagenet
from kdlib.data.dataset import SPLITS, BadImageError, DataError, Dataset
from kdlib.registry import Registry

DATASETS = Registry("dataset", {"tinyimagenet": tinyimagenet.load, "coco": coco.load})

__all__ = ["DATASETS", "SPLITS", "BadImageError", "DataError", "Dataset", "load"]


def load(name: str, root: str | Path, split: str) -> Dataset:
    """``split`` (fit, dev or test) of data set ``name`` below ``root``; 'shapes' is the embedded data."""
    if split not in SPLITS:
        raise ValueError(f"There is no split '{split}'; the splits are {', '.join(SPLITS)}.")
    read = DATASETS[name]  # an unknown name is an error before anything is drawn
    if str(root) == "shapes":
        from kdlib.data import shapes

        root = shapes.ensure()
    return read(root, split)
