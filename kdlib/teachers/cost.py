"""What a teacher's backbone costs at inference, for the students that need it there."""

import numpy as np
import torch
from PIL import Image

from kdlib.device import latency
from kdlib.teachers.teacher import Teacher


def teacher_cost(teacher: Teacher) -> dict:
    """MB of the weights that each side uses, and milliseconds from decoded image to features.

    Preprocessing included.
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
        images = [image] * batch
        cost[f"batch_{batch}"] = latency(lambda images=images: teacher.encode_images(images), teacher.device)
    return cost
