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
    owner = torch.as_tensor(owner)
    result: dict[str, np.ndarray] = {}
    counts = {
        "i2t": _counts(images, texts, torch.arange(len(images))[:, None] == owner[None]),
        "t2i": _counts(texts, images, owner[:, None] == torch.arange(len(images))[None]),
    }
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
        others.append(((similarity >= match).sum(dim=1) - 1).numpy())
    reached = np.concatenate(others)
    sizes = [size for size in BATCHES if size <= len(candidates)]
    return {f"in_batch@{size}": in_batch_accuracy(reached, len(candidates), size) for size in sizes}


def _counts(queries: Tensor, candidates: Tensor, matches: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per query: wrong candidates above its best match, wrong ones tied with it, right ones tied with it."""
    parts = []
    for start in range(0, len(queries), CHUNK):
        similarity = cosines(queries[start : start + CHUNK], candidates)
        right = matches[start : start + CHUNK]
        best = similarity.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
        tied = similarity == best
        above = (similarity > best).sum(dim=1)
        parts.append(torch.stack([above, (tied & ~right).sum(dim=1), (tied & right).sum(dim=1)]))
    above, wrong, right = torch.cat(parts, dim=1).numpy()
    return above, wrong, right
