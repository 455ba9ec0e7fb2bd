"""The attention student: a multi-head attention block over the teacher's tokens, then a linear layer."""

import torch
from torch import Tensor, nn

from kdlib.students.student import Student, StudentSpec, standardised, unit


class AttentionBlock(nn.Module):
    """Multi-head attention from the pooled feature to the tokens: (B, T), (B, N, T) -> (B, T) and attention (B, N).

    The pooled feature is the only query, since only its output is used. Keys and values are the pooled feature and the
    tokens (CLIP ViT-B/32: 1 + 49). The query is added to the output, as a residual.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, pooled: Tensor, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attended feature (B, T) and attention (B, N), whose rows sum to 1; ``mask`` (B, N) true for tokens."""
        query = standardised(pooled)[:, None]  # (B, 1, T)
        keys = torch.cat([query, standardised(tokens)], dim=1)  # (B, 1 + N, T)
        padding = None
        if mask is not None:
            padding = torch.cat([mask.new_zeros(len(mask), 1), ~mask], dim=1)
        attended, weights = self.attend(query, keys, keys, key_padding_mask=padding)  # (B, 1, T), (B, 1, 1 + N)
        attention = weights[:, 0, 1:]
        attention = attention / attention.sum(dim=-1, keepdim=True).clamp_min(1e-12)
        return (query + attended)[:, 0], attention


class Attention(Student):
    """One attention block a side over the teacher's tokens, then a linear layer to the embedding."""

    reads = "tokens"

    def __init__(self, spec: StudentSpec):
        super().__init__(spec)
        if spec.teacher_width % spec.heads:
            raise ValueError(
                f"{spec.heads} heads do not divide the teacher's width {spec.teacher_width}; set 'heads' to one of "
                f"{[heads for heads in range(1, 17) if spec.teacher_width % heads == 0]}."
            )
        self.image_block = AttentionBlock(spec.teacher_width, spec.heads)
        self.image = nn.Linear(spec.teacher_width, spec.width)
        if spec.text:
            self.text_block = AttentionBlock(spec.teacher_width, spec.heads)
            self.text = nn.Linear(spec.teacher_width, spec.width)

    def see(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """image (B, D) and image_attention (B, N)."""
        attended, attention = self.image_block(batch["image"], batch["image_tokens"])
        return {"image": unit(self.image(attended)), "image_attention": attention}

    def read(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """text (B, D) and text_attention (B, L)."""
        attended, attention = self.text_block(batch["text"], batch["text_tokens"], batch["text_mask"])
        return {"text": unit(self.text(attended)), "text_attention": attention}
