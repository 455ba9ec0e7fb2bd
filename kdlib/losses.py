"""What a student is trained to match: pure functions of tensors, the student first.

No parameters and no gradient to the teacher. All return the mean over the batch, in nats unless said
otherwise, and compute in float32 whatever comes in.
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

    Rows and columns count half each. For image x image logits leave the diagonal out: each image's
    similarity with itself is 1 whatever the encoder, and would take nearly all the probability.
    Zero when the logits are equal. Hinton et al., arXiv:1503.02531 (temperature); Tung and Mori,
    arXiv:1907.09682 (similarities within the batch).
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

    Maps of different length are resampled to the teacher's grid, which must then be square. Padded places
    hold 0 in both. Zagoruyko and Komodakis, arXiv:1612.03928, eq. 2 with p = 2.
    """
    student, teacher = student.float(), teacher.detach().float()
    if student.shape[-1] != teacher.shape[-1]:
        student = resample(student, teacher.shape[-1])
    return (F.normalize(student, dim=-1) - F.normalize(teacher, dim=-1)).square().sum(-1).mean()


def resample(maps: Tensor, places: int) -> Tensor:
    """Square maps (B, N) to (B, places), bilinear."""
    side, target = round(maps.shape[-1] ** 0.5), round(places**0.5)
    if side**2 != maps.shape[-1] or target**2 != places:
        raise ValueError(f"Only square maps can be resampled, not {maps.shape[-1]} places to {places}.")
    grid = maps.view(len(maps), 1, side, side)
    return F.interpolate(grid, size=(target, target), mode="bilinear", align_corners=False).flatten(1)


def contrastive(student: Tensor, positives: Tensor) -> Tensor:
    """Symmetric cross-entropy of (B, B) logits against the pairs that belong together.

    ``positives`` (B, B) boolean, True for every caption of the same image; a row's target is uniform over
    its positives, so that a second caption of an image is no false negative. Floor: the entropy of the
    target, log(positives of a row). Radford et al., arXiv:2103.00020, section 2.3.
    """
    student, target = student.float(), positives.float()
    rows = target / target.sum(dim=1, keepdim=True)
    columns = target.T / target.T.sum(dim=1, keepdim=True)
    return (F.cross_entropy(student, rows) + F.cross_entropy(student.T, columns)) / 2


def combined(
    student: Tensor,
    teacher: Tensor,
    positives: Tensor,
    *,
    tau: float,
    contrastive_weight: float = 1.0,
    kl_weight: float = 1.0,
) -> Tensor:
    """The study's loss for pixel students: contrastive + KL to the teacher's logits, weighted."""
    matching = logit_matching(student, teacher, tau=tau)
    return contrastive_weight * contrastive(student, positives) + kl_weight * matching
