"""What a student costs: parameters, and the time from input to embedding."""

import numpy as np
import torch

from kdlib.device import choose, latency
from kdlib.loader import Reader, Split
from kdlib.students import Student, megabytes


@torch.inference_mode()
def student_cost(student: Student, split: Split, device: str = "auto") -> dict:
    """Size and latency of the student alone, image side, from what it reads to the embedding."""
    target = choose(device)
    student = student.to(target).eval()
    reader = Reader(split, student.reads)
    cost = {"student_mb": megabytes(student), "text_mb": _text_megabytes(student)}
    for size in (1, 32):
        rows = np.arange(size) % len(split)
        batch = {name: value.to(target) for name, value in reader.images(rows).items()}
        cost[f"batch_{size}"] = latency(lambda batch=batch: student.see(batch), target)
    return cost


def _text_megabytes(student: Student) -> float:
    """MB of the text side, which the study's sizes of pixel students leave out."""
    sides = [module for name, module in student.named_children() if name.startswith("text")]
    return sum(megabytes(side) for side in sides)
