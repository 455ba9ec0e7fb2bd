"""The losses: pure functions of tensors, the student's first. ``distiller.LOSSES`` computes them from a batch.

They have no parameters and no gradient to the teacher. Each returns a scalar, the mean over the batch, in nats unless
its docstring says otherwise, and computes in float32 whatever the type of its inputs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def similarity_logits(first: Tensor, second: Tensor, scale: Tensor | float) -> Tensor:
    """Scaled cosines of all pairs: (B, D), (B, D) -> (B, B).

    In float32 even under autocast: at a scale of 100 two neighbouring bfloat16 logits differ by a half.
    """
    with torch.autocast(first.device.type, enabled=False):
        return scale * F.normalize(first.float(), dim=-1) @ F.normalize(second.float(), dim=-1).T


def logit_matching(student: Tensor, teacher: Tensor, *, tau: float, leave_out_diagonal: bool = False) -> Tensor:
    """tau^2 * KL(softmax(teacher / tau) || softmax(student / tau)) over rows and columns of (B, B) logits.

    Rows and columns count half each. ``leave_out_diagonal`` is for image x image logits, where each image's
    similarity with itself is 1 for every encoder, and would take nearly all the probability. Zero when the logits
    are equal. Hinton et al., arXiv:1503.02531 (temperature); Tung and Mori, arXiv:1907.09682 (similarities within
    the batch). Raises ValueError for one image without the diagonal.
    """
    student, teacher = student.float() / tau, teacher.detach().float() / tau
    if leave_out_diagonal:
        size = len(student)
        if size < 2:
            raise ValueError("Similarities without the diagonal need at least 2 images in the batch.")
        off = ~torch.eye(size, dtype=torch.bool, device=student.device)
        rows = _kl(student[off].view(size, -1), teacher[off].view(size, -1))
        columns = _kl(student.T[off].view(size, -1), teacher.T[off].view(size, -1))
    else:
        rows, columns = _kl(student, teacher), _kl(student.T, teacher.T)
    return tau**2 * (rows + columns) / 2


def _kl(student: Tensor, teacher: Tensor) -> Tensor:
    return F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True)


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of L2-normalised attention maps, (B, N) each; dimensionless, between 0 and 2.

    A student's map of another length is resampled to the teacher's grid; both must then be square. Padding must be 0
    in both. Zagoruyko and Komodakis, arXiv:1612.03928, eq. 2, in the squared form of the authors' code, and with a
    transformer's attention instead of squared activations. They average over the N places; this function sums, so that
    their weight beta = 1000 is a weight of 1000 / N here: 5.1 for 14 x 14 places.
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
    grid = maps.view(len(maps), 1, side, side)
    return F.interpolate(grid, size=(target, target), mode="bilinear", align_corners=False).flatten(1)


def contrastive(student: Tensor, positives: Tensor) -> Tensor:
    """Symmetric cross-entropy of (B, B) logits against the pairs that belong together.

    ``positives`` (B, B) boolean, True for every caption of the same image; a row's target is uniform over
    its positives, so that a second caption of an image is no false negative. The least value is the entropy of
    the target, log(positives of a row). Radford et al., arXiv:2103.00020, section 2.3.
    """
    student, target = student.float(), positives.float()
    rows = target / target.sum(dim=1, keepdim=True)
    columns = target.T / target.T.sum(dim=1, keepdim=True)
    return (F.cross_entropy(student, rows) + F.cross_entropy(student.T, columns)) / 2


def feature_regression(student: Tensor, teacher: Tensor) -> Tensor:
    """2 - 2 cos(student, teacher), (B, T) each; dimensionless, between 0 and 4.

    This is the squared distance of the vectors at length 1. ``student``: the student's embeddings after a projector.
    ``teacher``: features minus the mean feature of fit, since what all features share says nothing about an image.
    SimReg, Navaneet et al., BMVC 2021.
    """
    return 2 - 2 * F.cosine_similarity(student.float(), teacher.detach().float(), dim=-1).mean()


def anchor_kl(student: Tensor, teacher: Tensor, anchors: Tensor, *, tau: float) -> Tensor:
    """KL(softmax(teacher A' / tau) || softmax(student A' / tau)), all vectors at length 1; mean over the batch.

    ``student`` and ``teacher`` (B, T); ``anchors`` (A, T): the teacher's features of other images (or texts), minus
    the same mean. The student is compared with the teacher by its similarities to many images, not only to those of the
    batch. SEED, Fang et al., arXiv:2101.04731; CompRess, arXiv:2010.14713. SEED keeps a queue of recent features; here
    the anchors are drawn from the feature store.
    """
    target = similarity_logits(teacher.detach(), anchors.detach(), 1 / tau)
    return _kl(similarity_logits(student, anchors.detach(), 1 / tau), target)


def relational(student: Tensor, teacher: Tensor, *, distance_weight: float = 1.0, angle_weight: float = 2.0) -> Tensor:
    """Matches distances of pairs and angles of triplets to the teacher's, (B, D) and (B, T); dimensionless.

    Distance term: Huber loss of ||x_i - x_j|| / their mean, over pairs. Angle term: Huber loss of
    cos(x_i - x_j, x_k - x_j), over triplets of different images. A rotation, a shift and a change of scale leave both
    as they are. RKD, Park et al., arXiv:1904.05068, eqs. 5 to 9, with its weights for embeddings. Raises ValueError for
    fewer than 3 images.
    """
    if len(student) < 3:
        raise ValueError("Angles need at least 3 images in the batch.")
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


def dist(student: Tensor, teacher: Tensor, *, tau: float, leave_out_diagonal: bool = False) -> Tensor:
    """tau^2 * (1 - Pearson correlation of softmax(student / tau) and softmax(teacher / tau)), rows plus columns.

    ``student`` and ``teacher``: (B, B) similarity logits. Between 0 and 4 tau^2, dimensionless; zero when the student's
    probabilities are an increasing linear function of the teacher's. DIST, Huang et al., arXiv:2205.10536; the images
    (or texts) of the batch take the place of its classes. Raises ValueError for fewer than 3 images without the
    diagonal.
    """
    size = len(student)
    ours, theirs = student.float() / tau, teacher.detach().float() / tau
    if not leave_out_diagonal:
        ours, theirs = ours.softmax(-1), theirs.softmax(-1)
        return tau**2 * (2 - _pearson(ours, theirs) - _pearson(ours.T, theirs.T))
    if size < 3:
        raise ValueError("Correlations without the diagonal need at least 3 images in the batch.")
    off = ~torch.eye(size, dtype=torch.bool, device=student.device)
    ours, theirs = (logits.masked_fill(~off, -torch.inf).softmax(-1) for logits in (ours, theirs))
    ways = ((ours, theirs), (ours.T, theirs.T))
    rows, columns = (_pearson(*(matrix[off].view(size, size - 1) for matrix in way)) for way in ways)
    return tau**2 * (2 - rows - columns)


def _pearson(first: Tensor, second: Tensor) -> Tensor:
    """Pearson correlation of row i of ``first`` with row i of ``second``, mean over rows."""
    first, second = (rows - rows.mean(dim=-1, keepdim=True) for rows in (first, second))
    return F.cosine_similarity(first, second, dim=-1).mean()


def orthogonal_projection(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the student and the layer-normalised teacher, (B, T) each; dimensionless.

    ``student``: embeddings of length sqrt(T) after an orthogonal projector. It keeps their cosines, so that the student
    itself has to learn the geometry. The layer norm has no affine part. VkD, Miles et al., CVPR 2024,
    arXiv:2403.06213.
    """
    target = F.layer_norm(teacher.detach().float(), teacher.shape[-1:])
    return (student.float() - target).square().mean()
