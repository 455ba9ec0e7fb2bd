"""The base class of students that read pixels: it normalises them, runs a network, and has a text side."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from kdlib.students.student import Student, StudentSpec, unit
from kdlib.students.text import text_side

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, whatever normalisation the teacher uses


class PixelStudent(Student):
    """A network from pixels to D outputs. A subclass defines ``network(spec)``.

    ``spec.text_side`` is its text side, where there is one: a projection of the teacher's text feature, as in the paper
    (whose sizes leave it out), or a network on token ids, with which the student needs no teacher.
    """

    reads = "pixels"
    own_text: ClassVar[bool] = True

    def __init__(self, spec: StudentSpec):
        super().__init__(spec)
        self.trunk = self.network(spec)
        if spec.text:
            self.text = text_side(spec)

    @staticmethod
    def network(spec: StudentSpec) -> nn.Module:
        """Fresh weights: normalised pixels (B, 3, S, S) -> (B, D)."""
        raise NotImplementedError("a student that reads pixels needs a function network(spec)")

    def see(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """image (B, D), from pixels (B, 3, S, S) in [0, 1]."""
        return {"image": unit(self.trunk(normalised(batch["pixels"])))}


def normalised(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> the same shape, normalised by ImageNet's mean and deviation of each channel."""
    mean, std = (torch.tensor(values, device=pixels.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std
