"""How sure a number is: bootstrap over test images, and paired comparisons with a verdict.

The images of a test set are resampled the same way for every encoder, so that two encoders scored on the same
images are paired replicate by replicate, whatever the score is. Efron and Tibshirani, An Introduction to the
Bootstrap (1993), chapters 13 and 16; Holm, Scandinavian Journal of Statistics 6 (1979).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import ndtri

RESAMPLES = 1000
LEVEL = 0.95  # of an interval
ALPHA = 0.05  # a family of comparisons holds a wrong verdict at most this often
BLOCK = 50  # replicates at a time: 50 x 25,000 captions of cumulated counts are 10 MB
FEW = 20  # images' worth of hits, or of misses: with fewer a percentile interval is too narrow
SLACK = 1e-6  # relative: replicates are stored in float32, and a difference below its precision is none
BETTER, WORSE, OPEN = "better", "worse", "not distinguishable"
OVERRULED = "undecided after correction"  # the interval leaves 0 out, and Holm does not follow


@lru_cache(maxsize=4)
def resamples(images: int, count: int = RESAMPLES) -> np.ndarray:
    """How often each of N test images is in each bootstrap resample, (R, N) uint16, read-only; rows sum to N.

    A function of its arguments alone: whatever is scored on the same images is resampled alike. Raises ValueError
    unless there are 1 to 65,535 images, which is what the counts can hold.
    """
    if not 1 <= images < 2**16:
        raise ValueError(f"{images} images cannot be resampled; there must be 1 to 65,535.")
    generator = np.random.default_rng([images, count])
    result = np.empty((count, images), dtype=np.uint16)
    for row in result:
        row[:] = np.bincount(generator.integers(images, size=images), minlength=images)
    result.setflags(write=False)  # it is shared by all that ask for it
    return result


def replicate_means(values: np.ndarray, weights: np.ndarray, owner: np.ndarray | None = None) -> np.ndarray:
    """Mean of per-query values on each resample, (R,) float64.

    ``values`` (M,); ``weights`` (R, N) from :func:`resamples`; ``owner`` (M,) the image of each query, or None
    where query i is image i. A caption counts as often as its image, so that the captions of an image stay
    together: the mean is sum(weight * value) / sum(weight). Raises ValueError when the shapes do not fit or a
    resample holds no query.
    """
    values, owner = _queries(values, weights, owner)
    images = weights.shape[1]
    sums = np.bincount(owner, weights=values, minlength=images)
    counts = np.bincount(owner, minlength=images).astype(np.float64)
    blocks = [weights[start : start + BLOCK].astype(np.float64) for start in range(0, len(weights), BLOCK)]
    totals = np.concatenate([block @ counts for block in blocks])
    _check_totals(totals)
    return np.concatenate([block @ sums for block in blocks]) / totals


def replicate_medians(values: np.ndarray, weights: np.ndarray, owner: np.ndarray | None = None) -> np.ndarray:
    """Median of per-query values on each resample, (R,) float64; arguments and errors of :func:`replicate_means`.

    It is numpy's median of the values repeated by their weights: of an even number, the mean of the middle two.
    """
    values, owner = _queries(values, weights, owner)
    order = np.argsort(values, kind="stable")
    values, owner = values[order], owner[order]
    medians = []
    for start in range(0, len(weights), BLOCK):
        reached = weights[start : start + BLOCK][:, owner].cumsum(axis=1, dtype=np.int64)  # (B, M)
        totals = reached[:, -1]
        _check_totals(totals)
        lower = [np.searchsorted(row, (total + 1) // 2) for row, total in zip(reached, totals, strict=True)]
        upper = [np.searchsorted(row, total // 2 + 1) for row, total in zip(reached, totals, strict=True)]
        medians.append((values[lower] + values[upper]) / 2)
    return np.concatenate(medians)


def share_replicates(value: float, replicates: np.ndarray, images: int) -> np.ndarray:
    """Replicates (R,) of a share in [0, 1] of ``images`` images whose interval also holds near 0 and near 1.

    The percentile interval of few hits is too narrow: without a hit no resample has one. With fewer than FEW images'
    worth of hits or of misses, each replicate is replaced by the quantile of its rank in Wilson's interval (JASA 22,
    1927), so that the 95 % interval is Wilson's; the order of the replicates, and with it their pairing with those of
    another encoder, stays. This is conservative: a mean of values in [0, 1] varies no more than a share does, and the
    captions of an image count as one.
    """
    if min(value, 1 - value) * images >= FEW:
        return replicates
    ranks = np.argsort(np.argsort(replicates, kind="stable"), kind="stable")
    z = ndtri((ranks + 0.5) / len(replicates))
    centre, spread = value + z**2 / (2 * images), z * np.sqrt((value * (1 - value) + z**2 / (4 * images)) / images)
    return np.clip((centre + spread) / (1 + z**2 / images), 0.0, 1.0)


def linear_replicates(value: float, influence: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R,) what a smooth score becomes on each resample, to first order: value + sum((weight - 1) influence).

    ``influence`` (N,): the derivative of the score by the weight of each image, at a weight of 1 each. For a mean
    of N values it is (values - mean) / N, and the result is exactly that of :func:`replicate_means`.
    """
    if len(influence) != weights.shape[1]:
        raise ValueError(f"{len(influence)} influences for {weights.shape[1]} images: there must be one an image.")
    # Weights of a resample sum to N, so that the ones of the formula take sum(influence) off each replicate.
    blocks = [weights[start : start + BLOCK].astype(np.float64) @ influence for start in range(0, len(weights), BLOCK)]
    return value + np.concatenate(blocks) - influence.sum()


def interval(replicates: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The percentile interval of a score from its replicates (R,), in the unit of the score."""
    low, high = np.quantile(np.asarray(replicates, dtype=np.float64), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Summary:
    """A score over seeds: mean, sample standard deviation over seeds (NaN with one), interval over test images."""

    mean: float
    deviation: float
    low: float
    high: float
    seeds: int

    def text(self, digits: int = 3) -> str:
        """'0.720 ± 0.010 [0.700, 0.740]'; with one seed '0.720 [0.700, 0.740]'."""
        spread = f" ± {self.deviation:.{digits}f}" if self.seeds > 1 else ""
        return f"{self.mean:.{digits}f}{spread} [{self.low:.{digits}f}, {self.high:.{digits}f}]"

    def __str__(self) -> str:
        return self.text()


def summarise(values: Sequence[float], replicates: np.ndarray) -> Summary:
    """Mean, deviation and interval of a score from ``values`` (S,), one a seed, and ``replicates`` (S, R).

    The lines of ``replicates`` are of the same resamples. The interval is that of the mean over seeds: what other
    test images would do to it; what other seeds would do is the deviation. Raises ValueError when the two do not
    hold the same number of seeds.
    """
    replicates = _lines(values, replicates)
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return Summary(float(np.mean(values)), deviation, *interval(replicates.mean(axis=0)), len(values))


@dataclass(frozen=True)
class Comparison:
    """a against b: the difference a - b with its interval, p before and after Holm's correction, the verdict on a.

    'better' is a larger score. The interval is of this difference alone, without Holm's correction: it may leave
    0 out where the verdict is 'not distinguishable'.
    """

    name_a: str
    name_b: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    verdict: str


Pair = tuple[str, str, Sequence[float], np.ndarray, Sequence[float], np.ndarray]


def compare(pairs: Sequence[Pair]) -> list[Comparison]:
    """Paired bootstraps of one family, Holm-corrected, in the order of ``pairs``.

    ``pairs``: (name a, name b, values of a (Sa,), replicates of a (Sa, R), values of b (Sb,), replicates of b
    (Sb, R)). A replicate resamples the images of both sides alike, and their seeds too (paired by seed where both
    sides have as many), since a verdict on a technique must carry the noise of its seeds. With one seed each it is
    the plain paired bootstrap over images: a verdict on two trained networks, not on how they were trained.

    p = min(1, 2 min(1 + #{d* <= 0}, 1 + #{d* >= 0}) / (R + 1)), d* the difference of a replicate. With R = 1,000
    it is at least 2 / 1,001, so that a family of more than 25 leaves no room for a verdict: keep families small.

    Few seeds show too little of their noise. Simulated without any difference, three seeds a side give a verdict in
    5, 6, 8, 14 and 25 % of cases where the deviation over seeds is 0, 0.5, 1, 2 and 10 times that of the difference
    over images: a verdict on three seeds that scatter widely is worth less than its p.

    Raises ValueError when two sides were not resampled alike.
    """
    if not pairs:
        return []
    sides = [_difference(*pair[2:]) for pair in pairs]
    p = [_two_sided(replicates) for _, replicates in sides]
    return [
        Comparison(a, b, difference, *interval(drawn), one, float(corrected), _verdict(difference, drawn, corrected))
        for (a, b, *_), (difference, drawn), one, corrected in zip(pairs, sides, p, holm(p), strict=True)
    ]


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's correction of a family of m p-values, in their order: with them sorted, max over j <= i of (m - j) p_j.

    ``j`` counts from 0, and none is above 1. The family then holds a wrong verdict as rarely as a single test would.
    """
    p = np.asarray(p, dtype=np.float64)
    order = p.argsort(kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return steps[order.argsort()]


def _queries(values: np.ndarray, weights: np.ndarray, owner: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    images = weights.shape[1]
    values, owner = np.asarray(values, dtype=np.float64), np.arange(images) if owner is None else np.asarray(owner)
    if values.shape != owner.shape:
        raise ValueError(f"{values.shape} values and {owner.shape} owners: there must be one image a query.")
    if owner.size and not 0 <= owner.min() <= owner.max() < images:
        raise ValueError(f"An owner is none of the {images} images that were resampled.")
    return values, owner


def _check_totals(totals: np.ndarray) -> None:
    if not totals.all():
        raise ValueError("A resample holds no query at all: there are too few images with a query.")


def _lines(values: Sequence[float], replicates: np.ndarray) -> np.ndarray:
    """(S, R) float64."""
    replicates = np.asarray(replicates, dtype=np.float64)
    if replicates.ndim != 2 or len(replicates) != len(values):
        raise ValueError(f"{len(values)} seeds and replicates of shape {replicates.shape}: there must be a line each.")
    return replicates


def _difference(values_a, replicates_a, values_b, replicates_b) -> tuple[float, np.ndarray]:
    """a - b, and (R,) the same on each replicate; 0 where float32 sees no difference."""
    a, b = _lines(values_a, replicates_a), _lines(values_b, replicates_b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"{a.shape[1]} and {b.shape[1]} replicates: the two sides were not resampled alike.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("Replicates hold values that are not finite; a comparison with them would be no verdict.")
    a, b = ((side * _seeds(*side.shape)).sum(axis=0) for side in (a, b))
    same = np.abs(a - b) <= SLACK * np.maximum(np.abs(a), np.abs(b))
    return float(np.mean(values_a) - np.mean(values_b)), np.where(same, 0.0, a - b)


def _seeds(seeds: int, count: int) -> np.ndarray:
    """(S, R) share of each seed in each replicate, drawn with replacement.

    A function of its arguments: two sides with as many seeds draw the same ones, others draw independently, and
    the order of the sides does not matter.
    """
    draws = np.random.default_rng([seeds, count]).multinomial(seeds, np.full(seeds, 1 / seeds), size=count)
    return draws.T / seeds


def _two_sided(replicates: np.ndarray) -> float:
    rarer = min((replicates <= 0).sum(), (replicates >= 0).sum())
    return float(min(1.0, 2 * (1 + rarer) / (len(replicates) + 1)))


def _verdict(difference: float, replicates: np.ndarray, p: float) -> str:
    low, high = interval(replicates)
    if difference == 0 or low <= 0 <= high:
        return OPEN
    if p >= ALPHA:
        return OVERRULED
    return BETTER if difference > 0 else WORSE
