"""Cross-modal retrieval over the whole test set. Karpathy and Fei-Fei, arXiv:1412.2306."""

import numpy as np
import torch
from torch import Tensor

from kdlib.evaluate.metrics import cosines, cosines_of_pairs, expected_rank, in_batch_accuracy, recall_credit, unit_rows

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

    Image to text hits when any of the image's captions is in the top K of all captions. Raises ValueError for an image
    without a caption, which nothing could match.
    """
    if bare := np.flatnonzero(np.bincount(owner, minlength=len(images))[: len(images)] == 0).tolist():
        raise ValueError(
            f"{len(bare)} of {len(images)} images have no caption, as image {bare[0]}: retrieval needs at least one an "
            "image. Leave such images out of the data set."
        )
    images, texts = unit_rows(images), unit_rows(texts)
    owner = torch.as_tensor(owner).long()
    result: dict[str, np.ndarray] = {}
    for way, (above, wrong, right) in _counts(images, texts, owner).items():
        for k in DEPTHS:
            result[f"{way}_r@{k}"] = recall_credit(above, wrong, right, k)
        result[f"{way}_rank"] = expected_rank(above, wrong, right)
    first = np.unique(owner.numpy(), return_index=True)[1]  # one caption an image, as the paper's batches have
    return result | in_batch(images, texts[first])


def in_batch(queries: Tensor, candidates: Tensor) -> dict[str, np.ndarray]:
    """The paper's accuracy, ``in_batch@B`` per query; candidate i is the match of query i.

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


def _counts(images: Tensor, texts: Tensor, owner: Tensor) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Per query: wrong candidates above its best match, wrong ones tied with it, right ones tied with it (with itself).

    The queries of 'i2t' are images, those of 't2i' captions; one matrix product serves both.
    """
    order = owner.argsort(stable=True)
    sorted_owner = owner[order]
    # Of each caption with its image, in one place: the product of another shape could round it another way.
    right = cosines_of_pairs(images, texts, owner)  # (M,)
    best = right.new_full((len(images),), -torch.inf).scatter_reduce_(0, owner, right, "amax")
    best_ones = torch.zeros(len(images), dtype=torch.long).index_add_(0, owner, (right == best[owner]).long())
    rows = []
    columns = torch.zeros(2, len(texts), dtype=torch.long)
    for start in range(0, len(images), CHUNK):
        similarity = cosines(images[start : start + CHUNK], texts)  # (B, M)
        stop = start + len(similarity)
        first, last = torch.searchsorted(sorted_owner, torch.tensor([start, stop])).tolist()
        own = order[first:last]
        similarity[owner[own] - start, own] = right[own]
        limit = best[start:stop, None]
        rows.append(torch.stack([_row_counts(similarity > limit), _row_counts(similarity == limit)]))
        columns[0] += _column_counts(similarity > right)
        columns[1] += _column_counts(similarity == right)
        del similarity  # before the next one is made: two would take twice the memory
    above, tied = torch.cat(rows, dim=1)
    return {
        "i2t": (above.numpy(), (tied - best_ones).numpy(), best_ones.numpy()),
        "t2i": (columns[0].numpy(), (columns[1] - 1).numpy(), np.ones(len(texts), dtype=np.int64)),
    }


def _row_counts(mask: Tensor) -> Tensor:
    """(B, M) bool -> (B,) int64; torch sums bytes into int32 faster than truth values into int64."""
    return mask.view(torch.uint8).sum(dim=1, dtype=torch.int32).long()


def _column_counts(mask: Tensor) -> Tensor:
    """(B, M) bool -> (M,) int64."""
    return mask.view(torch.uint8).sum(dim=0, dtype=torch.int32).long()
