"""What a student took over from its teacher: the geometry of its embeddings, their neighbours, where it looks."""

import numpy as np
import pandas as pd
import torch
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from kdlib.evaluate.bootstrap import interval, replicate_means, resamples
from kdlib.losses import resample


def debiased_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Linear CKA of (N, D) and (N, T) features of the same images, without the bias of few images.

    Independent features give 0 on average for any N, so that a value can be below 0; equal geometry gives 1. NaN where
    an encoder is constant. The unbiased HSIC of Song et al. (JMLR 13, 2012), as in Nguyen et al., arXiv:2010.15327.
    """
    grams = []
    for features in (first, second):
        centred = torch.as_tensor(features).double()
        centred = centred - centred.mean(dim=0)
        grams.append((centred @ centred.T).fill_diagonal_(0))  # (N, N)
    own, other = _hsic(grams[0], grams[0]), _hsic(grams[1], grams[1])
    return _hsic(*grams) / (own * other) ** 0.5 if own > 0 and other > 0 else float("nan")


def _hsic(first: torch.Tensor, second: torch.Tensor) -> float:
    """Unbiased HSIC of two Gram matrices (N, N) with empty diagonals, up to the factor N (N - 3)."""
    n = len(first)
    total = (first * second).sum() + first.sum() * second.sum() / ((n - 1) * (n - 2))
    return float(total - 2 / (n - 2) * (first.sum(dim=0) @ second.sum(dim=0)))


def neighbours(features: np.ndarray, count: int = 5) -> np.ndarray:
    """(N, D) -> (N, count): the nearest other images of each by cosine, the nearest first."""
    search = NearestNeighbors(n_neighbors=min(count, len(features) - 1), algorithm="brute")
    return search.fit(normalize(np.asarray(features, dtype=np.float64))).kneighbors(return_distance=False)


def kept_neighbours(student: np.ndarray, teacher: np.ndarray, count: int = 5) -> np.ndarray:
    """(N,) the share of the teacher's ``count`` nearest images of each image that are the student's too."""
    ours, theirs = neighbours(student, count), neighbours(teacher, count)
    return (theirs[:, :, None] == ours[:, None]).any(axis=2).mean(axis=1)


def attention_agreement(student: np.ndarray, teacher: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlations (N,) of a student's maps (N, places) with the teacher's of the same image, and of the next image.

    A student that always looks at the same places has the second value in both. A uniform map gives 0.
    """
    if student.shape != teacher.shape:
        student = resample(torch.as_tensor(student), teacher.shape[1])
    maps = [np.asarray(one, dtype=np.float64) for one in (student, teacher)]
    maps = [one - one.mean(axis=1, keepdims=True) for one in maps]
    own, other = (one / np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-12) for one in maps)
    return (own * other).sum(axis=1), (own * np.roll(other, 1, axis=0)).sum(axis=1)


def measure(student: dict, teacher: dict, count: int = 5) -> pd.DataFrame:
    """A row each for cka (without an interval), neighbours (of ``count``) and, where the student has it, attention."""
    others = len(teacher["image"]) - 1
    kept = kept_neighbours(student["image"], teacher["image"], count)
    values = {"neighbours": (kept, min(count, others) / others)}
    if "image_attention" in student:
        own, other = attention_agreement(student["image_attention"], teacher["image_attention"])
        values["attention"] = own, other.mean()
    rows = [("cka", debiased_cka(student["image"], teacher["image"]), np.nan, np.nan, 0.0)]
    for name, (each, chance) in values.items():
        rows.append((name, each.mean(), *interval(replicate_means(each, resamples(len(each)))), chance))
    return pd.DataFrame(rows, columns=["measure", "value", "low", "high", "chance"])
