"""The interface of a student: from a batch to unit-length embeddings and attention maps, in one dict."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from kdlib.config import RunConfig


@dataclass(frozen=True)
class Inputs:
    """What there is to read."""

    teacher_width: int
    grid: tuple[int, int]  # rows and columns of the teacher's image tokens
    text: bool = False
    vocabulary: int = 0  # rows of the embedding table of a text side that reads ids


class Student(nn.Module):
    """``forward(batch) -> {"image": (B, D), "text": (B, D)?, "image_attention": (B, N)?, "text_attention": (B, L)?}``.

    A subclass says what it ``reads`` of an image (the teacher's pooled 'features', its 'tokens', or 'pixels') and
    defines ``see(batch)``. Its text side is the module ``self.text``, or a ``read`` of its own.
    """

    reads: ClassVar[str]

    def __init__(self, config: RunConfig, inputs: Inputs):
        super().__init__()
        self.config, self.inputs = config, inputs
        if self.text_reads == "ids" and self.reads != "pixels":
            raise ValueError(f"{type(self).__name__} has no text side of its own. Set text_side to 'teacher'.")

    @property
    def text_reads(self) -> str:
        """What it reads of a text: 'features', 'tokens', or 'ids'."""
        own = self.inputs.text and self.config.text_side != "teacher"
        return "ids" if own else "tokens" if self.reads == "tokens" else "features"

    @property
    def attends(self) -> bool:
        """Whether its outputs have 'image_attention'."""
        return self.reads == "tokens"

    @property
    def self_contained(self) -> bool:
        """Whether it needs no teacher at inference."""
        return self.reads == "pixels" and (not self.inputs.text or self.text_reads == "ids")

    def read(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.text_reads == "ids":
            return {"text": unit(self.text(batch["text_ids"], batch["text_mask"]))}
        return {"text": unit(self.text(standardised(batch["text"])))}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.see(batch) | (self.read(batch) if self.inputs.text else {})


def unit(vectors: Tensor) -> Tensor:
    """Vectors (..., D) scaled to length 1."""
    return F.normalize(vectors, dim=-1)


def standardised(features: Tensor) -> Tensor:
    """Teacher features (..., T) scaled to length sqrt(T), so that one learning rate suits all teachers."""
    return F.normalize(features, dim=-1) * features.shape[-1] ** 0.5


def megabytes(module: nn.Module) -> float:
    """Size of a module's parameters in float32, in MB of 2^20 bytes, as the paper counts it."""
    return sum(parameter.numel() for parameter in module.parameters()) * 4 / 2**20
