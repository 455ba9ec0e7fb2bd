"""The cost of a student and of its teacher at inference: sizes, multiply-accumulates and times."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdlib.features.encoders import fitted
from kdlib.features.loader import Reader, Split
from kdlib.machine import call_times, choose, latency, multiply_accumulates
from kdlib.students import Student, megabytes
from kdlib.teachers.teacher import Teacher

CAPTION = "a photo of two dogs on a green meadow"


@torch.inference_mode()
def student_cost(student: Student, split: Split, image: Image.Image, device: str = "auto", calls: int = 200) -> dict:
    """{"student_mb", "text_mb", "image": {...}, "text": {...}}: MB of the whole student and of its text side.

    Of each side: multiply-accumulates of one input, and milliseconds of each call at batches of 1 and 32. A student
    that reads pixels is timed from a decoded ``image``, resizing included, as teachers are; one that reads features is
    timed from features of the store.
    """
    target = choose(device)
    student = student.to(target).eval()
    reader = Reader(split, student.reads, student.text_reads)
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
    """MB of the text side, which the paper's sizes of pixel students leave out."""
    sides = [module for name, module in student.named_children() if name.startswith("text")]
    return sum(megabytes(side) for side in sides)


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


def sizes(cost: dict, teacher: dict, student: Student, file: Path) -> dict[str, float]:
    """Sizes in MB of 2^20 bytes, and multiply-accumulates of one input.

    ``student_mb``: the student. ``image_mb``: the student without its text side. ``deployed_mb``: the student and the
    sides of the teacher that it needs at inference. ``safetensors_bytes``: the checkpoint's weights. ``image_macs`` and
    ``text_macs``: of the student alone. ``deployed_..._macs``: from pixels, or from text, to the embedding.
    """
    needed = backbones(teacher, cost, student)
    record = {
        "student_mb": cost["student_mb"],
        "image_mb": cost["student_mb"] - cost["text_mb"],
        "deployed_mb": cost["student_mb"] + sum(side["mb"] for side in needed.values()),
        "safetensors_bytes": file.stat().st_size,
    }
    for side in ("image", "text"):
        if side in cost:
            below = needed[side]["macs"] if side in needed else 0
            record |= {f"{side}_macs": cost[side]["macs"], f"deployed_{side}_macs": cost[side]["macs"] + below}
    return record


def backbones(teacher: dict, cost: dict, student: Student) -> dict[str, dict]:
    """{side: cost} of the teacher's sides that the student needs at inference: those whose features it reads."""
    own = {"image": student.reads == "pixels", "text": student.text_reads == "ids"}
    return {side: teacher[side] for side in ("image", "text") if side in cost and not own[side]}


def times(cost: dict, teacher: dict, student: Student, history: list[dict]) -> dict:
    """Seconds an epoch (the first one, and the median of the others); milliseconds from pixels or text to embedding.

    The times of a student that reads the teacher's features include the teacher's; the two are measured apart.
    ``..._per_second``: inputs a second at batches of 32.
    """
    later = [record["seconds"] for record in history[1:]] or [history[0]["seconds"]]
    record: dict = {
        "seconds_per_epoch": float(np.median(later)),
        "first_epoch_seconds": history[0]["seconds"],
        "data_share": float(np.mean([record["data_share"] for record in history])),
        "teacher": "cached",
    }
    needed = backbones(teacher, cost, student)
    for side in ("image", "text"):
        if side not in cost:
            continue
        for batch in ("batch_1", "batch_32"):
            own = cost[side][f"{batch}_ms"]
            below = [needed[side][f"{batch}_ms"]] if side in needed else []
            record[f"{side}_{batch}"] = latency(*below, own) | {"student_p50_ms": latency(own)["p50_ms"]}
        record[f"{side}_per_second"] = 32_000 / record[f"{side}_batch_32"]["p50_ms"]
    return record


def minutes_from_nothing(trained_on: list[Split], history: list[dict]) -> float:
    """Minutes from decoded data to this student: the stores of its training images, then its epochs."""
    stores = [store for split in trained_on for store in (*split.of_teacher, *split.decoded)]
    seconds = sum(store.manifest["build_seconds"] for store in stores) + sum(epoch["seconds"] for epoch in history)
    return seconds / 60
