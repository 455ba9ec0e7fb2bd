"""The losses: pure functions of tensors, the student's first, and beside each the adapter that feeds it a batch.

Each loss returns a scalar, the mean over the batch, in nats unless its docstring says otherwise, in float32, without a
gradient to the teacher. An adapter is given the distiller, its outputs (see Distiller.forward) and the batch.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

ANCHOR_TAU = 0.07  # temperature of the KL over anchors


def similarity_logits(first: Tensor, second: Tensor, scale: Tensor | float) -> Tensor:
    """Scaled cosines of all pairs: (B, D), (B, D) -> (B, B).

    In float32 even under autocast: at a scale of 100 two neighbouring bfloat16 logits differ by a half.
    """
    with torch.autocast(first.device.type, enabled=False):
        return scale * F.normalize(first.float(), dim=-1) @ F.normalize(second.float(), dim=-1).T


def logit_matching(student: Tensor, teacher: Tensor, *, tau: float, leave_out_diagonal: bool = False) -> Tensor:
    """tau^2 * KL(softmax(teacher / tau) || softmax(student / tau)), mean over rows and columns of (B, B) logits.

    ``leave_out_diagonal``: of image x image logits, where each image's similarity with itself takes nearly all the
    probability. Hinton et al., arXiv:1503.02531; Tung and Mori, arXiv:1907.09682 (similarities within the batch).
    """
    student, teacher = student.float() / tau, teacher.detach().float() / tau
    rows, columns = (_kl_divergence(*way) for way in _both_ways(student, teacher, leave_out_diagonal))
    return tau**2 * (rows + columns) / 2


def _both_ways(student: Tensor, teacher: Tensor, leave_out_diagonal: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Two (B, B) matrices, then the two transposed; (B, B - 1) where the diagonal is left out."""
    size = len(student)
    off = ~torch.eye(size, dtype=torch.bool, device=student.device)
    for _ in range(2):
        yield (student[off].view(size, -1), teacher[off].view(size, -1)) if leave_out_diagonal else (student, teacher)
        student, teacher = student.T, teacher.T


def _kl_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    return F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True)


def _logit_matching(distiller, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
    given = {"tau": distiller.config.tau, "leave_out_diagonal": distiller.leaves_out_diagonal}
    return {"logit_matching": logit_matching(outputs["logits"], outputs["teacher_logits"], **given)}


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of L2-normalised attention maps, (B, N) each; dimensionless, between 0 and 2.

    A student's map of another length is resampled to the teacher's grid. Zagoruyko and Komodakis, arXiv:1612.03928,
    eq. 2, in the squared form of the authors' code, with a transformer's attention instead of squared activations.
    They average over the N places, this sums: their weight of 1000 is 5.1 for 14 x 14 places.
    """
    student, teacher = student.float(), teacher.detach().float()
    if student.shape[-1] != teacher.shape[-1]:
        student = resample(student, teacher.shape[-1])
    return (F.normalize(student, dim=-1) - F.normalize(teacher, dim=-1)).square().sum(-1).mean()


def resample(maps: Tensor, places: int) -> Tensor:
    """Square maps (B, N) resampled to (B, places), bilinear. Raises ValueError where either is not square."""
    side, target = round(maps.shape[-1] ** 0.5), round(places**0.5)
    if side**2 != maps.shape[-1] or target**2 != places:
        raise ValueError(f"Only square maps can be resampled, not {maps.shape[-1]} places to {places}.")
    return F.interpolate(maps.view(len(maps), 1, side, side), size=(target, target), mode="bilinear").flatten(1)


def _attention_transfer(distiller, outputs, batch) -> dict[str, Tensor]:
    maps = [name for name in ("image_attention", "text_attention") if name in outputs]
    weight = distiller.config.attention_weight
    return {f"{name}_transfer": weight * attention_transfer(outputs[name], batch[name]) for name in maps}


def contrastive(student: Tensor, positives: Tensor) -> Tensor:
    """Symmetric cross-entropy of (B, B) logits. Radford et al., arXiv:2103.00020, section 2.3.

    ``positives`` (B, B) boolean, True for every caption of the same image; a row's target is uniform over its
    positives, so that a second caption of an image is no false negative.
    """
    student, target = student.float(), positives.float()
    rows = target / target.sum(dim=1, keepdim=True)
    columns = target.T / target.T.sum(dim=1, keepdim=True)
    return (F.cross_entropy(student, rows) + F.cross_entropy(student.T, columns)) / 2


def _contrastive(distiller, outputs, batch) -> dict[str, Tensor]:
    positives = batch["row"][:, None] == batch["row"]
    return {"contrastive": distiller.config.contrastive_weight * contrastive(outputs["logits"], positives)}


def _kl(distiller, outputs, batch) -> dict[str, Tensor]:
    kl = logit_matching(outputs["logits"], outputs["teacher_logits"], tau=distiller.config.tau)
    return {"kl": distiller.config.kl_weight * kl}


def _labels(distiller, outputs, batch) -> dict[str, Tensor]:
    scores = similarity_logits(outputs["image"], distiller.classifier.weight, distiller.scale)  # (B, K)
    return {"labels": F.cross_entropy(scores, batch["label"])}


def feature_regression(student: Tensor, teacher: Tensor) -> Tensor:
    """2 - 2 cos(student, teacher), (B, T) each; dimensionless. SimReg, Navaneet et al., BMVC 2021.

    ``student``: embeddings after a projector. ``teacher``: features minus their mean, which says nothing of an image.
    """
    return 2 - 2 * F.cosine_similarity(student.float(), teacher.detach().float(), dim=-1).mean()


def sides_of(outputs: dict[str, Tensor]) -> list[str]:
    return [side for side in ("image", "text") if side in outputs]


def _feature_regression(distiller, outputs, batch) -> dict[str, Tensor]:
    pairs = {side: (outputs[f"{side}_projected"], distiller.centred(side, batch[side])) for side in sides_of(outputs)}
    return {f"{side}_regression": feature_regression(*pair) for side, pair in pairs.items()}


def anchor_kl(student: Tensor, teacher: Tensor, anchors: Tensor, *, tau: float) -> Tensor:
    """KL(softmax(teacher A' / tau) || softmax(student A' / tau)), all vectors at length 1.

    ``student`` and ``teacher`` (B, T); ``anchors`` (A, T): the teacher's features of other images (or texts), minus the
    same mean. SEED, Fang et al., arXiv:2101.04731, with a queue of recent features; CompRess, arXiv:2010.14713.
    """
    target = similarity_logits(teacher.detach(), anchors.detach(), 1 / tau)
    return _kl_divergence(similarity_logits(student, anchors.detach(), 1 / tau), target)


def _anchor_kl(distiller, outputs, batch) -> dict[str, Tensor]:
    terms = {}
    for side in sides_of(outputs):
        teacher, anchors = (distiller.centred(side, batch[name]) for name in (side, f"{side}_anchors"))
        kl = anchor_kl(outputs[f"{side}_projected"], teacher, anchors, tau=ANCHOR_TAU)
        terms[f"{side}_anchor_kl"] = distiller.config.anchor_weight * kl
    return terms


def _teacher_contrastive(distiller, outputs, batch) -> dict[str, Tensor]:
    """Contrastive loss of each of the student's sides against the teacher's other side; without texts, its images.

    Yang et al., arXiv:2307.12732 (there: interactive contrastive learning); Tian et al., arXiv:1910.10699.
    """
    terms, sides = {}, sides_of(outputs)
    for side, other in zip(sides, reversed(sides), strict=True):
        teacher = distiller.centred(other, batch[other]).detach()
        scores = similarity_logits(outputs[f"{side}_projected"], teacher, distiller.scale)
        loss = contrastive(scores, batch["row"][:, None] == batch["row"])
        terms[f"{side}_teacher_contrastive"] = distiller.config.contrastive_weight * loss
    return terms


def relational(student: Tensor, teacher: Tensor, *, distance_weight: float = 1.0, angle_weight: float = 2.0) -> Tensor:
    """Matches distances of pairs and angles of triplets to the teacher's, (B, D) and (B, T); dimensionless.

    Huber loss of ||x_i - x_j|| / their mean, over pairs, and of cos(x_i - x_j, x_k - x_j), over triplets of different
    images. Rotation, shift and scale change neither. RKD, Park et al., arXiv:1904.05068, eqs. 5 to 9.
    """
    (near, bent), (near_there, bent_there) = _relations(student.float()), _relations(teacher.detach().float())
    return distance_weight * F.smooth_l1_loss(near, near_there) + angle_weight * F.smooth_l1_loss(bent, bent_there)


def _relations(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """(B, B - 1) distances over their mean; (B (B - 1) (B - 2),) cosines of the angles at each image."""
    size = len(vectors)
    off = ~torch.eye(size, dtype=torch.bool, device=vectors.device)
    away = (vectors[None] - vectors[:, None])[off].view(size, size - 1, -1)  # at j: x_i - x_j, (B, B - 1, D)
    distance = away.norm(dim=-1)
    towards = F.normalize(away, dim=-1)
    angles = towards @ towards.transpose(1, 2)  # (B, B - 1, B - 1)
    return distance / distance.mean().clamp_min(1e-12), angles[:, off[1:, 1:]]


def _relational(distiller, outputs, batch) -> dict[str, Tensor]:
    pairs = {side: (outputs[side], F.normalize(batch[side], dim=-1)) for side in sides_of(outputs)}
    return {f"{side}_relational": relational(*pair) for side, pair in pairs.items()}


def dist(student: Tensor, teacher: Tensor, *, tau: float, leave_out_diagonal: bool = False) -> Tensor:
    """tau^2 * (1 - Pearson correlation of softmax(student / tau) and softmax(teacher / tau)), rows plus columns.

    ``student`` and ``teacher``: (B, B) similarity logits. Between 0 and 4 tau^2, dimensionless; zero when a row's
    probabilities are an increasing linear function of the teacher's. DIST, Huang et al., arXiv:2205.10536; the images
    (or texts) of the batch take the place of its classes.
    """
    ours, theirs = student.float() / tau, teacher.detach().float() / tau
    if leave_out_diagonal:
        diagonal = torch.eye(len(student), dtype=torch.bool, device=student.device)
        ours, theirs = ours.masked_fill(diagonal, -torch.inf), theirs.masked_fill(diagonal, -torch.inf)
    rows, columns = (_pearson(*way) for way in _both_ways(ours.softmax(-1), theirs.softmax(-1), leave_out_diagonal))
    return tau**2 * (2 - rows - columns)


def _pearson(first: Tensor, second: Tensor) -> Tensor:
    """Pearson correlation of row i of ``first`` with row i of ``second``, mean over rows."""
    first, second = (rows - rows.mean(dim=-1, keepdim=True) for rows in (first, second))
    return F.cosine_similarity(first, second, dim=-1).mean()


def _dist(distiller, outputs, batch) -> dict[str, Tensor]:
    given = {"tau": distiller.config.tau, "leave_out_diagonal": distiller.leaves_out_diagonal}
    return {"dist": dist(outputs["logits"], outputs["teacher_logits"], **given)}


def orthogonal_projection(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the student and the layer-normalised teacher, (B, T) each; dimensionless.

    ``student``: embeddings of length sqrt(T) after an orthogonal projector. It keeps their cosines, so that the student
    itself has to learn the geometry. The layer norm has no affine part. VkD, Miles et al., arXiv:2403.06213.
    """
    target = F.layer_norm(teacher.detach().float(), teacher.shape[-1:])
    return (student.float() - target).square().mean()


def _orthogonal_projection(distiller, outputs, batch) -> dict[str, Tensor]:
    terms = {}
    for side in sides_of(outputs):
        length = batch[side].shape[-1] ** 0.5  # of a layer-normed feature
        projected = length * distiller.orthogonal(outputs[side])
        terms[f"{side}_orthogonal"] = orthogonal_projection(projected, batch[side])
    return terms


# Name of a loss in an objective -> its adapter, or a user's own function (outputs, batch) -> scalar.
LOSSES: dict[str, Callable] = {
    "logit_matching": _logit_matching, "attention_transfer": _attention_transfer, "contrastive": _contrastive,
    "kl": _kl, "combined": lambda *given: _contrastive(*given) | _kl(*given), "labels": _labels,
    "feature_regression": _feature_regression, "anchor_kl": _anchor_kl, "teacher_contrastive": _teacher_contrastive,
    "relational": _relational, "dist": _dist, "orthogonal_projection": _orthogonal_projection,
}  # fmt: skip
