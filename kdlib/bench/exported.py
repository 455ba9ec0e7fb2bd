"""Exported students of full size against teachers exported by the same code: latency on one thread, and int8's size.

Weights are random: speed does not depend on them. Teachers read 224 pixels; ResNet-18 the 64 of paper.yaml, and 224.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from kdlib import students, teachers
from kdlib.bench import fullsize
from kdlib.bench.measure import Row, Setting, in_turns
from kdlib.export.check import File
from kdlib.export.graph import ImageTower, write
from kdlib.export.quantise import quantise
from kdlib.export.yardstick import TeacherImage
from kdlib.students import StudentSpec

ROUNDS = 15
NAMES = {"resnet": "ResNet-18", "mobilenet": "MobileNetV3 small"}
STUDENTS = (("resnet", 64), ("resnet", 224), ("mobilenet", 224))
FASTER, SMALLER = 20.0, 3.9


def run(setting: Setting) -> list[Row]:
    """Each student's files against each teacher's, then against each other."""
    folder = setting.scratch / "exported"
    folder.mkdir(exist_ok=True)
    yardsticks = {
        "DINO's ViT-B/16": _write(
            TeacherImage(teachers.load("dino", str(fullsize.dino_checkpoint(setting)))), folder / "dino.onnx"
        ),
        "CLIP's ViT-B/32": _write(
            TeacherImage(teachers.load("clip", str(fullsize.clip_checkpoint(setting)))), folder / "clip.onnx"
        ),
    }
    rows, smaller = [], {}
    for method, size in STUDENTS:
        path = _write(_student(method, size), folder / f"{method}-{size}.onnx", size)
        twin = path.with_suffix(".int8.onnx")
        quantise(path, twin, ({"pixels": _pixels(8, size, seed)} for seed in range(4)))
        what = f"an image of {size} pixels through the exported {NAMES[method]}, one thread"
        rows += [_faster(what, size, path, twin, *yardstick) for yardstick in yardsticks.items()]
        smaller[method] = _smaller(NAMES[method], path, twin)
    return rows + list(smaller.values())


def _faster(what: str, size: int, path: Path, twin: Path, against: str, teacher: Path) -> Row:
    ours, eight, theirs = (File(file, threads=1) for file in (path, twin, teacher))
    one, large = {"pixels": _pixels(1, size)}, {"pixels": _pixels(1, 224)}
    slow, quick = in_turns(lambda: theirs(large), lambda: ours(one), rounds=ROUNDS)
    _, quicker = in_turns(lambda: None, lambda: eight(one), rounds=ROUNDS)
    note = f"int8 {1000 * quicker:.3g} ms, {slow / quicker:.0f} times"
    return Row(what, f"{against} exported likewise", slow / quick, FASTER, 1000 * quick, 1000 * slow, "ms", note=note)


def _smaller(name: str, path: Path, twin: Path) -> Row:
    sizes = [file.stat().st_size / 2**20 for file in (path, twin)]
    return Row(
        f"size of {name}'s int8 file", "its float32 file", sizes[0] / sizes[1], SMALLER, sizes[1], sizes[0], "MB"
    )


def _student(method: str, size: int) -> nn.Module:
    torch.manual_seed(0)
    spec = StudentSpec(teacher_width=768, width=256, convnet="full", image_size=size)
    return ImageTower(students.build(method, spec))


def _write(tower: nn.Module, path: Path, size: int = 224) -> Path:
    write(tower, "image", (torch.from_numpy(_pixels(2, size)),), path)
    return path


def _pixels(count: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
