"""Exports the teacher by the same code, to compare a student's files with it in size and speed."""

import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor, nn

from kdlib.config import RunConfig
from kdlib.evaluate.cost import CAPTION
from kdlib.export import check
from kdlib.export.graph import write
from kdlib.export.quantise import Feed
from kdlib.files import digest, read_json, runs_root, write_json
from kdlib.machine import hardware
from kdlib.sources import describe, load_teacher
from kdlib.teachers import Teacher


class TeacherImage(nn.Module):
    """The image side of a teacher: (B, 3, S, S) uint8 -> (B, T), with its own mean and deviation."""

    def __init__(self, teacher: Teacher):
        super().__init__()
        self.model, self.look, self.factor = teacher.model, teacher.look, teacher.preprocess.rescale_factor
        for name in ("image_mean", "image_std"):
            values = torch.tensor(getattr(teacher.preprocess, name)).view(1, 3, 1, 1)
            self.register_buffer(name, values)

    def forward(self, pixels: Tensor) -> Tensor:
        """RGB pixels as they are in the file."""
        prepared = (pixels.float() * self.factor - self.image_mean) / self.image_std
        return F.normalize(self.look(prepared)["pooled"], dim=-1)


class TeacherText(nn.Module):
    """The text side of a teacher: ids and mask (B, L) int64 -> (B, T)."""

    def __init__(self, teacher: Teacher):
        super().__init__()
        self.model, self.read = teacher.model, teacher.read

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """As the teacher's tokenizer pads them."""
        return F.normalize(self.read(input_ids, attention_mask)["pooled"], dim=-1)


def files_cost(config: RunConfig) -> dict:
    """Side -> :func:`kdlib.export.check.cost` of the teacher's file; measured once per machine, in runs/costs/."""
    key = digest([describe(config), hardware(torch.device("cpu")), config.timed_calls])
    path = runs_root() / "costs" / f"{config.teacher.replace(':', '.')}-onnx-{key[:16]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if (record := read_json(path)) is None:
            with tempfile.TemporaryDirectory() as scratch:
                teacher = load_teacher(config.model_copy(update={"device": "cpu", "teacher_precision": "float32"}))
                record = write_and_measure(teacher, Path(scratch), config.timed_calls)
            write_json(path, record)
    return record


def write_and_measure(teacher: Teacher, folder: Path, calls: int) -> dict:
    """Write image.onnx and text.onnx, compare them with torch, and measure them. Returns side -> cost."""
    random = np.random.default_rng(0)
    size = teacher.image_size
    feeds = {count: {"pixels": random.integers(0, 256, (count, 3, size, size), dtype=np.uint8)} for count in (1, 32)}
    record = {"image": _measured(TeacherImage(teacher), "image", feeds, folder / "image.onnx", calls)}
    if teacher.has_text:
        read = teacher.tokenizer([CAPTION] * 32, return_tensors="np")
        ids = {name: read[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
        feeds = {count: {name: values[:count] for name, values in ids.items()} for count in (1, 32)}
        record["text"] = _measured(TeacherText(teacher), "text", feeds, folder / "text.onnx", calls)
    return record


def _measured(tower: nn.Module, side: str, feeds: dict[int, Feed], path: Path, calls: int) -> dict:
    batch = [torch.from_numpy(values[:2]) for values in feeds[32].values()]
    write(tower, side, tuple(batch), path)
    with torch.inference_mode():
        wanted = tower(*batch)
    made = check.File(path).all(iter([{name: values[:2] for name, values in feeds[32].items()}]))
    check.agreement(f"the teacher's {path.name}", made, wanted)
    return check.cost(path, tower, feeds, calls)
