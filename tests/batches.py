"""A small batch of everything that a student may read, and the spec of small students."""

import torch

B, N, L = 3, 16, 5
SMALL = {"teacher_width": 32, "width": 24, "grid": (4, 4), "bottleneck": 8, "heads": 4, "convnet": "narrow"}
SMALL |= {"image_size": 32}


def batch(seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]], dtype=torch.bool)
    return {
        "image": torch.randn(B, 32, generator=generator),
        "image_tokens": torch.randn(B, N, 32, generator=generator),
        "text": torch.randn(B, 32, generator=generator),
        "text_tokens": torch.randn(B, L, 32, generator=generator) * mask[..., None],
        "text_mask": mask,
        "text_ids": torch.randint(1, 9, (B, L), generator=generator) * mask,
        "pixels": torch.rand(B, 3, 32, 32, generator=generator),
    }
