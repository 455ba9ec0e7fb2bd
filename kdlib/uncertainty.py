"""How sure a number is: bootstrap over test images, and paired comparisons with a verdict.

The images of a test set are resampled the same way for every encoder, so that two encoders scored on the same
images are paired replicate by replicate, whatever the score is. Efron and Tibshirani, An Introduction to the
Bootstrap, chapter 13; Holm, Scandinavian Journal of Statistics 6 (1979).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

RESAMPLES, LEVEL = 1000, 0.95
BLOCK = 50  # replicates at a time, where a whole matrix would be large
BETTER, WORSE, OPEN = "better", "worse", "not distinguishable"


@lru_cache(maxsize=4)
def resamples(images: int, count: int = RESAMPLES) -> np.ndarray:
    """(R, N) how often each of N images is in each resample; rows sum to N; a function of its arguments alone."""
    if not 1 <= images < 2**16:
        raise ValueError(f"{images} images cannot be resampled; there must be 1 to 65,535.")
    generator = np.random.default_rng([images, count])
    result = np.empty((count, images), dtype=np.uint16)
    for row in result:
        row[:] = np.bincount(generator.integers(images, size=images), minlength=images)
    result.setflags(write=False)  # it is shared by all that ask for it
    return result


def replicate_means(values: np.ndarray, weights: np.ndarray, owner: np.ndarray | None = None) -> np.ndarray:
    """(R,) mean of per-query values on each resample.

    ``weights`` (R, N) from :func:`resamples`; ``owner`` (M,) the image of each query where queries are captions:
    a caption counts as often as its image, so the captions of an image stay together.
    """
    images = weights.shape[1]
    owner = np.arange(images) if owner is None else owner
    sums = np.bincount(owner, weights=values, minlength=images)
    counts = np.bincount(owner, minlength=images).astype(np.float64)
    blocks = [weights[start : start + BLOCK].astype(np.float64) for start in range(0, len(weights), BLOCK)]
    return np.concatenate([(block @ sums) / (block @ counts) for block in blocks])


def replicate_medians(values: np.ndarray, weights: np.ndarray, owner: np.ndarray | None = None) -> np.ndarray:
    """(R,) median of per-query values on each resample: numpy's, of the values repeated by their weights."""
    owner = np.arange(weights.shape[1]) if owner is None else owner
    order = np.argsort(values, kind="stable")
    ordered, owner = np.asarray(values, dtype=np.float64)[order], owner[order]
    result = []
    for start in range(0, len(weights), BLOCK):
        reached = weights[start : start + BLOCK][:, owner].astype(np.int64).cumsum(axis=1)  # (block, M)
        total = reached[:, -1]
        # With an even number of values the median lies between two of them.
        lower = [np.searchsorted(row, (n + 1) // 2) for row, n in zip(reached, total, strict=True)]
        upper = [np.searchsorted(row, n // 2 + 1) for row, n in zip(reached, total, strict=True)]
        result.append((ordered[lower] + ordered[upper]) / 2)
    return np.concatenate(result)


def interval(replicates: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The percentile interval of a score from its replicates."""
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Summary:
    """A score over seeds: mean, standard deviation over seeds (NaN with one), interval over test images."""

    mean: float
    deviation: float
    low: float
    high: float
    seeds: int

    def text(self, digits: int = 3) -> str:
        """'0.720 ± 0.010 [0.700, 0.740]', without the deviation where there is one seed."""
        spread = f" ± {self.deviation:.{digits}f}" if self.seeds > 1 else ""
        return f"{self.mean:.{digits}f}{spread} [{self.low:.{digits}f}, {self.high:.{digits}f}]"

    def __str__(self) -> str:
        return self.text()


def summarise(values: list[float], replicates: np.ndarray) -> Summary:
    """``values`` one a seed, ``replicates`` (S, R) a line a seed, of the same resamples.

    The interval is that of the mean over seeds: what other test images would do to it.
    """
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return Summary(float(np.mean(values)), deviation, *interval(replicates.mean(axis=0)), len(values))


@dataclass(frozen=True)
class Comparison:
    """a against b: the difference a - b with its interval, p before and after Holm's correction, the verdict on a."""

    name_a: str
    name_b: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    verdict: str


Pair = tuple[str, str, list[float], np.ndarray, list[float], np.ndarray]


def compare(pairs: list[Pair], level: float = LEVEL) -> list[Comparison]:
    """Paired bootstraps of one family, Holm-corrected.

    ``pairs``: (name a, name b, values of a (S,), replicates of a (S, R), values of b, replicates of b). A replicate
    resamples the images of both sides alike, and their seeds too (paired where both have as many), since a verdict
    on a technique must carry the noise of its seeds; with one seed it is the plain paired bootstrap over images.
    With 1,000 replicates p is at least 2 / 1,001: a family of more than 25 leaves no room for a verdict.
    """
    from statsmodels.stats.multitest import multipletests

    if not pairs:
        return []
    drawn = [_difference(*pair[2:]) for pair in pairs]
    p = [_two_sided(replicates) for _, replicates in drawn]
    corrected = multipletests(p, alpha=1 - level, method="holm")[1]
    return [
        Comparison(pair[0], pair[1], difference, *interval(replicates, level), one, float(holm),
                   _verdict(difference, holm, level))
        for pair, (difference, replicates), one, holm in zip(pairs, drawn, p, corrected, strict=True)
    ]  # fmt: skip


def _difference(values_a, replicates_a, values_b, replicates_b) -> tuple[float, np.ndarray]:
    count = replicates_a.shape[1]
    if replicates_b.shape[1] != count:
        raise ValueError(f"{count} and {replicates_b.shape[1]} replicates: the two sides were not resampled alike.")
    generator = np.random.default_rng(0)
    draw_a = _seeds(generator, len(values_a), count)
    draw_b = draw_a if len(values_a) == len(values_b) else _seeds(generator, len(values_b), count)
    replicates = (replicates_a * draw_a).sum(axis=0) - (replicates_b * draw_b).sum(axis=0)
    return float(np.mean(values_a) - np.mean(values_b)), replicates


def _seeds(generator: np.random.Generator, seeds: int, count: int) -> np.ndarray:
    """(S, R) the share of each seed in each replicate."""
    return generator.multinomial(seeds, [1 / seeds] * seeds, size=count).T / seeds


def _two_sided(replicates: np.ndarray) -> float:
    rarer = min((replicates <= 0).sum(), (replicates >= 0).sum())
    return float(min(1.0, 2 * (1 + rarer) / (len(replicates) + 1)))


def _verdict(difference: float, p: float, level: float) -> str:
    if p >= 1 - level or difference == 0:
        return OPEN
    return BETTER if difference > 0 else WORSE
