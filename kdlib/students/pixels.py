"""What students that read pixels share: normalised pixels, a trunk that ends in the embedding, a text side."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from kdlib.students.student import Student, StudentSpec, unit
from kdlib.students.text import text_side

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, whatever the teacher uses


class PixelStudent(Student):
    """A network from pixels to D outputs. One more: the function ``network`` of the spec, in a file of its own.

    The text side, where there is one, is ``spec.text_side``: a projection of the teacher's text feature as in the
    paper, whose sizes count no text, or a text side of its own, with which the student stands alone.
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
    """(B, 3, H, W) in [0, 1] -> zero mean, unit deviation."""
    mean, std = (torch.tensor(values, device=pixels.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std
