"""Measures of what a student took over from its teacher: layers, attention maps, neighbours, groups, epochs.

The functions take arrays and return numbers. N images, D the student's width, T the teacher's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.linalg import orthogonal_procrustes
from scipy.stats import binomtest
from torch import Tensor

from kdlib.evaluate.metrics import cosines
from kdlib.evaluate.uncertainty import interval, replicate_means, resamples
from kdlib.teachers import Teacher, TeacherError

CHUNK = 256  # rows of cosines at a time
BATCH = 16  # images through the teacher: the hidden states of 16 through a ViT-B/16 are 126 MB
FEW = 20  # images; an interval from fewer is not reliable


# ---------------------------------------------------------------- layers


def layer_features(teacher: Teacher, image: Callable[[int], Image.Image], rows: Sequence[int]) -> dict[str, Tensor]:
    """The teacher's hidden states: name -> (rows, T), each layer's class token and the mean of its patch tokens.

    ``image(row)`` decodes one image, a few at a time. 'layer 0' is what goes into the first block. Raises TeacherError
    for a teacher without hidden states.
    """
    model = getattr(teacher.model, "vision_model", teacher.model)
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, len(rows), BATCH):
        images = [image(row) for row in rows[start : start + BATCH]]
        with torch.inference_mode():
            states = model(teacher.prepare(images).to(teacher.device), output_hidden_states=True).hidden_states
        if not states:
            raise TeacherError(f"{type(model).__name__} gives no hidden states, so its layers cannot be compared.")
        for layer, state in enumerate(states):
            pooled = {"class token": state[:, 0], "mean of patches": state[:, 1:].mean(dim=1)}
            for name, values in pooled.items():
                parts.setdefault(f"layer {layer}, {name}", []).append(values.float().cpu())
    return {name: torch.cat(values) for name, values in parts.items()}


def debiased_cka(first: Tensor, second: Tensor) -> float:
    """Linear CKA of (N, D) and (N, T) features of the same images, without the bias of few images.

    Independent features give 0 on average for any N, so single values can be below 0; equal geometry gives 1.
    NaN where an encoder is constant. The unbiased HSIC of Song et al. (JMLR 13, 2012), as in Nguyen et al.,
    arXiv:2010.15327. Raises ValueError unless there are at least 4 images, as many in both.
    """
    if len(first) != len(second) or len(first) < 4:
        raise ValueError(f"{len(first)} and {len(second)} images: there must be as many in both, and at least 4.")
    grams = []
    for features in (first, second):
        centred = features.double() - features.double().mean(dim=0)
        gram = centred @ centred.T
        grams.append(gram.fill_diagonal_(0))
    own, other = _hsic(grams[0], grams[0]), _hsic(grams[1], grams[1])
    return _hsic(*grams) / (own * other) ** 0.5 if own > 0 and other > 0 else float("nan")


def _hsic(first: Tensor, second: Tensor) -> float:
    """Unbiased HSIC of two Gram matrices with empty diagonals, up to the factor n (n - 3)."""
    n = len(first)
    total = (first * second).sum() + first.sum() * second.sum() / ((n - 1) * (n - 2))
    return float(total - 2 / (n - 2) * (first.sum(dim=0) @ second.sum(dim=0)))


# ---------------------------------------------------------------- attention maps


def map_agreement(teacher: np.ndarray, student: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of the student's map of each image (N, h * w) with the teacher's: of that image, and of another one.

    A student that always looks at the same places reaches the second value. A uniform map gives 0.
    """
    teacher, student = (_centred(maps) for maps in (teacher, student))
    return (teacher * student).sum(axis=1), (np.roll(teacher, 1, axis=0) * student).sum(axis=1)


def _centred(maps: np.ndarray) -> np.ndarray:
    maps = np.asarray(maps, dtype=np.float64)
    maps = maps - maps.mean(axis=1, keepdims=True)
    return maps / np.maximum(np.linalg.norm(maps, axis=1, keepdims=True), 1e-12)


# ---------------------------------------------------------------- neighbours


def neighbours(space: Tensor, count: int) -> np.ndarray:
    """(N, count) the nearest other images of each, best first; ``space`` (N, D) at length 1."""
    count = min(count, len(space) - 1)
    found = []
    for start in range(0, len(space), CHUNK):
        similar = cosines(space[start : start + CHUNK], space)
        rows = torch.arange(len(similar))
        similar[rows, rows + start] = -torch.inf
        found.append(similar.topk(count, dim=1).indices)
    return torch.cat(found).numpy()


def kept(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    """(N,) share of the teacher's neighbours (N, k) that are among the student's (N, k)."""
    return (teacher[:, :, None] == student[:, None, :]).any(axis=2).mean(axis=1)


# ---------------------------------------------------------------- the plane


@dataclass(frozen=True)
class Plane:
    """Teacher and student in the plane of the teacher's two main axes; ``rows`` are the images that are shown.

    ``shown``: the share of the teacher's variance on the two axes. ``explained``: the share of the teacher's
    variance, in all its dimensions, that the rotated student accounts for; at most 1, below 0 when it is further
    off than the mean.
    """

    teacher: np.ndarray
    student: np.ndarray
    rows: np.ndarray
    shown: float
    explained: float


def plane(teacher: Tensor, student: Tensor) -> Plane:
    """Put a student (N, D) over its teacher (N, T): rotate, reflect and scale it as a whole, then look along two axes.

    Axes and rotation come from every second image, and the others are shown: a rotation of many dimensions could
    otherwise make anything fit. Orthogonal Procrustes; the narrower side is filled with zeros.
    """
    fit, rows = np.arange(0, len(teacher), 2), np.arange(1, len(teacher), 2)
    width = max(teacher.shape[1], student.shape[1])
    sides = []
    for space in (teacher, student):
        values = np.zeros((len(space), width))
        values[:, : space.shape[1]] = space.numpy()
        sides.append(values - values[fit].mean(axis=0))
    target, moved = sides
    rotation, strength = orthogonal_procrustes(moved[fit], target[fit])
    moved = moved @ rotation * (strength / max(np.square(moved[fit]).sum(), 1e-12))
    axes = np.linalg.svd(target[fit], full_matrices=False)[2][:2].T  # (width, 2)
    variance = np.square(target[rows]).sum()
    return Plane(
        teacher=target[rows] @ axes,
        student=moved[rows] @ axes,
        rows=rows,
        shown=float(np.square(target[rows] @ axes).sum() / variance),
        explained=float(1 - np.square(target[rows] - moved[rows]).sum() / variance),
    )


# ---------------------------------------------------------------- groups


def by_group(difference: np.ndarray, owner: np.ndarray, groups: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Mean of ``difference`` (M,) in each group of queries, with its 95 % interval over the group's images.

    ``owner`` (M,): the image of each query, whose queries stay together in the bootstrap; ``groups``: name -> (M,)
    booleans. A row a group: group, images, difference, low, high, few (fewer than 20 images). Empty groups are left
    out.
    """
    lines = []
    for name, member in groups.items():
        images, place = np.unique(owner[member], return_inverse=True)
        if len(images):
            values = difference[member]
            low, high = interval(replicate_means(values, resamples(len(images)), place))
            lines.append((name, len(images), values.mean(), low, high, len(images) < FEW))
    return pd.DataFrame(lines, columns=["group", "images", "difference", "low", "high", "few"])


def thirds(values: np.ndarray, unit: str) -> dict[str, np.ndarray]:
    """Whole numbers cut into up to three groups of about equal size, named by their range: '2 to 5 words'."""
    edges = np.unique(np.quantile(values, [1 / 3, 2 / 3], method="inverted_cdf"))
    which = np.searchsorted(edges, values)  # at an edge still below it
    parts = {}
    for group in np.unique(which):
        low, high = values[which == group].min(), values[which == group].max()
        parts[f"{low} {unit}" if low == high else f"{low} to {high} {unit}"] = which == group
    return parts


# ---------------------------------------------------------------- from one number of epochs to a larger one


@dataclass(frozen=True)
class Flow:
    """Rows (images) that are right after both, only after the later, only after the earlier, or after neither.

    ``p``: exact McNemar test that mended and broken are equally likely.
    """

    right: np.ndarray
    mended: np.ndarray
    broken: np.ndarray
    wrong: np.ndarray
    p: float


def flow(before: np.ndarray, after: np.ndarray) -> Flow:
    """``before`` and ``after``: credits in [0, 1] of the same queries; right is more than one half."""
    was, now = np.asarray(before) > 0.5, np.asarray(after) > 0.5
    parts = [np.flatnonzero(mask) for mask in (was & now, ~was & now, was & ~now, ~was & ~now)]
    changed = len(parts[1]) + len(parts[2])
    p = binomtest(len(parts[1]), changed).pvalue if changed else 1.0
    return Flow(*parts, p=float(p))
