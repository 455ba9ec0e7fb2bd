"""The cost of a student and of its teacher at inference: sizes, multiply-accumulates and times."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from kdlib.features import fitted
from kdlib.loader import Reader, Split
from kdlib.machine import call_times, choose, latency, multiply_accumulates, to_device
from kdlib.students import Student, megabytes
from kdlib.teachers import Teacher

CAPTION, BATCHES = "a photo of two dogs on a green meadow", (1, 32)


@torch.inference_mode()
def student_cost(student: Student, split: Split, image: Image.Image, device="auto", calls: int = 200) -> dict:
    """{"mb", "image": {"macs", "1_ms", "32_ms"}, "text": {...}}, from features, or pixels of a decoded ``image``."""
    target = choose(str(device))
    student = student.to(target).eval()
    reader = Reader(split, student.reads, student.text_reads)
    images = {size: to_device(reader.images(np.arange(size) % len(split)), target) for size in BATCHES}

    def see(size: int):
        if student.reads != "pixels":
            return student.see(images[size])
        pixels = np.stack([fitted(image, images[size]["pixels"].shape[-1]) for _ in range(size)])
        return student.see({"pixels": torch.from_numpy(pixels).to(target).float() / 255})

    cost = {"mb": megabytes(student), "image": _measured(see, target, calls)}
    if student.inputs.text:
        texts = {size: to_device(reader.texts(np.arange(size) % len(split.owner)), target) for size in BATCHES}
        cost["text"] = _measured(lambda size: student.read(texts[size]), target, calls)
    return cost


def teacher_cost(teacher: Teacher, calls: int = 200) -> dict:
    """{"image": {"mb", "macs", "1_ms", "32_ms"}, "text": {...}}: from decoded image, and from string, to features."""
    side, device = teacher.image_size, teacher.device
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8))
    cost = {"image": _measured(lambda size: teacher.encode_images([noise] * size), device, calls)}
    if teacher.has_text:
        cost["text"] = _measured(lambda size: teacher.encode_texts([CAPTION] * size), device, calls)
    return {side: values | {"mb": teacher.parameters[side] * 4 / 2**20} for side, values in cost.items()}


def _measured(call: Callable, device: torch.device, calls: int) -> dict:
    """Multiply-accumulates of one input, milliseconds of each call with batches of 1 and 32."""
    times = {f"{size}_ms": call_times(lambda size=size: call(size), device, calls) for size in BATCHES}
    return {"macs": multiply_accumulates(lambda: call(1))} | times


def _parts(cost: dict, teacher: dict, student: Student) -> dict[str, list[dict]]:
    """What each side needs at inference: of the student and, if it reads the teacher's features, of the teacher."""
    own = {"image": student.reads == "pixels", "text": student.text_reads == "ids"}
    return {side: [cost[side]] if own[side] else [cost[side], teacher[side]] for side in own if side in cost}


def sizes(cost: dict, teacher: dict, student: Student) -> dict[str, float]:
    """MB of 2^20 bytes: of the student, of all that it needs at inference, of the whole teacher."""
    needed = sum(part["mb"] for _, *parts in _parts(cost, teacher, student).values() for part in parts)
    whole = sum(side["mb"] for side in teacher.values())
    return {"student_mb": cost["mb"], "inference_mb": cost["mb"] + needed, "teacher_mb": whole}


def times(cost: dict, teacher: dict, student: Student, history: list[dict]) -> dict:
    """Median seconds an epoch after the first, share of waiting for data; cost from pixels or text to embedding."""
    record = {"epoch_s": float(np.median([epoch["seconds"] for epoch in history[1:] or history])), "macs": {}}
    record["waiting"] = float(np.mean([epoch["data_share"] for epoch in history]))
    for side, parts in _parts(cost, teacher, student).items():
        record["macs"][side] = sum(part["macs"] for part in parts)
        record |= {f"{side}_{size}": latency(*(part[f"{size}_ms"] for part in parts)) for size in BATCHES}
    return record
