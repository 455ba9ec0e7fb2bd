"""Whether torch.compile pays for itself: seconds to compile a convolutional student's step against what it gains."""

import torch
from torch import nn
from torch._inductor.utils import fresh_cache

from kdlib import students
from kdlib.bench import fullsize
from kdlib.bench.measure import Row, Setting, in_turns, seconds
from kdlib.config import RunConfig
from kdlib.distiller import Distiller
from kdlib.machine import autocast, choose
from kdlib.trainer import make_optimizer

SIZE, BATCH, CLASSES = 64, 64, 200
EPOCH = 90_000  # training images of Tiny ImageNet without dev


def run(setting: Setting) -> list[Row]:
    """A row a network; without a bar, since the question is whether to use it at all."""
    return [_row(method, setting.threads) for method in ("resnet", "densenet")]


def _row(method: str, threads: int) -> Row:
    given = {"epochs": 1, "convnet": "full", "image_size": SIZE, "batch_size": BATCH, "threads": threads}
    config = RunConfig(study="bench", teacher="dino", dataset="tinyimagenet", method=method, precision="bfloat16",
                       device="cpu", **given)  # fmt: skip
    random = torch.Generator().manual_seed(0)
    batch = {
        "pixels": torch.randn(BATCH, 3, SIZE, SIZE, generator=random).contiguous(memory_format=torch.channels_last),
        "image": torch.randn(BATCH, fullsize.WIDTH, generator=random),
        "label": torch.randint(0, CLASSES, (BATCH,), generator=random),
    }
    eager = Step(method, config, batch)
    compiled = Step(method, config, batch)
    compiled.forward = torch.compile(compiled.distiller)
    with fresh_cache():  # or the second bench on a machine would find what the first one compiled
        compiling = seconds(compiled)
    ours, theirs = in_turns(compiled, eager)
    gain = theirs - ours
    note = f"compiling took {compiling:.0f} s"
    if gain > 0.02 * theirs:  # less is noise
        note += f", which it gains back in {compiling / gain / (EPOCH / BATCH):.2f} epochs of Tiny ImageNet"
    return Row(f"a step of {method} (full size) at {SIZE} pixels by torch.compile", "the same step without it",
               theirs / ours, None, 1 / ours, 1 / theirs, "steps/s", note=note)  # fmt: skip


class Step:
    """One step of training as the trainer makes it, on a batch in RAM."""

    def __init__(self, method: str, config: RunConfig, batch: dict):
        torch.manual_seed(0)
        student = students.build(method, students.StudentSpec(fullsize.WIDTH, config.width, convnet="full"))
        self.distiller = Distiller(student, ("no_teacher",), config, 14.0, CLASSES)
        self.distiller.to(memory_format=torch.channels_last).train()
        self.forward: nn.Module = self.distiller
        self.optimizer = make_optimizer(self.distiller, config)
        self.device, self.precision, self.batch = choose(config.device), config.precision, batch

    def __call__(self) -> None:
        with autocast(self.device, self.precision):
            loss, _ = self.forward(self.batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
