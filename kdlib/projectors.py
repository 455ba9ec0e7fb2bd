"""Projectors from the student's embedding (B, D) to the teacher's space (B, T); only training uses them."""

from torch import Tensor, nn
from torch.nn.utils import parametrizations


class Rescaled(nn.Module):
    """Scales embeddings of length 1 to length sqrt(D), as linear layers with a batch norm expect."""

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        return embeddings * embeddings.shape[-1] ** 0.5


def two_layers(width: int, teacher_width: int) -> nn.Module:
    """Linear, batch norm, ReLU, linear: the embedding need not copy the teacher's feature. SimReg, BMVC 2021."""
    inner = 2 * teacher_width
    return nn.Sequential(
        Rescaled(), nn.Linear(width, inner), nn.BatchNorm1d(inner), nn.ReLU(), nn.Linear(inner, teacher_width)
    )


def shared(width: int, teacher_width: int) -> nn.Module:
    """One projector for image and text, which inference compares: the identity for equal widths, else a linear map."""
    return nn.Identity() if width == teacher_width else nn.Linear(width, teacher_width, bias=False)


def orthogonal(width: int, teacher_width: int) -> nn.Module:
    """A linear map that keeps all cosines where ``teacher_width`` >= ``width``. VkD, Miles et al., arXiv:2403.06213."""
    return parametrizations.orthogonal(nn.Linear(width, teacher_width, bias=False))
