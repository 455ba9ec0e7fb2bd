"""The text side of a student that needs no teacher: a transformer on token ids of kdlib.loader.Vocabulary."""

import math

import torch
from torch import Tensor, nn

from kdlib.students.heads import HEADS

LAYERS, LONGEST = 2, 77  # it reads the first 77 tokens of a text, as CLIP does


class TextTransformer(nn.Module):
    """Token embeddings with learned positions, pre-norm encoder layers, the mean over the tokens, a linear layer."""

    def __init__(self, vocabulary: int, width: int):
        super().__init__()
        if not vocabulary:
            raise ValueError("text_side is 'transformer', but the features have no token ids. Set it to 'teacher'.")
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=0)
        self.places = nn.Parameter(0.02 * torch.randn(LONGEST, width))
        shape = width, math.gcd(width, HEADS), 4 * width, 0.0, "gelu"
        # Not nn.TransformerEncoder, whose layers begin as copies of one.
        layers = [nn.TransformerEncoderLayer(*shape, batch_first=True, norm_first=True) for _ in range(LAYERS)]
        self.layers, self.norm = nn.ModuleList(layers), nn.LayerNorm(width)
        self.project = nn.Linear(width, width)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ids (B, L) and mask (B, L), true for tokens -> (B, D), of any length."""
        ids, mask = ids[:, :LONGEST], mask[:, :LONGEST]
        mask = mask | (torch.arange(ids.shape[1], device=ids.device) == 0)  # softmax over no token would be NaN
        tokens = self.tokens(ids) + self.places[: ids.shape[1]]  # (B, L, D)
        for layer in self.layers:
            tokens = layer(tokens, src_key_padding_mask=~mask)
        weight = mask.to(tokens.dtype)[..., None]
        return self.project((self.norm(tokens) * weight).sum(dim=1) / weight.sum(dim=1))
