"""The transformer block of the ViT student and of the text transformer. Vaswani et al., arXiv:1706.03762."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EXPANSION = 4  # width of the perceptron's hidden layer, in widths of the block


class Block(nn.Module):
    """Pre-norm self-attention and a two-layer perceptron, each with a residual: (B, N, W) -> (B, N, W)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide the width {width}; set 'heads' to a divisor of it.")
        self.heads = heads
        self.before_attention, self.before_hidden = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.hidden = nn.Sequential(nn.Linear(width, EXPANSION * width), nn.GELU(), nn.Linear(EXPANSION * width, width))

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """``tokens`` (B, N, W); ``mask`` (B, N) true for tokens that are attended to."""
        queries, keys, values = self._parts(tokens)
        seen = None if mask is None else mask[:, None, None]  # (B, 1, 1, N)
        looked = F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen)  # (B, heads, N, W / heads)
        tokens = tokens + self.mix(looked.transpose(1, 2).flatten(2))
        return tokens + self.hidden(self.before_hidden(tokens))

    def attention_of_first(self, tokens: Tensor) -> Tensor:
        """Attention of the first token to the others, (B, N - 1): mean over heads, rows sum to 1."""
        queries, keys, _ = self._parts(tokens)
        scores = queries[:, :, :1] @ keys.transpose(2, 3) / queries.shape[-1] ** 0.5  # (B, heads, 1, N)
        weights = scores.softmax(-1)[:, :, 0, 1:].mean(dim=1)
        return weights / weights.sum(dim=-1, keepdim=True).clamp_min(1e-12)

    def _parts(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (B, heads, N, W / heads) each."""
        parts = self.queries_keys_values(self.before_attention(tokens))
        return parts.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()


def positions(count: int, width: int) -> nn.Parameter:
    """Learned position embeddings (count, width), with initial deviation 0.02."""
    return nn.Parameter(0.02 * torch.randn(count, width))
