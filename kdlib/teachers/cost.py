"""What a teacher's backbone costs at inference, for the students that need it there."""

import numpy as np
import torch
from PIL import Image

from kdlib.device import call_times, multiply_accumulates
from kdlib.teachers.teacher import Teacher

CAPTION = "a photo of two dogs on a green meadow"


def teacher_cost(teacher: Teacher, calls: int = 200) -> dict:
    """Of each side: MB of the weights that it uses, multiply-accumulates of one input, milliseconds of each call.

    ``image``: from decoded image to features, preprocessing included; ``text``: from string to features. Batches
    of 1 and 32.
    """
    size = teacher.image_size
    noise = np.random.default_rng(0).integers(0, 255, (size, size, 3), dtype=np.uint8)
    sides = {"image": (teacher.encode_images, Image.fromarray(noise), teacher.image_parameters)}
    if teacher.has_text:
        sides["text"] = (teacher.encode_texts, CAPTION, teacher.text_parameters)
    cost: dict = {"threads": torch.get_num_threads()}
    for side, (encode, one, parameters) in sides.items():
        cost[side] = {
            "mb": parameters * 4 / 2**20,
            "macs": multiply_accumulates(lambda encode=encode, one=one: encode([one])),
        }
        for batch in (1, 32):
            inputs = [one] * batch
            cost[side][f"batch_{batch}_ms"] = call_times(
                lambda encode=encode, inputs=inputs: encode(inputs), teacher.device, calls
            )
    return cost
