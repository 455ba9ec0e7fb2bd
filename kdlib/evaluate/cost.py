"""What a student costs: parameters, and the time from input to embedding."""

import time
from collections.abc import Callable

import numpy as np
import torch

from kdlib.device import choose, now
from kdlib.loader import Reader, Split
from kdlib.students import Student, megabytes

WARMUP, CALLS = 10, 50


def latency(call: Callable, device: torch.device, warmup: int = WARMUP, calls: int = CALLS) -> dict[str, float]:
    """Milliseconds a call: median, 10th and 90th percentile."""
    for _ in range(warmup):
        call()
    seconds = []
    for _ in range(calls):
        started = now(device)
        call()
        seconds.append(now(device) - started)
    p10, p50, p90 = np.percentile(np.array(seconds) * 1000, [10, 50, 90])
    return {"p10_ms": float(p10), "p50_ms": float(p50), "p90_ms": float(p90), "calls": calls}


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


def teacher_cost(teacher) -> dict:
    """Size of the backbone and its latency from decoded image to features, preprocessing included.

    Few calls, since a full-size teacher on a CPU takes a tenth of a second each; no more than a rough figure.
    """
    from PIL import Image

    size = teacher.image_size
    noise = np.random.default_rng(0).integers(0, 255, (size, size, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    cost = {
        "image_mb": teacher.image_parameters * 4 / 2**20,
        "text_mb": teacher.text_parameters * 4 / 2**20,
        "threads": torch.get_num_threads(),
    }
    for batch in (1, 32):
        started = time.perf_counter()
        teacher.encode_images([image] * batch)
        calls = 20 if time.perf_counter() - started < 0.2 else 5
        call = lambda batch=batch: teacher.encode_images([image] * batch)  # noqa: E731
        cost[f"batch_{batch}"] = latency(call, teacher.device, warmup=2, calls=calls)
    return cost
