"""Fidelity: how well a student keeps the teacher's similarities, per image; their widths may differ. Also CKA."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib.evaluate.metrics import CHUNK, cosines, unit_rows

NO_VARIANCE = 1e-12  # of the sum of squares: below it is the rounding of float32, not a feature


def credits(student: dict[str, Tensor], teacher: dict[str, Tensor], scale: float) -> dict[str, np.ndarray]:
    """One value an image (N,). Both sides hold "image" (N, D) and, for vision-language, "text" (M, D).

    A row of similarities is an image's cosines with all texts, or without text with all other images.
    ``similarity_cosine``: cosine of the student's and the teacher's row, in [-1, 1]; 0 where a row is all 0.
    ``neighbour_agreement``: probability that both name the same nearest other image, with ties broken at random.
    ``similarity_kl``: KL(softmax(scale x teacher's row) || softmax(scale x student's row)) in nats; the scale is the
    teacher's own for every student, whatever temperature trained it.
    """
    sides = ("image", "text") if "text" in teacher else ("image",)
    student, teacher = ({side: unit_rows(rows[side]) for side in sides} for rows in (student, teacher))
    every, parts = torch.arange(len(teacher["image"])), []
    for images in every.split(CHUNK):
        rows, tops = [], []
        for side in (student, teacher):
            queries = side["image"][images]
            near = cosines(queries, side["image"])[every != images[:, None]].view(len(images), -1)  # itself left out
            rows.append(cosines(queries, side["text"]) if "text" in side else near)
            tops.append((near == near.amax(dim=1, keepdim=True)).double())
        ours, theirs = ((scale * side).log_softmax(dim=1) for side in rows)
        parts.append({
            "similarity_cosine": F.cosine_similarity(*rows, dim=1).clamp(-1, 1),
            "neighbour_agreement": (tops[0] * tops[1]).sum(dim=1) / (tops[0].sum(dim=1) * tops[1].sum(dim=1)),
            "similarity_kl": (theirs.exp() * (theirs - ours)).sum(dim=1).clamp_min(0),  # rounding goes below
        })  # fmt: skip
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}


def linear_cka(first: Tensor, second: Tensor) -> tuple[float, np.ndarray]:
    """Linear CKA of (N, D) and (N, T) features of the same images, in [0, 1], and each image's influence on it (N,).

    ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F) with centred columns, the biased estimate; 0 where an encoder is constant.
    Kornblith et al., arXiv:1905.00414. The influence is the derivative by the weight of the image: CKA with weights w
    is near CKA + sum((w - 1) influence), the infinitesimal jackknife (Efron and Tibshirani, 1993, chapter 22).
    """
    sides = []
    for rows in (first.double(), second.double()):
        centred = rows - rows.mean(dim=0)
        if centred.square().sum() <= NO_VARIANCE * rows.square().sum():
            return 0.0, np.zeros(len(rows))
        sides.append(centred / centred.norm())
    x, y = sides
    own, other, cross = x.T @ x, y.T @ y, x.T @ y
    size = own.norm() * other.norm()
    value = float((cross.square().sum() / size).clamp(0, 1))
    alone = ((x @ own) * x).sum(dim=1) / own.square().sum() + ((y @ other) * y).sum(dim=1) / other.square().sum()
    return value, (2 * ((x @ cross) * y).sum(dim=1) / size - value * alone).numpy()
