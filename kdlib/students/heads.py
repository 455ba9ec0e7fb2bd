"""Students that read the teacher's features: projection, bottleneck, attention, CBAM."""

import math

import torch
from torch import Tensor, nn

from kdlib.config import RunConfig
from kdlib.students.base import Inputs, Student, standardised, unit

HEADS = 8  # of multi-head attention; of a width that they do not divide, as many of them as do
BLOCKS, REDUCTION, KERNEL = 2, 16, 7  # of CBAM: the authors' reduction and kernel


class Projection(Student):
    """One linear layer a side on the teacher's pooled feature."""

    reads = "features"

    def __init__(self, config: RunConfig, inputs: Inputs):
        super().__init__(config, inputs)
        self.image = self.side(inputs.teacher_width, config.width)
        if inputs.text:
            self.text = self.side(inputs.teacher_width, config.width)

    def side(self, teacher_width: int, width: int) -> nn.Module:
        return nn.Linear(teacher_width, width)

    def see(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"image": unit(self.image(standardised(batch["image"])))}


class Bottleneck(Projection):
    """A linear layer to ``config.bottleneck`` units, ReLU, a linear layer to the embedding; on each side."""

    def side(self, teacher_width: int, width: int) -> nn.Module:
        inner = self.config.bottleneck
        return nn.Sequential(nn.Linear(teacher_width, inner), nn.ReLU(), nn.Linear(inner, width))


class AttentionSide(nn.Module):
    """Multi-head attention from the pooled feature, the only query, to itself and the tokens; then a linear layer."""

    def __init__(self, teacher_width: int, width: int):
        super().__init__()
        self.attend = nn.MultiheadAttention(teacher_width, math.gcd(teacher_width, HEADS), batch_first=True)
        self.project = nn.Linear(teacher_width, width)

    def forward(self, pooled: Tensor, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, T), (B, N, T), mask (B, N) true for tokens -> unit (B, D), and attention (B, N) whose rows sum to 1."""
        query = standardised(pooled)[:, None]  # (B, 1, T)
        keys = torch.cat([query, standardised(tokens)], dim=1)  # (B, 1 + N, T)
        padding = None if mask is None else torch.cat([mask.new_zeros(len(mask), 1), ~mask], dim=1)
        attended, weights = self.attend(query, keys, keys, key_padding_mask=padding)  # (B, 1, T), (B, 1, 1 + N)
        attention = weights[:, 0, 1:]
        attention = attention / attention.sum(dim=-1, keepdim=True).clamp_min(1e-12)
        return unit(self.project((query + attended)[:, 0])), attention


class Attention(Projection):
    """An attention block a side, over the teacher's tokens."""

    reads = "tokens"

    def side(self, teacher_width: int, width: int) -> nn.Module:
        return AttentionSide(teacher_width, width)

    def see(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        embedding, attention = self.image(batch["image"], batch["image_tokens"])
        return {"image": embedding, "image_attention": attention}

    def read(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        embedding, attention = self.text(batch["text"], batch["text_tokens"], batch["text_mask"])
        return {"text": embedding, "text_attention": attention}


class CBAMBlock(nn.Module):
    """Channel attention, then spatial attention, on the map of image tokens. Woo et al., arXiv:1807.06521."""

    def __init__(self, width: int):
        super().__init__()
        inner = max(1, width // REDUCTION)
        down, up = nn.Linear(width, inner, bias=False), nn.Linear(inner, width, bias=False)
        self.channels = nn.Sequential(down, nn.ReLU(), up)
        self.places = nn.Conv2d(2, 1, KERNEL, padding=KERNEL // 2, bias=False)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, h, w) -> the weighted maps (B, T, h, w), and the spatial weights (B, h, w) in (0, 1)."""
        by_channel = self.channels(maps.mean(dim=(2, 3))) + self.channels(maps.amax(dim=(2, 3)))  # (B, T)
        maps = maps * by_channel.sigmoid()[:, :, None, None]
        summary = torch.stack([maps.mean(dim=1), maps.amax(dim=1)], dim=1)  # (B, 2, h, w)
        by_place = self.places(summary).sigmoid()  # (B, 1, h, w)
        return maps * by_place, by_place[:, 0]


class CBAM(Student):
    """The mean of the refined map, added to the teacher's pooled feature, then a linear layer to the embedding."""

    reads = "tokens"

    def __init__(self, config: RunConfig, inputs: Inputs):
        super().__init__(config, inputs)
        self.blocks = nn.ModuleList([CBAMBlock(inputs.teacher_width) for _ in range(BLOCKS)])
        self.image = nn.Linear(inputs.teacher_width, config.width)
        if inputs.text:
            self.text = nn.Linear(inputs.teacher_width, config.width)

    def see(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        maps = standardised(batch["image_tokens"]).transpose(1, 2).unflatten(2, self.inputs.grid)  # (B, T, h, w)
        for block in self.blocks:
            maps, places = block(maps)
        attention = places.flatten(1)  # (B, N), the last block's
        # Without the pooled feature it keeps less of CLIP: notebooks/studies/tuning.csv.
        refined = standardised(batch["image"]) + standardised(maps.mean(dim=(2, 3)))  # (B, T)
        return {"image": unit(self.image(refined)), "image_attention": attention / attention.sum(dim=-1, keepdim=True)}
