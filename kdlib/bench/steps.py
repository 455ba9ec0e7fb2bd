"""Epochs and steps of the students that read features: from the store, from RAM, and with the teacher in the loop."""

import shutil
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from kdlib import students, teachers
from kdlib.bench import fullsize
from kdlib.bench.measure import Row, Setting, in_turns, seconds
from kdlib.config import RunConfig
from kdlib.distiller import build
from kdlib.features.loader import Split, TrainLoader
from kdlib.files import RunDir
from kdlib.trainer import make_optimizer, train

ROWS, BATCH = 4096, 64
LIVE_ROWS = 2 * BATCH
READERS = {"projection": 1.5, "bottleneck": 1.5, "attention": 1.15, "cbam": 1.15}  # bar of a step against RAM
LIVE = {"projection": 300, "attention": 20}


def run(setting: Setting) -> list[Row]:
    """Epochs against a live teacher, then steps against RAM."""
    store = fullsize.random_store(setting.scratch / "random", ROWS)
    split = Split("fit", store)
    teacher = teachers.load("clip", str(fullsize.clip_checkpoint(setting)))
    live = LiveLoader(split, teacher, fullsize.photos(setting, LIVE_ROWS))
    rows = [_against_live(setting, split, live, method, bar) for method, bar in LIVE.items()]
    rows += [_against_ram(setting, split, method, bar) for method, bar in READERS.items()]
    shutil.rmtree(store.path)
    return rows


def configuration(setting: Setting, method: str, **given) -> RunConfig:
    """The configuration of a method at full size."""
    given = {"width": 256, "bottleneck": 128, "batch_size": BATCH, "epochs": 1, "threads": setting.threads} | given
    return RunConfig(study="bench", teacher="clip", dataset="coco", method=method, device="cpu", **given)


class LiveLoader(TrainLoader):
    """Batches without stored features: each step decodes images and runs the teacher on them and their captions."""

    def __init__(self, split: Split, teacher, dataset):
        super().__init__(split, "tokens", BATCH, seed=0)
        self.rows, self.teacher, self.dataset = np.arange(LIVE_ROWS), teacher, dataset

    def epoch(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        """The batches of one epoch, the teacher run for each."""
        for step in range(len(self)):
            rows = range(step * BATCH, (step + 1) * BATCH)
            seen = self.teacher.encode_images([self.dataset.images[row] for row in rows])
            read = self.teacher.encode_texts([self.dataset.captions[row][0] for row in rows])
            yield {
                "row": torch.tensor(rows),
                "image": seen["pooled"],
                "image_tokens": seen["tokens"],
                "image_attention": seen["attention"],
                "text": read["pooled"],
                "text_tokens": read["tokens"],
                "text_attention": read["attention"],
                "text_mask": read["mask"].bool(),
            }


def epoch_seconds(setting: Setting, config: RunConfig, loader: TrainLoader) -> float:
    """Seconds of an epoch of the trainer itself, without its checkpoint."""
    folder = setting.scratch / "run"
    shutil.rmtree(folder, ignore_errors=True)
    history = train(build(config, loader.split), loader, config, RunDir(folder), "bench")
    shutil.rmtree(folder)
    return history[-1]["seconds"]


def _against_live(setting: Setting, split: Split, live: LiveLoader, method: str, bar: float) -> Row:
    config = configuration(setting, method, epochs=2)  # the first epoch warms up
    reads = students.class_of(method).reads
    cached = epoch_seconds(setting, config, TrainLoader(split, reads, BATCH, seed=0)) / ROWS
    slow = epoch_seconds(setting, configuration(setting, method), live) / LIVE_ROWS
    return Row(
        f"an epoch of the {method} student from the store",
        "the same epoch with the teacher live in the loop, float32",
        slow / cached,
        bar,
        1 / cached,
        1 / slow,
        "images/s",
        note="CLIP ViT-B/32, 49 image tokens and the class token",
    )


def _against_ram(setting: Setting, split: Split, method: str, bar: float) -> Row:
    """The trainer's epoch, and a bare loop over the same batches, which lie ready."""
    config = configuration(setting, method)
    loader = TrainLoader(split, students.class_of(method).reads, BATCH, seed=0)
    ready = list(loader.epoch(1))
    times: list[float] = []
    model = build(config, split)
    optimizer = make_optimizer(model, config)

    def bare():
        model.train()
        for batch in ready:
            loss, _ = model(batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    def ours():
        times.append(epoch_seconds(setting, config, loader))

    _, quick = in_turns(ours, bare, rounds=5)
    whole = float(np.median(times[1:]))
    waiting = seconds(lambda: list(loader.epoch(1)))
    return Row(
        f"a step of the {method} student, loading included",
        "the same step on tensors in RAM, in a bare loop",
        whole / quick,
        bar,
        1000 * whole / len(ready),
        1000 * quick / len(ready),
        "ms",
        at_most=True,
        note=f"loading alone {1000 * waiting / len(ready):.2f} ms",
    )
