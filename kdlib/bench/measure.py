"""What every bench needs: its setting, calls measured in turns, and the row of a result."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from kdlib.files import runs_root


@dataclass(frozen=True)
class Setting:
    """Where images come from, and with how many threads: 'shapes' draws them, a folder holds real ones."""

    data_root: str = "shapes"
    threads: int = psutil.cpu_count(logical=False) or 1
    whole_grid: bool = False

    @property
    def images_words(self) -> str:
        """What the images are, for a table."""
        return "drawn shapes" if self.data_root == "shapes" else "real images"

    @property
    def scratch(self) -> Path:
        """A folder for checkpoints, images and stores of the benches."""
        folder = runs_root() / "bench"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@dataclass(frozen=True)
class Row:
    """``ratio`` of what is measured to what it is compared with. It should be at least (``at_most``: at most) ``bar``.

    ``ours`` and ``theirs`` are in ``unit``.
    """

    what: str
    against: str
    ratio: float
    bar: float | None
    ours: float
    theirs: float
    unit: str
    at_most: bool = False
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the ratio is on the right side of its bar; True without one."""
        if self.bar is None:
            return True
        return self.ratio <= self.bar if self.at_most else self.ratio >= self.bar

    def __str__(self) -> str:
        bar = "" if self.bar is None else f" (bar: at {'most' if self.at_most else 'least'} {self.bar:g})"
        met = "" if self.met else "  NOT MET"
        return (
            f"{self.ratio:8.2f}{bar}{met}  {self.what}, against {self.against}: "
            f"{self.ours:.4g} and {self.theirs:.4g} {self.unit}{'; ' + self.note if self.note else ''}"
        )


def seconds(call: Callable) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def in_turns(first: Callable, second: Callable, rounds: int = 5) -> tuple[float, float]:
    """Median seconds of two calls that take turns, after one of each that warms up."""
    first(), second()
    pairs = [(seconds(first), seconds(second)) for _ in range(rounds)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)
