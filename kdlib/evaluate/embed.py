"""A split through a student: all image embeddings, and the embeddings of all captions."""

import numpy as np
import torch
from torch import Tensor

from kdlib.features.loader import Reader, Split
from kdlib.machine import choose, to_device
from kdlib.students import Student

BATCH = 256


@torch.inference_mode()
def embed(
    student: Student, split: Split, device: str = "auto", batch: int = BATCH, limit: int = 0
) -> dict[str, Tensor]:
    """``image`` (N, D); ``text`` (M, D) and ``prompt`` (K, D) where there are; ``image_attention`` (N, tokens).

    Only the first ``limit`` images and texts where it is given. Float32 on the CPU, in the order of the store,
    eval mode, every caption of every image.
    """
    target = choose(device)
    student = student.to(target, memory_format=torch.channels_last).eval()
    reader = Reader(split, student.reads, student.text_reads)
    parts: dict[str, list[Tensor]] = {}
    for rows in _chunks(len(split), batch, limit):
        seen = student.see(to_device(reader.images(rows), target))
        for name, value in seen.items():
            parts.setdefault(name, []).append(value.float().cpu())
    if student.spec.text:
        for kind in reader.offsets:
            for rows in _chunks(len(split.store[f"{kind}_length"]), batch, limit):
                read = student.read(to_device(reader.texts(rows, kind), target))
                parts.setdefault(kind, []).append(read["text"].float().cpu())
    return {name: torch.cat(values) for name, values in parts.items()}


def _chunks(count: int, size: int, limit: int) -> list[np.ndarray]:
    count = min(count, limit) if limit else count
    return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]


def teacher_features(split: Split) -> dict[str, Tensor]:
    """The teacher's own pooled features from the store, in the form that :func:`embed` gives a student's."""
    names = [name for name in ("image", "text", "prompt") if f"{name}_pooled" in split.store]
    return {name: torch.from_numpy(np.array(split.store[f"{name}_pooled"])).float() for name in names}
