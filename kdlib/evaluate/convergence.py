"""Whether a student has converged: after twice the epochs its score on dev does not differ measurably."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdlib.evaluate.uncertainty import compare


@dataclass(frozen=True)
class Convergence:
    """Score after 2E epochs minus score after E, each with a cooldown, on dev; its 95 % interval and the verdict."""

    difference: float
    low: float
    high: float

    @property
    def converged(self) -> bool:
        """Whether the interval includes 0: neither a gain nor a loss that can be told from chance."""
        return self.low <= 0 <= self.high

    def __str__(self) -> str:
        verdict = "converged" if self.converged else "still learning" if self.difference > 0 else "past its best"
        return f"{verdict}: {self.difference:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def convergence(
    early: Sequence[float], early_replicates: np.ndarray, late: Sequence[float], late_replicates: np.ndarray
) -> Convergence:
    """Compares the scores after 2E epochs (``late``) and after E (``early``), paired on the images of dev.

    ``early``, ``late`` (S,): one score a seed; ``..._replicates`` (S, R): the same on resamples of dev. The split is
    dev, since the result chooses the number of epochs. A small dev shows only large gains; the interval says how large.
    """
    result = compare([("late", "early", late, late_replicates, early, early_replicates)])[0]
    return Convergence(result.difference, result.low, result.high)
