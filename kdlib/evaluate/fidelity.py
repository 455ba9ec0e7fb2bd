"""Fidelity: how well a student keeps the teacher's similarities, per image; their widths may differ. Also CKA."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib.evaluate.metrics import cosines, unit_rows

READ = ("image", "text")
CHUNK = 256  # images at a time: 256 x 25,000 float64 cosines are 51 MB
ROWS = 8192  # of features at a time in CKA
NO_VARIANCE = 1e-12  # of the sum of squares: below it is the rounding of float32, not a feature


def credits(student: dict[str, Tensor], teacher: dict[str, Tensor], scale: float) -> dict[str, np.ndarray]:
    """One value an image (N,): ``similarity_cosine``, ``neighbour_agreement`` and ``similarity_kl``.

    Both hold "image" (N, D) and, for vision-language, "text" (M, D); other keys are not read, and the widths of
    the two may differ. A row of similarities is an image's cosines with all texts, or without text with all other
    images.

    ``similarity_cosine``: cosine of the student's and the teacher's row, in [-1, 1]; 0 where a row is all 0.
    ``neighbour_agreement``: probability that both name the same nearest other image when each breaks its ties at
    random: |S and T| / (|S| |T|) for the images tied at the top, S the student's and T the teacher's.
    ``similarity_kl``: KL(softmax(scale x teacher's row) || softmax(scale x student's row)) in nats. ``scale`` is the
    teacher's own logit scale for every student, whatever temperature trained it, so that rows can be compared.

    Raises ValueError when the two do not hold the same images and texts, there are fewer than two images, or a
    value is not finite.
    """
    student = {name: student[name] for name in READ if name in student}
    teacher = {name: teacher[name] for name in READ if name in teacher}
    _check(student, teacher)
    student = {name: unit_rows(rows) for name, rows in student.items()}
    teacher = {name: unit_rows(rows) for name, rows in teacher.items()}
    count = len(teacher["image"])
    result: dict[str, list[Tensor]] = {"similarity_cosine": [], "neighbour_agreement": [], "similarity_kl": []}
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        others = torch.arange(count) != torch.arange(start, stop)[:, None]  # (B, N)
        rows, tops = [], []
        for side in (student, teacher):
            queries = side["image"][start:stop]
            near = cosines(queries, side["image"])[others].view(stop - start, count - 1)  # itself left out
            rows.append(cosines(queries, side["text"]) if "text" in side else near)
            tops.append((near == near.amax(dim=1, keepdim=True)).double())
        result["similarity_cosine"].append(F.cosine_similarity(*rows, dim=1).clamp(-1, 1))
        both = (tops[0] * tops[1]).sum(dim=1)
        result["neighbour_agreement"].append(both / (tops[0].sum(dim=1) * tops[1].sum(dim=1)))
        result["similarity_kl"].append(_divergence(scale * rows[0], scale * rows[1]))
    return {name: torch.cat(parts).numpy() for name, parts in result.items()}


def linear_cka(first: Tensor, second: Tensor) -> tuple[float, np.ndarray]:
    """Linear CKA of (N, D) and (N, T) features of the same images, in [0, 1], and each image's influence on it (N,).

    ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F) with centred columns: 1 for equal geometry, whatever the rotation and the
    scale. 0 by definition where an encoder is constant, up to the rounding of float32: it keeps nothing. The
    estimate is the biased one: of independent features it is near 0 only when N is far above D and T. Kornblith
    et al., arXiv:1905.00414. Raises ValueError when the rows do not match or a value is not finite.

    The influence is the derivative by the weight of the image, at a weight of 1 each. With it a resample of the
    images costs a scalar product instead of a new product of the features: CKA with weights w is near
    CKA + sum((w - 1) influence), the infinitesimal jackknife (Efron and Tibshirani, An Introduction to the Bootstrap,
    1993, chapter 22). Of a constant encoder all are 0.
    """
    if len(first) != len(second):
        raise ValueError(f"CKA compares the same images: {len(first)} rows against {len(second)}.")
    means = [_mean(first), _mean(second)]
    width = first.shape[1]
    products = torch.zeros(width + second.shape[1], width + second.shape[1], dtype=torch.float64)
    for rows in zip(first.split(ROWS), second.split(ROWS), strict=True):
        both = torch.cat([part.double() - mean for part, mean in zip(rows, means, strict=True)], dim=1)  # (B, D + T)
        products.addmm_(both.T, both)
    own, other, cross = products[:width, :width], products[width:, width:], products[:width, width:]
    for gram, mean in ((own, means[0]), (other, means[1])):
        if gram.trace() <= NO_VARIANCE * (gram.trace() + len(first) * mean.square().sum()):
            return 0.0, np.zeros(len(first))
    # Divided by their size first, features of 1e-100 do not vanish when squared.
    sizes = own.trace().sqrt(), other.trace().sqrt()
    own, other, cross = own / own.trace(), other / other.trace(), cross / (own.trace() * other.trace()).sqrt()
    value = float((cross.square().sum() / (own.norm() * other.norm())).clamp(0, 1))
    influence = []
    for rows in zip(first.split(ROWS), second.split(ROWS), strict=True):
        x, y = ((part.double() - mean) / size for part, mean, size in zip(rows, means, sizes, strict=True))
        both = ((x @ cross) * y).sum(dim=1) / (own.norm() * other.norm())
        alone = ((x @ own) * x).sum(dim=1) / own.square().sum() + ((y @ other) * y).sum(dim=1) / other.square().sum()
        influence.append(2 * both - value * alone)
    return value, torch.cat(influence).numpy()


def _mean(features: Tensor) -> Tensor:
    mean = features.double().mean(dim=0)
    if not mean.isfinite().all():
        raise ValueError("Features hold values that are not finite; the encoder or its training is broken.")
    return mean


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(student)) of each row of logits, (B, M) twice -> (B,) nats."""
    student, teacher = student.log_softmax(dim=1), teacher.log_softmax(dim=1)
    return (teacher.exp() * (teacher - student)).sum(dim=1).clamp_min(0)  # rounding can go below


def _check(student: dict[str, Tensor], teacher: dict[str, Tensor]) -> None:
    if student.keys() != teacher.keys():
        raise ValueError(
            f"The student has {sorted(student)} and the teacher {sorted(teacher)}; a comparison needs the same of "
            f"both. A student without a text encoder is compared on images alone, or with the teacher's text."
        )
    for name, rows in student.items():
        if len(rows) != len(teacher[name]):
            raise ValueError(f"{len(rows)} rows of the student's {name} against {len(teacher[name])} of the teacher's.")
    if len(student["image"]) < 2:
        raise ValueError("A nearest other image needs two images.")
