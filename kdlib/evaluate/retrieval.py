"""Cross-modal retrieval over the whole test set. Karpathy and Fei-Fei, arXiv:1412.2306."""

import numpy as np
import torch
from torch import Tensor

from kdlib.evaluate.metrics import CHUNK, DECIMALS, cosines, in_batch_accuracy, recall_credit, unit_rows

DEPTHS = (1, 5, 10)
BATCHES = (32, 64, 256)
RECALLS = tuple(f"{way}_r@{depth}" for way in ("i2t", "t2i") for depth in DEPTHS)  # whose mean is mean_recall


def credits(images: Tensor, texts: Tensor, owner: np.ndarray) -> dict[str, np.ndarray]:
    """One value a query: ``i2t_r@K`` and ``i2t_rank`` per image, ``t2i_*`` per caption, ``in_batch@B`` per image.

    ``images`` (N, D); ``texts`` (M, D), caption j belongs to image ``owner[j]``. Any caption of an image is a hit.
    """
    if len(bare := np.setdiff1d(np.arange(len(images)), owner)):
        raise ValueError(f"{len(bare)} of {len(images)} images have no caption, as image {bare[0]}: leave them out.")
    images, texts, owner = unit_rows(images), unit_rows(texts), torch.as_tensor(owner).long()
    result: dict[str, np.ndarray] = {}
    for way, (above, wrong, right) in _counts(images, texts, owner).items():
        result |= {f"{way}_r@{k}": recall_credit(above, wrong, right, k) for k in DEPTHS}
        result[f"{way}_rank"] = above + wrong / (right + 1) + 1.0  # from 1; the mean over random orders of the tied
    first = np.unique(owner.numpy(), return_index=True)[1]  # one caption an image, as the paper's batches have
    return result | in_batch(images, texts[first])


def in_batch(queries: Tensor, candidates: Tensor) -> dict[str, np.ndarray]:
    """The paper's accuracy, ``in_batch@B`` per query; candidate i is the match of query i. No batch above N."""
    queries, candidates, others = unit_rows(queries), unit_rows(candidates), []
    for start in range(0, len(queries), CHUNK):
        similarity = cosines(queries[start : start + CHUNK], candidates)
        others.append((_counted(similarity >= similarity.diagonal(start)[:, None], 1) - 1).numpy())
    sizes = [size for size in BATCHES if size <= len(candidates)]
    return {f"in_batch@{size}": in_batch_accuracy(np.concatenate(others), len(candidates), size) for size in sizes}


def _counts(images: Tensor, texts: Tensor, owner: Tensor) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Per query: wrong candidates above its best match, wrong ones tied with it, right ones tied with it (with itself).
    The queries of 'i2t' are images, those of 't2i' captions; one matrix product serves both."""
    sorted_owner, order = owner.sort(stable=True)
    # Of each caption with its image, in one place: the product of another shape could round it another way.
    right = (images[owner] * texts).sum(dim=1).round_(decimals=DECIMALS)  # (M,)
    best = right.new_full((len(images),), -torch.inf).scatter_reduce_(0, owner, right, "amax")
    best_ones = torch.zeros(len(images), dtype=torch.long).index_add_(0, owner, (right == best[owner]).long())
    rows, columns = [], torch.zeros(2, len(texts), dtype=torch.long)
    for start in range(0, len(images), CHUNK):
        similarity = cosines(images[start : start + CHUNK], texts)  # (B, M)
        first, last = torch.searchsorted(sorted_owner, torch.tensor([start, start + len(similarity)])).tolist()
        own = order[first:last]
        similarity[owner[own] - start, own] = right[own]
        limit = best[start : start + CHUNK, None]
        rows.append(torch.stack([_counted(similarity > limit, 1), _counted(similarity == limit, 1)]))
        columns += torch.stack([_counted(similarity > right, 0), _counted(similarity == right, 0)])
        del similarity  # before the next one is made: two would take twice the memory
    above, tied = torch.cat(rows, dim=1)
    of_images = above.numpy(), (tied - best_ones).numpy(), best_ones.numpy()
    return {"i2t": of_images, "t2i": (columns[0].numpy(), (columns[1] - 1).numpy(), np.ones(len(texts), dtype=int))}


def _counted(mask: Tensor, dim: int) -> Tensor:  # torch sums bytes into int32 faster than truth values into int64
    return mask.view(torch.uint8).sum(dim=dim, dtype=torch.int32).long()
