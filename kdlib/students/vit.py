"""A small vision transformer on pixels. Dosovitskiy et al., arXiv:2010.11929."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from kdlib.students.pixels import PixelStudent, normalised
from kdlib.students.student import StudentSpec, unit
from kdlib.students.transformer import Block, positions

PATCH = 8
SIZES = {"narrow": (128, 4, 4), "full": (192, 12, 3)}  # width, layers, heads; full is ViT-Tiny


class ViT(nn.Module):
    """(B, 3, S, S) -> (B, D), and the class token's attention in the last layer (B, N), N = (S / PATCH)^2.

    The stem is convolutional, with which transformers train better: Xiao et al., arXiv:2106.14881.
    """

    def __init__(self, side: int, width: int, layers: int, heads: int, outputs: int):
        super().__init__()
        channels = (3, width // 4, width // 2, width)
        convolutions = [
            part
            for before, after in pairwise(channels)
            for part in (nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
        ]
        self.stem = nn.Sequential(*convolutions, nn.Conv2d(width, width, 1))  # an eighth of the side
        self.first = positions(1, width)
        self.places = positions((side // PATCH) ** 2, width)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """``pixels`` (B, 3, S, S), normalised, to outputs (B, D) and attention (B, N)."""
        patches = self.stem(pixels).flatten(2).transpose(1, 2) + self.places  # (B, N, W)
        tokens = torch.cat([self.first.expand(patches.shape[0], 1, -1), patches], dim=1)
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        attention = self.blocks[-1].attention_of_first(tokens)
        return self.head(self.norm(self.blocks[-1](tokens)[:, 0])), attention


class ViTStudent(PixelStudent):
    """``convnet``: 'full' is ViT-Tiny, 'narrow' a third of its depth. Its outputs have an attention map."""

    attends = True

    @staticmethod
    def network(spec: StudentSpec) -> nn.Module:
        """Fresh weights; raises ValueError where the patches do not fill the image."""
        if spec.image_size % PATCH:
            raise ValueError(f"The ViT's patches of {PATCH} pixels do not fill {spec.image_size}; set 'image_size' so.")
        return ViT(spec.image_size, *SIZES[spec.convnet], spec.width)

    def see(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """image (B, D) and image_attention (B, N), from pixels (B, 3, S, S) in [0, 1]."""
        embedding, attention = self.trunk(normalised(batch["pixels"]))
        return {"image": unit(embedding), "image_attention": attention}
