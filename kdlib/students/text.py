"""Text sides of students that read pixels: a projection of the teacher's text feature, or a network on token ids.

The ids are those of :class:`kdlib.features.vocabulary.Vocabulary`: 0 is padding, 1 a token that no training text has.
Another text side: a module with ``forward(ids, mask)``, a case in :func:`text_side`, a name in ``RunConfig.text_side``.
"""

import torch
from torch import Tensor, nn

from kdlib.students.student import StudentSpec
from kdlib.students.transformer import Block, positions

LONGEST = 77  # tokens of a text that the transformer reads, as CLIP does
LAYERS = 2


class Bag(nn.Module):
    """A bag of words: the mean of the token embeddings, then two layers. It does not see the order of the words."""

    def __init__(self, vocabulary: int, width: int):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=0)
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ids (B, L) and mask (B, L), true for tokens -> (B, D)."""
        weight = mask.to(self.tokens.weight.dtype)[..., None]
        return self.layers((self.tokens(ids) * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1))


class TextTransformer(nn.Module):
    """Token embeddings with positions, two layers, the mean over the tokens, a projection."""

    def __init__(self, vocabulary: int, width: int, heads: int):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=0)
        self.places = positions(LONGEST, width)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(LAYERS)])
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, width)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ids (B, L) and mask (B, L), true for tokens -> (B, D); texts longer than LONGEST are cut."""
        ids, mask = ids[:, :LONGEST], mask[:, :LONGEST]
        mask = mask | (torch.arange(ids.shape[1], device=ids.device) == 0)  # softmax over no token would be NaN
        tokens = self.tokens(ids) + self.places[: ids.shape[1]]
        for block in self.blocks:
            tokens = block(tokens, mask)
        weight = mask.to(tokens.dtype)[..., None]
        return self.project((self.norm(tokens) * weight).sum(dim=1) / weight.sum(dim=1))


def text_side(spec: StudentSpec) -> nn.Module:
    """The text side that ``spec.text_side`` names; its D outputs are not scaled to length 1."""
    if spec.text_side == "teacher":
        return nn.Linear(spec.teacher_width, spec.width)
    if not spec.vocabulary:
        raise ValueError(
            f"The text side '{spec.text_side}' reads token ids, and the feature store holds none: it was built without."
        )
    if spec.text_side == "bag":
        return Bag(spec.vocabulary, spec.width)
    return TextTransformer(spec.vocabulary, spec.width, spec.heads)
