"""What a student costs: parameters, operations, and the time from what it reads to the embedding."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdlib.device import call_times, choose, multiply_accumulates
from kdlib.features import fitted
from kdlib.loader import Reader, Split
from kdlib.students import Student, megabytes


@torch.inference_mode()
def student_cost(student: Student, split: Split, image: Image.Image, device: str = "auto", calls: int = 200) -> dict:
    """Size of the whole student; of each side MB, multiply-accumulates of one input, milliseconds of each call.

    A student that reads pixels is timed from a decoded ``image``, resizing included, as the teachers are; one that
    reads features from those in the store.
    """
    target = choose(device)
    student = student.to(target).eval()
    reader = Reader(split, student.reads)
    cost: dict = {"student_mb": megabytes(student), "text_mb": _text_megabytes(student)}
    sides = {"image": (student.see, reader.images, len(split))}
    if student.spec.text:
        sides["text"] = (student.read, reader.texts, len(split.owner))
    for side, (run, read, rows) in sides.items():
        inputs = {size: _to(read(np.arange(size) % rows), target) for size in (1, 32)}
        cost[side] = {"macs": multiply_accumulates(lambda run=run, one=inputs[1]: run(one))}
        for size, batch in inputs.items():
            call = lambda run=run, batch=batch: run(batch)  # noqa: E731
            if side == "image" and student.reads == "pixels":
                call = _from_image(student, image, batch["pixels"].shape[-1], size, target)
            cost[side][f"batch_{size}_ms"] = call_times(call, target, calls)
    return cost


def _from_image(student: Student, image: Image.Image, side: int, batch: int, device: torch.device):
    """A call that takes decoded images to embeddings."""

    def call():
        pixels = torch.from_numpy(np.stack([fitted(image, side) for _ in range(batch)])).to(device).float() / 255
        return student.see({"pixels": pixels})

    return call


def _to(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in batch.items()}


def _text_megabytes(student: Student) -> float:
    """MB of the text side, which the study's sizes of pixel students leave out."""
    sides = [module for name, module in student.named_children() if name.startswith("text")]
    return sum(megabytes(side) for side in sides)
