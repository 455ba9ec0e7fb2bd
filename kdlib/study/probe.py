"""The probe of a teacher, in a process of its own: ``python -m kdlib.study.probe JOB.json``.

The first images of its splits through it, the first epochs of each method on them, and an exam. All of it is the code
that the experiments run.
"""

import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from kdlib import data as datasets
from kdlib import sources
from kdlib.config import RunConfig
from kdlib.data import extra, shapes
from kdlib.data.splits import take
from kdlib.evaluate import controls
from kdlib.evaluate.cost import student_cost
from kdlib.evaluate.embed import embed
from kdlib.evaluate.exam import Exam
from kdlib.experiment import Experiment
from kdlib.features.encoders import CHUNK
from kdlib.features.loader import Split
from kdlib.files import RunDir
from kdlib.machine import choose, now
from kdlib.notebook.worker import take_job

# Images of a split up to which an exam is whole. Beyond, between a ranking of n images, which grows by n, and the
# similarities of all pairs, which grow by n^2.
LARGEST, GROWTH = 1800, 1.5
SHORT, EPOCHS = 2.0, 4  # seconds: a method whose first epoch is quicker goes on for some more
CALLS, NOISE = 5, 0.3
SLOW = 0.1  # seconds an image; a slower teacher, as a full-size one on a CPU, is probed on a quarter of the images


def main() -> None:
    """The probe of a teacher, told as a job file. What it builds goes with the job's folder."""
    job = take_job()
    methods = {method: reduced(RunConfig(**given)) for method, given in job["methods"].items()}
    os.environ["KDLIB_RUNS"] = job["folder"]
    try:
        report = {"outcome": "ok"} | probe(methods, job["counts"], Path(job["folder"]))
    except Exception as problem:  # told to the plan, which says what it cannot predict
        report = {"outcome": "error", "error": f"{type(problem).__name__}: {problem}"}
    Path(job["answer"]).write_text(json.dumps(report))


def reduced(config: RunConfig) -> RunConfig:
    """The configuration on the study's drawn images, with at most as many extra drawn images as the probe reads."""
    given = {"data_root": str(shapes.ensure())} if config.data_root == "shapes" else {}
    number = config.extra_images.removeprefix(extra.DRAWN)
    if number.isdecimal() and CHUNK < int(number) <= extra.MOST:
        given["extra_images"] = f"{extra.DRAWN}{CHUNK}"
    return config.model_copy(update=given)


def probe(methods: dict[str, RunConfig], counts: dict[str, list[int]], folder: Path) -> dict:
    """Seconds of a teacher: to ``load`` it, of a store's ``image``, of a timed ``call``, and of its :func:`exam`.

    ``methods``: of each method what :func:`train` finds, or its "problem".
    """
    config = next(iter(methods.values()))
    torch.set_num_threads(config.threads)
    loading = timed(lambda: sources.load_teacher(config))
    cost = sources.backbone_cost(config.model_copy(update={"timed_calls": CALLS}))
    slow = statistics.median(cost["image"]["batch_32_ms"]) / 32_000 > SLOW
    images = CHUNK // 4 if slow else CHUNK
    data = {name: few(split, images * (2 if name == "fit" else 1)) for name, split in sources.load_data(config).items()}
    if data["fit"].labels is not None:
        data = numbered(data)
    building = timed(lambda: [sources.teacher_store(config, split, True) for split in data.values()])
    encoding = max(building - len(data) * loading, 0.1 * building)
    found = {"load": loading, "image": encoding / sum(map(len, data.values())), "call": calls(cost)}
    splits = sources.open_splits(config.model_copy(update={"method": "projection"}), data)
    found |= exam(splits, counts, config, folder) | {"methods": {}}
    for method, own in methods.items():
        try:
            found["methods"][method] = train(own, data, folder / method.replace(":", "."))
        except Exception as problem:
            found["methods"][method] = {"problem": f"{method}: {type(problem).__name__}: {problem}"}
    return found


def train(config: RunConfig, data: dict, folder: Path) -> dict:
    """Seconds of a method: an ``epoch`` for an image; ``once``, what the first takes beyond; a ``checkpoint``.

    Also an embedded ``image`` and one that is ``alone``, a timed ``call``, a ``pixel`` image that is stored; and the
    ``bytes`` of a checkpoint.
    """
    splits, run = sources.open_splits(config, data), RunDir(folder)
    batch = min(config.batch_size, max(2, len(splits["fit"]) // 2))
    small = {"batch_size": batch, "train_limit": 0, "pretrained": False}
    began = time.perf_counter()
    for epochs in (1, EPOCHS):
        given = config.model_copy(update=small | {"epochs": epochs})
        experiment = Experiment(given, run, splits, data, {"train": "probe"})
        history = experiment.train()
        if history[0]["seconds"] > SHORT:
            break
    whole, spent = time.perf_counter() - began, [record["seconds"] for record in history]
    epoch = statistics.median(spent[1:] or spent)
    trained = sum(len(splits[name]) for name in ("fit", "extra") if name in splits)
    student, split, pixels = experiment.trained.student, splits[config.score_on], splits["fit"].pixels
    embed(student, split, config.device, limit=CHUNK // 8)
    cost = student_cost(student, split, data[config.score_on].images[0], config.device, CALLS)
    return {
        "epoch": epoch / trained,
        "once": spent[0] - epoch,
        "checkpoint": (whole - sum(spent)) / len(spent),
        "image": timed(lambda: embed(student, split, config.device)) / len(split),
        "alone": statistics.median(cost["image"]["batch_1_ms"]) / 1000,
        "call": calls(cost),
        "pixel": 0.0 if pixels is None else pixels.manifest["build_seconds"] / len(pixels),
        "bytes": sum(file.stat().st_size for file in max(run.checkpoints.glob("epoch-*")).iterdir()),
    }


def exam(stores: dict[str, Split], counts: dict[str, list[int]], config: RunConfig, folder: Path) -> dict[str, float]:
    """Seconds of the ``score`` of an encoder and of the ``controls``, on as many rows as there will be.

    Of more than LARGEST it is a part of them, and the seconds grow by the power GROWTH.
    """
    part = min(1.0, LARGEST / max(images for images, _ in counts.values()))
    scored = {name: split for name, split in stores.items() if name in counts}  # extra images never are
    splits = {name: many(split, round(part * counts[name][0])) for name, split in scored.items()}
    made = Exam(splits, config.score_on)
    embedded = {
        name: {side: values[:, : config.width] for side, values in sides.items()}
        for name, sides in made.teacher.items()
    }
    _ = made.weights  # the resamples are drawn once
    score = timed(lambda: made.score(embedded))
    ensured = timed(lambda: controls.ensure(folder, "probe", made, config.width))
    return {"score": score * part**-GROWTH, "controls": ensured * part**-GROWTH}


class Tiled(dict):
    """A feature store whose images are repeated, with noise, so that no two are the same."""

    def __init__(self, split: Split, times: int):
        store, random = split.store, np.random.default_rng(0)
        names = [name for name in store.manifest["arrays"] if not name.endswith("_tokens")]
        super().__init__({name: np.array(store[name]) for name in names})
        for name in (name for name in names if not name.startswith("prompt")):
            self[name] = np.concatenate([self[name]] * times)
            if name.endswith("_pooled"):
                wide = self[name].astype(np.float32)
                noise = NOISE * wide.std() * random.standard_normal(wide.shape)
                self[name] = (wide + noise).astype(self[name].dtype)
        self.manifest, self.ids = store.manifest, [f"{number} {one}" for number in range(times) for one in store.ids]
        self.rows = np.arange(len(self.ids))

    def __len__(self) -> int:
        return len(self.ids)


def many(split: Split, images: int) -> Split:
    """A split of about so many images."""
    times = max(1, round(images / len(split)))
    tile = lambda array: None if array is None else np.concatenate([array] * times)  # noqa: E731
    return Split(split.name, Tiled(split, times), None, tile(split.labels), tile(split.relevant))


def few(data: datasets.Dataset, images: int) -> datasets.Dataset:
    """So many images of a split, evenly spread over it."""
    rows = np.unique(np.linspace(0, len(data) - 1, min(images, len(data))).astype(int))
    return take(data, rows)


def numbered(data: dict[str, datasets.Dataset]) -> dict[str, datasets.Dataset]:
    """The splits with the classes that occur in fit, numbered anew: a little of fit may not have all of them.

    An image of another class gets one of these. No score of a probe is read, only its seconds.
    """
    known = np.unique(data["fit"].labels)
    labelled = {name: split for name, split in data.items() if split.labels is not None}  # extra images may have none
    labels = {name: np.searchsorted(known, split.labels) % len(known) for name, split in labelled.items()}
    return data | {
        name: dataclasses.replace(split, labels=labels[name], _fingerprint=[]) for name, split in labelled.items()
    }


def calls(cost: dict) -> float:
    """Seconds of one of each timed call: both sides, one input and 32."""
    sides = [cost[side] for side in ("image", "text") if side in cost]
    return sum(statistics.median(side[f"batch_{size}_ms"]) for side in sides for size in (1, 32)) / 1000


def timed(call: Callable) -> float:
    """Seconds of one call, with what it queued on the device."""
    device = choose("auto")
    started = now(device)
    call()
    return now(device) - started


if __name__ == "__main__":
    main()
