"""A split through a student: all image embeddings, and the embeddings of all captions."""

import numpy as np
import torch
from torch import Tensor

from kdlib.device import choose
from kdlib.loader import Reader, Split
from kdlib.students import Student

BATCH = 256


@torch.inference_mode()
def embed(student: Student, split: Split, device: str = "auto", batch: int = BATCH) -> dict[str, Tensor]:
    """``image`` (N, D), ``text`` (M, D) where there is text, ``image_attention`` (N, tokens) where there is one.

    Float32 on the CPU, in the order of the store, eval mode, every caption of every image.
    """
    target = choose(device)
    student = student.to(target).eval()
    reader = Reader(split, student.reads)
    parts: dict[str, list[Tensor]] = {}
    for rows in _chunks(len(split), batch):
        seen = student.see({name: value.to(target) for name, value in reader.images(rows).items()})
        for name, value in seen.items():
            parts.setdefault(name, []).append(value.float().cpu())
    if student.spec.text:
        for rows in _chunks(len(split.owner), batch):
            read = student.read({name: value.to(target) for name, value in reader.texts(rows).items()})
            parts.setdefault("text", []).append(read["text"].float().cpu())
    return {name: torch.cat(values) for name, values in parts.items()}


def _chunks(count: int, size: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]


def teacher_features(split: Split) -> dict[str, Tensor]:
    """The teacher's own pooled features from the store, in the form that :func:`embed` gives a student's."""
    names = ("image", "text") if split.has_text else ("image",)
    return {name: torch.from_numpy(np.array(split.store[f"{name}_pooled"])).float() for name in names}
