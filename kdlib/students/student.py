"""The interface of a student: from a batch to unit-length embeddings and attention maps, in one dict."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class StudentSpec:
    """What a student is built from: ``teacher_width`` T, ``width`` D, ``grid`` rows and columns of image tokens, ...

    ``text``: whether it has a text side. ``text_side``: teacher, bag or transformer; the last two read ids of a
    vocabulary of ``vocabulary`` tokens.
    """

    teacher_width: int
    width: int = 256
    grid: tuple[int, int] = (14, 14)
    text: bool = False
    bottleneck: int = 128
    heads: int = 8
    convnet: str = "full"
    pretrained: bool = False
    image_size: int = 48
    text_side: str = "teacher"
    vocabulary: int = 0


class Student(nn.Module):
    """``forward(batch) -> {"image": (B, D), "text": (B, D)?, "image_attention": (B, N)?, "text_attention": (B, L)?}``.

    ``reads`` says what it reads of an image: the teacher's pooled 'features', its 'tokens', or 'pixels'; ``text_reads``
    what of a text: 'features', 'tokens', or 'ids'. A student of a vision-only teacher has no text side. A subclass
    defines ``reads`` and :meth:`see`; its text side is the module ``self.text``, or a :meth:`read` of its own.
    """

    reads: ClassVar[str]
    own_text: ClassVar[bool] = False  # whether it can have a text side that reads ids

    def __init__(self, spec: StudentSpec):
        super().__init__()
        self.spec = spec
        if spec.text_side != "teacher" and not self.own_text:
            raise ValueError(
                f"{type(self).__name__} reads the teacher's features and has no text side of its own; set 'text_side' "
                "to 'teacher', or take a student that reads pixels."
            )

    @property
    def text_reads(self) -> str:
        """What it reads of a text: 'features', 'tokens', or 'ids'."""
        if self.spec.text_side != "teacher":
            return "ids"
        return "tokens" if self.reads == "tokens" else "features"

    @property
    def attends(self) -> bool:
        """Whether its outputs have an attention map, 'image_attention'."""
        return self.reads == "tokens"

    @property
    def stands_alone(self) -> bool:
        """Whether it needs no teacher at inference."""
        return self.reads == "pixels" and (not self.spec.text or self.text_reads == "ids")

    def see(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The image side: ``image`` (B, D) at length 1 and, where :attr:`attends`, ``image_attention`` (B, N)."""
        raise NotImplementedError(f"{type(self).__name__} needs a method see(batch)")

    def read(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The text side: ``text`` (B, D) at length 1 and, for some students, ``text_attention`` (B, L)."""
        if self.text_reads == "ids":
            return {"text": unit(self.text(batch["text_ids"], batch["text_mask"]))}
        return {"text": unit(self.text(standardised(batch["text"])))}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The outputs of the image side and, where there is one, of the text side."""
        return self.see(batch) | (self.read(batch) if self.spec.text else {})


def unit(vectors: Tensor) -> Tensor:
    """Vectors (..., D) scaled to length 1."""
    return F.normalize(vectors, dim=-1)


def standardised(features: Tensor) -> Tensor:
    """Teacher features (..., T) scaled to length sqrt(T), so that one learning rate suits all teachers.

    Cosines, and with them the teacher's similarities, do not change.
    """
    return F.normalize(features, dim=-1) * features.shape[-1] ** 0.5


def megabytes(module: nn.Module) -> float:
    """Size of a module's parameters in float32, in MB of 2^20 bytes, as the paper counts it."""
    return sum(parameter.numel() for parameter in module.parameters()) * 4 / 2**20
