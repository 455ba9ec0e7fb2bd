"""Everything that a run would refuse in a data set, found at once and before anything is built."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kdlib import data
from kdlib.data import splits
from kdlib.data.dataset import SPLITS, BadImageError, DataError, Dataset
from kdlib.progress import Progress

AHEAD = 256  # images that are decoded between two lines of progress


@dataclass(frozen=True)
class Finding:
    """One line on a data set. ``remedy`` says what lets a run go on; '' where there is nothing to mend."""

    text: str
    remedy: str = ""


UNREADABLE = "Replace it, or run with on_bad_image: skip, which leaves it out and counts it."
TWICE = "Take one of the two out, or run with on_overlap: drop, which trains without it and names it in each result."
MEND = "Mend it; no run goes on without."


def check(name: str, root: str | Path) -> Iterator[Finding]:
    """Read data set ``name`` below ``root`` as runs do: every split, every image, and each split against the others.

    Raises KeyError for an unknown name, before anything is read or drawn.
    """
    data.DATASETS[name]
    loaded: dict[str, Dataset] = {}
    for split in SPLITS:
        try:
            loaded[split] = dataset = data.load(name, root, split)
            yield Finding(f"{split}: {len(dataset)} images, fingerprint {dataset.fingerprint[:12]}")
        except (DataError, OSError) as error:
            loaded.pop(split, None)
            yield Finding(f"{split}: {error}", MEND)
            continue
        for bad in unreadable(dataset):
            yield Finding(bad, UNREADABLE)
        for image, twin in splits.duplicates(dataset):
            yield Finding(f"{split}: {image} and {twin} are the same image; both are used")
    for split, twins in splits.overlaps(loaded).items():
        for image, twin in twins:
            yield Finding(f"{split}: {image} is also in another split, as {twin}", TWICE)


def unreadable(dataset: Dataset) -> Iterator[str]:
    """What is wrong with each image that cannot be decoded."""

    def bad(row: int) -> str | None:
        try:
            dataset.images[row]
        except BadImageError as error:
            return str(error)

    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        Progress(f"images of {dataset.name}/{dataset.split}", len(dataset)) as bar,
    ):
        for start in range(0, len(dataset), AHEAD):
            rows = range(start, min(start + AHEAD, len(dataset)))
            yield from filter(None, pool.map(bad, rows))
            bar.update(rows.stop)
