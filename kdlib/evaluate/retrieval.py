"""Cross-modal retrieval over the whole test set. Karpathy and Fei-Fei, arXiv:1412.2306."""

import numpy as np
import torch
from torch import Tensor

from kdlib.metrics import cosines, expected_rank, in_batch_accuracy, recall_credit, unit_rows

DEPTHS = (1, 5, 10)
BATCHES = (32, 64, 256)
CHUNK = 256  # queries at a time: 256 x 25,000 float64 cosines are 51 MB
HEADLINE = "mean_recall"


def evaluate(images: Tensor, texts: Tensor, owner: np.ndarray) -> dict[str, float]:
    """R@1, R@5, R@10 and median rank both ways, their mean recall, and ``in_batch@B``.

    ``images`` (N, D); ``texts`` (M, D), caption j belongs to image ``owner[j]``. Shares in [0, 1].
    """
    rows = credits(images, texts, owner)
    scores = {name: float(values.mean()) for name, values in rows.items() if not name.endswith("rank")}
    for way in ("i2t", "t2i"):
        scores[f"{way}_median_rank"] = float(np.median(rows[f"{way}_rank"]))
    scores["mean_recall"] = float(np.mean([scores[f"{way}_r@{k}"] for way in ("i2t", "t2i") for k in DEPTHS]))
    return scores


def credits(images: Tensor, texts: Tensor, owner: np.ndarray) -> dict[str, np.ndarray]:
    """One value a query: ``i2t_r@K`` and ``i2t_rank`` per image, ``t2i_*`` per caption, ``in_batch@B`` per image.

    Image to text hits when any of the image's captions is in the top K of all captions.
    """
    images, texts = unit_rows(images), unit_rows(texts)
    owner = torch.as_tensor(owner).long()
    result: dict[str, np.ndarray] = {}
    captions = torch.arange(len(owner))
    counts = {"i2t": _counts(images, texts, owner, captions), "t2i": _counts(texts, images, captions, owner)}
    for way, (above, wrong, right) in counts.items():
        for k in DEPTHS:
            result[f"{way}_r@{k}"] = recall_credit(above, wrong, right, k)
        result[f"{way}_rank"] = expected_rank(above, wrong, right)
    first = np.unique(owner.numpy(), return_index=True)[1]  # one caption an image, as the study's batches have
    return result | in_batch(images, texts[first])


def in_batch(queries: Tensor, candidates: Tensor) -> dict[str, np.ndarray]:
    """The study's accuracy, ``in_batch@B`` per query; candidate i is the match of query i.

    Batches larger than the number of candidates are left out.
    """
    queries, candidates = unit_rows(queries), unit_rows(candidates)
    others = []
    for start in range(0, len(queries), CHUNK):
        similarity = cosines(queries[start : start + CHUNK], candidates)
        rows = torch.arange(len(similarity))
        match = similarity[rows, rows + start][:, None]
        others.append((_row_counts(similarity >= match) - 1).numpy())
    reached = np.concatenate(others)
    sizes = [size for size in BATCHES if size <= len(candidates)]
    return {f"in_batch@{size}": in_batch_accuracy(reached, len(candidates), size) for size in sizes}


def _counts(
    queries: Tensor, candidates: Tensor, query: Tensor, match: Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per query: wrong candidates above its best match, wrong ones tied with it, right ones tied with it.

    Pair i says that candidate ``match[i]`` is right for query ``query[i]``; every other one is wrong.
    """
    order = query.argsort(stable=True)
    query, match = query[order], match[order]
    parts = []
    for start in range(0, len(queries), CHUNK):
        similarity = cosines(queries[start : start + CHUNK], candidates)  # (B, M)
        first, last = torch.searchsorted(query, torch.tensor([start, start + len(similarity)])).tolist()
        row, own = query[first:last] - start, match[first:last]
        right = similarity[row, own]  # of the right pairs alone, since a mask of all pairs would fill the memory
        best = similarity.new_full((len(similarity),), -torch.inf).scatter_reduce_(0, row, right, "amax")
        above = _row_counts(similarity > best[:, None])
        tied = _row_counts(similarity == best[:, None])
        tied_right = torch.zeros_like(tied).index_add_(0, row, (right == best[row]).long())
        parts.append(torch.stack([above, tied - tied_right, tied_right]))
    above, wrong, right = torch.cat(parts, dim=1).numpy()
    return above, wrong, right


def _row_counts(mask: Tensor) -> Tensor:
    """(B, M) bool -> (B,) int64; torch sums bytes into int32 faster than truth values into int64."""
    return mask.view(torch.uint8).sum(dim=1, dtype=torch.int32).long()
