"""About how many GB and hours a study takes on this machine, from a few measurements in a temporary folder."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from timeit import timeit
from unittest import mock

import numpy as np
import torch

from kdlib import distiller, features, loader, students, teachers, trainer
from kdlib.config import RunConfig
from kdlib.data import DataError, open_data
from kdlib.evaluate.protocol import Evaluation, controls
from kdlib.experiment import DATA
from kdlib.status import allocation, duration, job_of
from kdlib.study import Study
from kdlib.utils import runs_root

FULL = {"tinyimagenet": {"fit": 90_000, "dev": 10_000, "test": 10_000}, "coco": {"fit": 113_287, "test": 5_000}}
# What a run's features depend on, and the seconds of its epochs and scores.
SOURCE = ("teacher", "checkpoint", "untrained_heads", "token_grid", *DATA)
KIND = ("method", "convnet", "image_size", "text_side", "precision")
FIRST, SAMPLE, SECONDS = 64, 640, 20.0  # images that are timed; of a split to train on, as many as fit in 20 s
once = partial(timeit, number=1)  # the seconds of one call
NOTEBOOK, BUILDING = 3.0, 1.5  # imports, in time: a notebook's start, first steps and figures; one for features


def plan(study: Study, workers: int = 0) -> str:
    """What is to do and what is missing here, GB and hours, in words. Nothing is downloaded, and nothing is kept."""
    groups: dict[tuple, list[RunConfig]] = {}
    for planned in study.experiments():
        with contextlib.suppress(Exception):  # without its data and teacher it is not done
            if (runs_root() / study.study / "index.json").exists() and not job_of(planned).why:
                continue
        groups.setdefault(tuple(getattr(planned.config, name) for name in SOURCE), []).append(planned.config)
    todo, workers = sum(map(len, groups.values())), workers or allocation(study)["workers"]
    start = once(lambda: subprocess.run([sys.executable, "-c", "import kdlib.experiment, seaborn"])) if todo else 0
    needed, missing = np.array([0.0, BUILDING * start * len(groups), NOTEBOOK * start * todo]), []
    with elsewhere() as kept:
        for configs in groups.values():
            try:
                needed += _measured(configs, *_data(configs[0], missing), kept)
            except (teachers.TeacherError, DataError, KeyError, OSError) as error:
                missing.append(f"Missing, and not in these numbers: {error}")
    gigabytes, built, trained = needed
    here = next(place for place in (runs_root(), *runs_root().parents) if place.exists())
    return "\n".join([
        f"{study.title}: {len(study.experiments())} experiments, {todo} to do.",
        f"Disk: about {gigabytes:.1f} GB; {shutil.disk_usage(here).free / 1e9:.0f} GB are free at {here}.",
        f"Time: about {duration((built + trained) / max(1, min(workers, todo)))} with {workers} at once, and the "
        f"report. One worker: features {duration(built)}, training and scores {duration(trained)}.",
        *dict.fromkeys(missing),
    ])  # fmt: skip


@contextlib.contextmanager
def elsewhere() -> Iterator[Path]:
    """A temporary folder in place of runs/, with the data and hashes that are there; yields runs/."""
    kept = runs_root()
    with tempfile.TemporaryDirectory(prefix="kdlib-plan-") as scratch:
        for place in (*kept.glob("data/*"), *kept.glob("cache")):
            link = Path(scratch, place.relative_to(kept))
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(place)
        with mock.patch.dict(os.environ, KDLIB_RUNS=scratch):
            yield kept


def _data(config: RunConfig, missing: list[str]) -> tuple[dict, dict[str, int]]:
    """The splits to measure on, and the images of each; of official data that are not here the sizes are known."""
    extra = int(config.extra_images.partition("shapes:")[2] or 0)  # which are not made for a plan
    config = config.model_copy(update={"extra_images": ""} if extra else {})
    try:
        data = open_data(config)
        counts = {name: len(split) for name, split in data.items()}
    except (DataError, OSError):
        missing.append(f"Missing: {config.dataset} in {config.data_root}; its sizes are known.")
        data, counts = open_data(config.model_copy(update={"data_root": "shapes"})), dict(FULL[config.dataset])
        counts["fit"] = min(counts["fit"], config.train_limit or counts["fit"])
    return data, counts | ({"train": counts["fit"] + extra} if extra else {})


def _measured(configs: list[RunConfig], data: dict, counts: dict[str, int], kept: Path) -> tuple[float, float, float]:
    """Of experiments with the same features: GB, seconds of the features, seconds of training and scores."""
    first, tokens = configs[0], any(students.class_of(config.method).reads == "tokens" for config in configs)
    torch.set_num_threads(first.threads)
    size = min(FIRST, len(data["fit"]) // 2)
    for start in (0, size):  # the first of these warm up
        some = features.teacher_features(first, data["fit"].take(range(start, start + size)), tokens)
    each, images = some.seconds / size, sum(counts.values()) - (counts["fit"] if "train" in counts else 0)
    keys = [features.features_key(first, split, tokens) for split in data.values()]
    if "train" not in counts and all((kept / "features" / key / "manifest.json").exists() for key in keys):
        images = 0
    gigabytes, spent, kinds = images * sum(array.nbytes for array in some.arrays.values()) / size / 1e9, 0.0, {}
    sample, few = max(FIRST, min(SAMPLE, int(SECONDS / each / len(data)))), {}
    for name, split in data.items():
        few[name] = split.take(np.unique(np.linspace(0, len(split) - 1, sample).astype(int)))
    evaluation = Evaluation(loader.open_splits(first, few, "tokens" if tokens else "features"), first.score_on)
    scale = sum(counts[name] for name in evaluation.needed) / sum(len(few[name]) for name in evaluation.needed)
    spent += scale * once(lambda: controls(evaluation, min(first.width, some["image_pooled"].shape[1])))
    for config in configs:
        kind = tuple(getattr(config, name) for name in KIND)
        kinds[kind] = epoch, scoring, written = kinds.get(kind) or _trained(config, few)
        epochs = max(config.epochs) + sum(trainer.cooldown_epochs(config, budget) for budget in config.epochs)
        scored = 1 + len(config.epochs) * (1 + (config.cooldown > 0))  # of the initial weights, of budgets, on dev
        spent += epochs * counts.get("train", counts["fit"]) * epoch + scored * scale * scoring
        gigabytes += epochs * written / 1e9
    return gigabytes, images * each, spent


def _trained(config: RunConfig, few: dict) -> tuple[float, float, int]:
    """Of a student: seconds of an epoch for an image, seconds of its scores, bytes of a checkpoint."""
    splits = loader.open_splits(config, few, students.class_of(config.method).reads)
    made = distiller.build(config, splits["fit"], len(few["fit"].class_names))
    evaluation = Evaluation(splits, config.score_on)
    student, anchors = made.student, config.anchors if "anchor_kl" in made.objective else 0
    batches = loader.TrainLoader(splits["fit"], config, student.reads, student.text_reads, student.attends, anchors)
    short, folder = config.model_copy(update={"epochs": [2], "cooldown": 0.0}), Path(tempfile.mkdtemp(dir=runs_root()))
    epoch = trainer.train(made, batches, short, folder, "plan")[1]["seconds"] / (len(batches) * batches.batch_size)
    scoring = once(lambda: evaluation.score(evaluation.embed(student, config.device)))
    return epoch, scoring, max(file.stat().st_size for file in folder.glob("checkpoints/*.pt"))
