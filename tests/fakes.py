"""A small batch of everything that a student or a loss may read, and a loader of such batches, without data on disk."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from kdlib import students
from kdlib.config import RunConfig
from kdlib.utils import generator

N, L, T = 16, 5, 32  # image tokens, text tokens, the teacher's width


def config(method: str = "projection", **fields) -> RunConfig:
    small = {"width": 24, "bottleneck": 8, "image_size": 32, "batch_size": 4, "anchors": 7, "warmup_steps": 3}
    return RunConfig(**{"teacher": "clip", "dataset": "coco", "method": method} | small | fields)


def inputs(text: bool = True) -> students.Inputs:
    return students.Inputs(teacher_width=T, grid=(4, 4), text=text, vocabulary=9 if text else 0)


def batch(rows: int = 3, draw: torch.Generator | None = None) -> dict[str, Tensor]:
    draw = draw or torch.Generator().manual_seed(0)
    mask = torch.arange(L)[None] < torch.tensor([5, 3, 2])[torch.arange(rows) % 3][:, None]
    made = {name: torch.randn(rows, T, generator=draw) for name in ("image", "text")}
    made["image_tokens"] = torch.randn(rows, N, T, generator=draw)
    made["text_tokens"] = torch.randn(rows, L, T, generator=draw) * mask[..., None]
    made["image_attention"] = torch.rand(rows, N, generator=draw)
    made["text_attention"] = torch.rand(rows, L, generator=draw) * mask
    made |= {f"{side}_anchors": torch.randn(7, T, generator=draw) for side in ("image", "text")}
    made["text_ids"] = torch.randint(1, 9, (rows, L), generator=draw) * mask
    made["pixels"] = torch.rand(rows, 3, 32, 32, generator=draw)
    return made | {"text_mask": mask, "row": torch.arange(rows), "label": torch.arange(rows) % 7}


def clouds(count: int, classes: int, seed: int, spread: float = 2.0) -> tuple[Tensor, np.ndarray]:
    """Features (count, 12) around a centre a class, and their labels."""
    labels, centres = np.arange(count) % classes, np.random.default_rng(99).normal(size=(classes, 12))
    noise = np.random.default_rng(seed).normal(size=(count, 12))
    return torch.tensor(centres[labels] + spread * noise, dtype=torch.float32), labels


def signs(count: int, seed: int) -> Tensor:
    """Vectors of four signs: their cosines are exact multiples of 1/2, so nearly everything ties."""
    return torch.tensor(np.random.default_rng(seed).choice([-1.0, 1.0], size=(count, 4)), dtype=torch.float32)


class Loader:
    """What the trainer asks of a loader. All that it draws, the pixels as crops do, depends on (seed, epoch)."""

    def __init__(self, config: RunConfig, steps: int = 3, stop_at: tuple[int, int] = (0, 0)):
        self.config, self.steps, self.batch_size = config, steps, config.batch_size
        self.stop_at = stop_at  # epoch and step in which the training is interrupted

    def __len__(self) -> int:
        return self.steps

    def epoch(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        draw = generator(self.config.seed, "order", epoch)
        for step in range(1, self.steps + 1):
            if (epoch, step) == self.stop_at:
                raise KeyboardInterrupt
            yield batch(self.batch_size, draw)
