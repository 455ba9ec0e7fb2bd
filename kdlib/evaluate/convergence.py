"""When a student has converged: twice the images bring nothing that its images of dev could show."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdlib.evaluate.uncertainty import compare


@dataclass(frozen=True)
class Convergence:
    """What 2E epochs bring over E, each cooled down: the difference on dev, its 95 % interval, and the verdict."""

    difference: float
    low: float
    high: float

    @property
    def converged(self) -> bool:
        """Whether the interval includes 0: no gain that could be told from chance, nor a loss."""
        return self.low <= 0 <= self.high

    def __str__(self) -> str:
        verdict = "converged" if self.converged else "still learning" if self.difference > 0 else "past its best"
        return f"{verdict}: {self.difference:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def convergence(
    early: Sequence[float], early_replicates: np.ndarray, late: Sequence[float], late_replicates: np.ndarray
) -> Convergence:
    """The leaf at 2E epochs against the leaf at E, paired on the images of dev.

    ``early``, ``late`` (S,): a score a seed; ``..._replicates`` (S, R): the same on resamples of dev. It is decided on
    dev, since the number of epochs is chosen by it. A small dev sees only large gains: the interval says how large.
    """
    result = compare([("late", "early", late, late_replicates, early, early_replicates)])[0]
    return Convergence(result.difference, result.low, result.high)
