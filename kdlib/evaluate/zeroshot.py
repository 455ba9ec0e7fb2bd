"""Multi-label zero-shot classification: each category's prompt ranks the images, scored by average precision."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from kdlib.evaluate.metrics import cosines, unit_rows

PROMPT = "a photo of a {}"
REPLICATES = 64  # at a time: 5,000 x 64 float64 weights are 2.6 MB and stay in the cache


def prompts(names: Sequence[str]) -> list[str]:
    """One sentence a category, in the order of ``names``."""
    return [PROMPT.format(name) for name in names]


def similarities(images: Tensor, prompts: Tensor) -> np.ndarray:
    """(N, D) images, (K, D) prompts -> (N, K) float64 cosines, rounded so that ties are ties.

    Raises ValueError when a value is not finite.
    """
    return cosines(unit_rows(images), unit_rows(prompts)).numpy()


def relevance(categories: tuple[tuple[int, ...], ...], count: int) -> np.ndarray:
    """(N, K) booleans: image i shows category k. ``categories``: the indices of each image, possibly none.

    Raises ValueError for an index outside 0 to ``count`` - 1.
    """
    result = np.zeros((len(categories), count), dtype=bool)
    for row, indices in enumerate(categories):
        if any(not 0 <= index < count for index in indices):
            raise ValueError(f"Image {row} has the categories {tuple(indices)}, but there are {count}, from 0 on.")
        result[row, list(indices)] = True
    return result


def average_precision(scores: np.ndarray, relevant: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Average precision of each category (K, R), in [0, 1]; NaN where no image is relevant.

    ``scores`` (N, K); ``relevant`` (N, K) bool; ``weights`` (R, N) how often each image counts, one row a bootstrap
    replicate; without them R = 1 with each image once. Sum over the thresholds of (recall gained) x (precision there),
    not interpolated, one threshold a distinct score, as scikit-learn's average_precision_score: images tied share one
    precision, whatever their order, and a constant encoder scores the prevalence of the category. Raises ValueError for
    arrays that do not belong together, weights below 0 and scores that are not finite.
    """
    scores, relevant = np.asarray(scores, dtype=np.float64), np.asarray(relevant, dtype=bool)
    weights = np.ones((1, len(scores))) if weights is None else np.asarray(weights)
    if scores.ndim != 2 or scores.shape != relevant.shape or weights.shape[1:] != scores.shape[:1]:
        raise ValueError(
            f"Scores {scores.shape}, relevant {relevant.shape} and weights {weights.shape} do not belong together: "
            f"(images, categories) twice, and one weight an image."
        )
    if not np.isfinite(scores).all():
        raise ValueError("Scores hold values that are not finite; the encoder or its training is broken.")
    if not (weights >= 0).all():
        raise ValueError("Weights count images: they must be 0 or more.")
    ranked = [_thresholds(scores[:, category], relevant[:, category]) for category in range(scores.shape[1])]
    result = np.full((scores.shape[1], len(weights)), np.nan)
    for start in range(0, len(weights), REPLICATES):
        block = np.ascontiguousarray(weights[start : start + REPLICATES].T, dtype=np.float64)  # (N, B)
        for category, thresholds in enumerate(ranked):
            if thresholds is not None:
                result[category, start : start + REPLICATES] = _weighted(*thresholds, block)
    return result


def mean_average_precision(
    scores: np.ndarray, relevant: np.ndarray, weights: np.ndarray | None = None
) -> float | np.ndarray:
    """Mean of :func:`average_precision` over the categories that have a relevant image; NaN where none has.

    A float, or with ``weights`` (R, N), one row a bootstrap replicate, an array (R,).
    """
    values = average_precision(scores, relevant, weights)  # (K, R)
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0)
    means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return float(means[0]) if weights is None else means


def _thresholds(scores: np.ndarray, relevant: np.ndarray) -> tuple[np.ndarray, ...] | None:
    """Where recall grows: the one sort of a category, good for all weights. None without a relevant image.

    Returns the images (M,) from the best score down to the last relevant one, the relevant ones (P,) in the same
    order, and for each of the T distinct scores that a relevant image has: where its images begin in the first
    list, counted from the end of the threshold before, and where its relevant ones begin in the second.
    """
    if not relevant.any():
        return None
    order = np.argsort(-scores, kind="stable")
    found = order[relevant[order]]
    values, first_found = np.unique(-scores[found], return_index=True)  # ascending in -score: best first
    ends = np.searchsorted(-scores[order], values, side="right")  # images at or above each threshold
    return order[: ends[-1]], found, np.concatenate([[0], ends[:-1]]), first_found


def _weighted(
    images: np.ndarray, found: np.ndarray, begins: np.ndarray, first_found: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """(B,) average precisions for ``weights`` (N, B) at the thresholds of :func:`_thresholds`."""
    seen = np.add.reduceat(weights[images], begins, axis=0).cumsum(axis=0)  # (T, B) weight at or above
    gained = np.add.reduceat(weights[found], first_found, axis=0)  # (T, B) relevant weight at the threshold
    right = gained.cumsum(axis=0)
    precision = np.divide(right, seen, out=np.zeros_like(right), where=seen > 0)
    total = right[-1]
    return np.divide((gained * precision).sum(axis=0), total, out=np.full_like(total, np.nan), where=total > 0)
