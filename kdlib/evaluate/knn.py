"""Weighted k-nearest-neighbour classification. Caron et al., arXiv:2104.14294, and its eval_knn."""

import numpy as np
import torch
from torch import Tensor

from kdlib.evaluate.metrics import CHUNK, cosines, top_class_credit, unit_rows

NEIGHBOURS, PRIMARY = (10, 20, 100, 200), 20  # or a smaller bank's size
TAU = 0.07


def credits(bank: Tensor, bank_labels: np.ndarray, query: Tensor, query_labels: np.ndarray) -> dict[str, np.ndarray]:
    """One credit in [0, 1] per query, k and top-1/top-5.

    ``bank`` (M, D) with labels (M,), ``query`` (Q, D) with labels (Q,). A neighbour weighs exp((cosine - 1) / 0.07), a
    class scores the sum of its neighbours. Neighbours tied at the k-th similarity share the places that are left.
    """
    bank, query = unit_rows(bank), unit_rows(query)
    classes = int(max(bank_labels.max(), query_labels.max())) + 1
    labels = torch.as_tensor(bank_labels).long()
    ks = sorted({min(k, len(bank)) for k in NEIGHBOURS})
    credits: dict[str, list[np.ndarray]] = {f"knn@{k}_top{n}": [] for k in ks for n in (1, 5)}
    for start in range(0, len(query), CHUNK):
        similarity = cosines(query[start : start + CHUNK], bank)  # (B, M)
        best, index = similarity.topk(min(max(NEIGHBOURS) + 1, len(bank)), dim=1)  # one more, to see ties at the border
        for k in ks:
            scores = _class_scores(similarity, best, index, labels, k, classes)
            for n in (1, 5):
                credits[f"knn@{k}_top{n}"].append(top_class_credit(scores, query_labels[start : start + CHUNK], n))
        del similarity  # before the next one is made: two would take twice the memory
    return {name: np.concatenate(parts) for name, parts in credits.items()}


def _class_scores(similarity: Tensor, best: Tensor, index: Tensor, labels: Tensor, k: int, classes: int) -> np.ndarray:
    """(B, K) float64 sums of the weights of the k nearest neighbours of each class."""
    weights = ((best[:, :k] - 1) / TAU).exp()
    scores = torch.zeros(len(best), classes, dtype=torch.float64).scatter_add_(1, labels[index[:, :k]], weights)
    ties = best[:, k - 1] == best[:, k] if best.shape[1] > k else torch.zeros(0)
    for row in ties.nonzero().flatten().tolist():
        border = best[row, k - 1]
        above = int((best[row, :k] > border).sum())  # the first ones, since best falls
        # In numpy: torch would wake its threads for each row, and with a constant encoder every row ties.
        tied = np.bincount(labels, similarity[row].numpy() == border.item(), minlength=classes)  # (K,)
        scores[row] = torch.from_numpy(tied * ((k - above) / tied.sum())) * weights[row, k - 1]
        scores[row].scatter_add_(0, labels[index[row, :above]], weights[row, :above])
    return scores.numpy()
