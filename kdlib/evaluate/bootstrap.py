"""How sure a number is: bootstrap over test images, the same resamples for every encoder, and paired comparisons.

Efron and Tibshirani, An Introduction to the Bootstrap (1993); Holm, Scandinavian Journal of Statistics 6 (1979).
"""

from collections import namedtuple
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

RESAMPLES, LEVEL = 1000, 0.95  # of an interval
ALPHA = 0.05  # a family of comparisons holds a wrong verdict at most this often
BLOCK = 50  # replicates at a time: 50 x 25,000 captions of cumulated counts are 10 MB
FEW = 20  # images' worth of hits, or of misses: with fewer a percentile interval is too narrow
SLACK = 1e-6  # relative: replicates are stored in float32, and a difference below its precision is none
BETTER, WORSE, OPEN = "better", "worse", "not significant"
OVERRULED = "not significant after correction"  # the interval leaves 0 out, and Holm does not follow


@lru_cache(maxsize=4)
def resamples(images: int, count: int = RESAMPLES) -> np.ndarray:
    """How often each of N test images is in each resample, (R, N) uint16, read-only; a function of its arguments."""
    generator = np.random.default_rng([images, count])
    draws = (generator.integers(images, size=images) for _ in range(count))
    result = np.stack([np.bincount(draw, minlength=images).astype(np.uint16) for draw in draws])
    result.setflags(write=False)  # it is shared by all that ask for it
    return result


def replicate_means(values: np.ndarray, weights: np.ndarray, owner: np.ndarray | None = None) -> np.ndarray:
    """Mean of per-query values (M,) on each resample, (R,): sum(weight x value) / sum(weight), ``weights`` (R, N).

    ``owner`` (M,): the image of each query, whose captions stay together; None where query i is image i.
    """
    owner = np.arange(len(values)) if owner is None else owner
    sums, counts = (np.bincount(owner, each, weights.shape[1]) for each in (values, np.ones(len(owner))))
    blocks = [weights[start : start + BLOCK].astype(np.float64) for start in range(0, len(weights), BLOCK)]
    return np.concatenate([(block @ sums) / (block @ counts) for block in blocks])


def replicate_medians(values: np.ndarray, weights: np.ndarray, owner: np.ndarray | None = None) -> np.ndarray:
    """Median of per-query values on each resample, (R,): numpy's of the values repeated by their weights."""
    order = np.argsort(values, kind="stable")
    values, owner = values[order], order if owner is None else owner[order]
    medians = []
    for start in range(0, len(weights), BLOCK):
        reached = weights[start : start + BLOCK][:, owner].cumsum(axis=1, dtype=np.int64)  # (B, M)
        lower = [np.searchsorted(row, (row[-1] + 1) // 2) for row in reached]
        upper = [np.searchsorted(row, row[-1] // 2 + 1) for row in reached]
        medians.append((values[lower] + values[upper]) / 2)
    return np.concatenate(medians)


def share_replicates(value: float, replicates: np.ndarray, images: int) -> np.ndarray:
    """Replicates (R,) of a share in [0, 1] of ``images`` images whose interval also holds near 0 and near 1.

    With fewer than FEW images' worth of hits or of misses, each becomes the quantile of its rank in Wilson's interval
    (JASA 22, 1927): conservative, since a mean of values in [0, 1] varies less than hits.
    """
    if min(value, 1 - value) * images >= FEW:
        return replicates
    ranks = np.argsort(np.argsort(replicates, kind="stable"), kind="stable")
    z = ndtri((ranks + 0.5) / len(replicates))
    centre, spread = value + z**2 / (2 * images), z * np.sqrt((value * (1 - value) + z**2 / (4 * images)) / images)
    return np.clip((centre + spread) / (1 + z**2 / images), 0.0, 1.0)


def interval(replicates: np.ndarray) -> tuple[float, float]:
    """The percentile interval of a score from its replicates (R,)."""
    low, high = np.quantile(np.asarray(replicates, dtype=np.float64), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


# a - b, its own interval, p before and after Holm's correction, the verdict on a.
Comparison = namedtuple("Comparison", "difference low high p p_holm verdict")


def compare(pairs: Sequence[tuple]) -> list[Comparison]:
    """Paired bootstraps of one family, Holm-corrected, in the order of ``pairs``. 'better' is a larger score.

    ``pairs``: (values of a (Sa,), replicates of a (Sa, R), values of b (Sb,), replicates of b (Sb, R)), a line a seed.
    Images are resampled, and seeds (paired where both sides have as many). Few show too little noise: three a side that
    do not differ give a verdict in 5, 8 and 25 % of cases where seeds scatter 0, 1 and 10 times as far as images.
    """
    tests, results = [_test(*pair) for pair in pairs], []
    for (difference, low, high, p), p_holm in zip(tests, holm([p for *_, p in tests]), strict=True):
        verdict = OVERRULED if p_holm >= ALPHA else BETTER if difference > 0 else WORSE
        verdict = OPEN if difference == 0 or low <= 0 <= high else verdict
        results.append(Comparison(difference, low, high, p, float(p_holm), verdict))
    return results


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's correction of a family of m p-values: with them sorted, max over j <= i of (m - j) p_j, j from 0."""
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(np.array(p)[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return steps[order.argsort()]


def _test(values_a, replicates_a, values_b, replicates_b) -> tuple[float, float, float, float]:
    """a - b, its interval, and a two-sided p that is below 0.05 exactly where the interval leaves 0 out.

    t is the difference over the standard error that the near end of its interval shows (Altman and Bland, BMJ 343,
    2011), with Satterthwaite's degrees of freedom for the noise of images (as good as normal) and of seeds. So no
    number of resamples limits p; but it is at least twice the share of those of the other sign.
    """
    a, b = np.asarray(replicates_a, dtype=np.float64), np.asarray(replicates_b, dtype=np.float64)
    difference = float(np.mean(values_a) - np.mean(values_b))
    replicates = _without_noise(*((side * _seeds(*side.shape)).sum(axis=0) for side in (a, b)))
    low, high = interval(replicates)
    if not np.isfinite([low, high]).all():
        raise ValueError("Replicates hold values that are not finite; a comparison with them would be no verdict.")
    if difference == 0:
        return difference, low, high, 1.0
    of_images = _without_noise(a.mean(axis=0), b.mean(axis=0)).var()
    of_seeds = 1 - of_images / max(replicates.var(), of_images, 1e-300)  # share of the variance
    seeds = min((len(side) for side in (a, b) if len(side) > 1), default=2)
    freedom = (seeds - 1) / max(of_seeds, 1e-3) ** 2
    reach = max(difference - low if difference > 0 else high - difference, 1e-300)
    tail = 2 * stdtr(freedom, -stdtrit(freedom, (1 + LEVEL) / 2) * abs(difference) / reach)
    other = 2 * min((replicates <= 0).sum(), (replicates >= 0).sum()) / (len(replicates) + 1)
    return difference, low, high, float(min(1.0, max(tail, other)))


def _without_noise(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(np.abs(a - b) <= SLACK * np.maximum(np.abs(a), np.abs(b)), 0.0, a - b)


def _seeds(seeds: int, count: int) -> np.ndarray:
    """(S, R) share of each seed in each replicate: two sides with as many take the same, others independent ones."""
    draws = np.random.default_rng([seeds, count]).multinomial(seeds, np.full(seeds, 1 / seeds), size=count)
    return draws.T / seeds
