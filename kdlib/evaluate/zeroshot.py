"""Multi-label zero-shot classification: each category's prompt ranks the images, scored by average precision."""

import numpy as np

REPLICATES = 64  # at a time: 5,000 x 64 float64 weights are 2.6 MB and stay in the cache


def average_precision(scores: np.ndarray, relevant: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Average precision of each category (K, R), in [0, 1]; NaN where no image is relevant.

    ``scores`` (N, K); ``relevant`` (N, K) bool; ``weights`` (R, N) how often each image counts, a row a resample;
    without them R = 1. Sum over the thresholds of (recall gained) x (precision there), a threshold a distinct score, as
    scikit-learn's average_precision_score: tied images share one precision, and a constant scores the prevalence.
    """
    weights = np.ones((1, len(scores))) if weights is None else weights
    starts = range(0, len(weights), REPLICATES)
    blocks = [np.ascontiguousarray(weights[start : start + REPLICATES].T, dtype=np.float64) for start in starts]
    result = np.full((scores.shape[1], len(weights)), np.nan)
    for category in np.flatnonzero(relevant.any(axis=0)):
        distance = -scores[:, category]  # ascending: best first
        order = np.argsort(distance, kind="stable")
        hits = order[relevant[order, category]]  # (P,) the relevant images
        values, first_hits = np.unique(distance[hits], return_index=True)  # the T thresholds, where recall grows
        ends = np.searchsorted(distance[order], values, side="right")  # images at or above each
        for start, block in zip(starts, blocks, strict=True):  # (N, B)
            seen = np.add.reduceat(block[order[: ends[-1]]], [0, *ends[:-1]], axis=0).cumsum(axis=0)
            gained = np.add.reduceat(block[hits], first_hits, axis=0)  # (T, B) relevant weight at the threshold
            right = gained.cumsum(axis=0)  # of the weight ``seen`` at or above it
            precision = np.divide(right, seen, out=np.zeros_like(right), where=seen > 0)
            with np.errstate(invalid="ignore"):  # 0 / 0: a resample without a relevant image
                result[category, start : start + REPLICATES] = (gained * precision).sum(axis=0) / right[-1]
    return result


def mean_average_precision(scores: np.ndarray, relevant: np.ndarray, weights: np.ndarray | None = None):
    """Mean over the categories that have a relevant image, NaN where none has: a float, or (R,) with ``weights``."""
    values = average_precision(scores, relevant, weights)  # (K, R)
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):  # 0 / 0
        means = np.where(known, values, 0.0).sum(axis=0) / known.sum(axis=0)
    return float(means[0]) if weights is None else means
