"""What a teacher's backbone costs at inference, for the students that need it there."""

import time

import numpy as np
import torch
from PIL import Image

from kdlib.device import latency
from kdlib.teachers.teacher import Teacher


def teacher_cost(teacher: Teacher) -> dict:
    """MB of the weights that each side uses, and milliseconds from decoded image to features.

    Preprocessing included. Few calls: a full-size teacher on a CPU takes a tenth of a second each.
    """
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
