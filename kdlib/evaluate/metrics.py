"""Counting rules. Ties get what a random order of the tied earns on average; in-batch accuracy counts them as lost."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import gammaln
from torch import Tensor

DECIMALS = 10  # of a cosine: equal embeddings get equal cosines, whatever the shape of the matrix product
CHUNK = 256  # queries at a time: 256 x 100,000 float64 cosines are 205 MB


def unit_rows(embeddings: Tensor) -> Tensor:
    """Rows at length 1, (N, D) -> (N, D) float64. ValueError where one is not finite: NaN compares False, and wins."""
    if not embeddings.isfinite().all():
        raise ValueError("Embeddings hold values that are not finite; the encoder or its training is broken.")
    units = embeddings.detach().to(torch.float64, copy=True)
    return F.normalize(units, dim=-1, out=units)  # in place: 100,000 x 256 are 205 MB


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """All cosines between unit rows, (A, D), (B, D) -> (A, B), rounded: products differ in the last digits."""
    return (first @ second.T).round_(decimals=DECIMALS)


def log_choose(n: np.ndarray, k: np.ndarray) -> np.ndarray:
    """log C(n, k), and -inf where 0 <= k <= n does not hold."""
    valid = (k >= 0) & (k <= n)
    n, k = np.where(valid, n, 0), np.where(valid, k, 0)
    return np.where(valid, gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0), -np.inf)


def recall_credit(above: np.ndarray, tied_wrong: np.ndarray, tied_right: np.ndarray, k: int) -> np.ndarray:
    """Probability that a right candidate is among the first ``k`` when ties are broken at random, one a query.

    ``above``: candidates strictly above the best right one; ``tied_wrong``, ``tied_right``: those at its score.
    """
    above, wrong, right = np.broadcast_arrays(above, tied_wrong, tied_right)
    undecided = (above < k) & (above + wrong >= k)
    places = np.where(undecided, k - above, 0)
    missed = np.exp(log_choose(wrong, places) - log_choose(wrong + right, places))
    return np.where(undecided, 1.0 - missed, (above < k).astype(np.float64))


def in_batch_accuracy(at_or_above: np.ndarray, candidates: int, batch: int) -> np.ndarray:
    """C(N-1-g, B-1) / C(N-1, B-1): probability that none of the g others that reach the match is in its batch of B."""
    others = candidates - 1
    return np.exp(log_choose(others - at_or_above, batch - 1) - log_choose(others, batch - 1))


def top_class_credit(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Credit of each row of ``scores`` (B, K) for having its label among the ``k`` best classes, ties shared.

    Scores within 1e-9 of each other (relative) count as tied, since sums of the same terms in another order differ.
    """
    own = scores[np.arange(len(labels)), labels][:, None]
    slack = 1e-9 * np.maximum(np.abs(own), np.abs(scores))
    above = (scores > own + slack).sum(axis=1)
    tied = (np.abs(scores - own) <= slack).sum(axis=1) - 1
    return recall_credit(above, tied, np.ones_like(above), k)
