"""How fast a study is on this machine: a little of each of its teachers and methods, and one notebook a data set.

``python -m kdlib.study.probe JOB.json`` is the probe of one teacher: the first images of its splits through it, the
first epochs of each method on them, and an exam. All of it is the code that the experiments run.
"""

import dataclasses
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import numpy as np
import torch

from kdlib import data as datasets
from kdlib import sources, study
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
from kdlib.files import RunDir, runs_root
from kdlib.machine import choose, now
from kdlib.notebook.worker import accept_jobs, end_all, run_job, take_job
from kdlib.study.file import ExperimentSpec
from kdlib.teachers import STANDIN, TeacherError, standin

TINY = shapes.ShapesSpec(0, 8, 2, 144, 12)  # for the notebook: as many test images as a page shows
# Images of a split up to which an exam is whole. Beyond, between a ranking of n images, which grows by n, and the
# similarities of all pairs, which grow by n^2.
LARGEST, GROWTH = 1800, 1.5
SHORT, EPOCHS = 2.0, 4  # seconds: a method whose first epoch is quicker goes on for some more
CALLS, NOISE = 5, 0.3
SLOW = 0.1  # seconds an image; a slower teacher, as a full-size one on a CPU, is probed on a quarter of the images


def measure(specs: list[ExperimentSpec], counts: dict, workers: int) -> dict[str, dict]:
    """Name of a probe -> seconds, or its "problem"; ``counts``: sources -> split -> (images, captions).

    The probes: one of each teacher (:func:`probe`), and the notebook of each data set, ``fixed`` seconds of which are
    neither training nor scoring. Also "all", the seconds that this took.
    """
    accept_jobs()
    started = time.perf_counter()
    runs_root().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="probe-", dir=runs_root()) as scratch:
        drawn = str(shapes.ensure(TINY, Path(scratch) / "drawn"))
        jobs: dict[str, tuple] = {}
        for sources_, spec in {spec.sources: spec for spec in reversed(specs)}.items():
            configs = [one.config for one in specs if one.sources == sources_]
            methods = {config.method: config.model_dump() for config in reversed(configs)}
            given = {"methods": methods, "counts": counts[sources_]}
            jobs[str(sources_)] = _run, spec.config, "kdlib.study.probe", scratch, given
        for spec in {spec.config.dataset: spec for spec in reversed(specs)}.values():
            jobs[spec.config.dataset] = _notebook, spec, scratch, drawn
        with ThreadPoolExecutor(workers) as pool:
            try:
                found = dict(zip(jobs, pool.map(lambda job: job[0](*job[1:]), jobs.values()), strict=True))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                end_all()
                raise
    return found | {"all": {"seconds": time.perf_counter() - started}}


def _run(config: RunConfig, module: str, scratch: str, job: dict) -> dict:
    """What a job of a process of its own found."""
    folder = tempfile.mkdtemp(dir=scratch)
    given = {"folder": folder, "log": f"{folder}/log", "threads": config.threads, "memory_bytes": 0}
    report = run_job(job | given | {"module": module})
    if report["outcome"] != "ok":
        return {"problem": f"{config.teacher} on {config.dataset}: {report.get('error') or report['outcome']}"}
    return report


def _notebook(spec: ExperimentSpec, scratch: str, drawn: str) -> dict:
    """Seconds of an experiment's notebook on a few drawn images that are neither training nor scoring."""
    try:
        standin(spec.config.teacher)
        name = spec.notebook
    except TeacherError:  # any other notebook starts and shows as long
        name = "dino_tinyimagenet"
    teacher, _, dataset = name.partition("_")
    config = RunConfig(
        study="probe", teacher=teacher, dataset=dataset, checkpoint=STANDIN, data_root=drawn, batch_size=32, epochs=1,
        device=spec.config.device, threads=spec.config.threads, timed_calls=CALLS,
    )  # fmt: skip
    folder = Path(tempfile.mkdtemp(dir=scratch))
    job = {
        "notebook": str(study.notebooks_folder() / f"{name}.ipynb"),
        "parameters": ExperimentSpec(notebook="", config=config).parameters | {"study": folder.name},
        "output": str(folder / "done.ipynb"),
        "failed_output": str(folder / "failed.ipynb"),
        "report": str(folder / "page.html"),
    }
    prepared = _run(
        config,
        "kdlib.study.prepare",
        scratch,
        {"config": config.model_dump(), "configs": [config.model_dump()], "tokens": False},
    )
    report = prepared if "problem" in prepared else _run(config, "kdlib.notebook.execute", scratch, job)
    if "problem" in report:
        return report
    return {"fixed": report["seconds"] - working_seconds(folder / "done.ipynb"), "start": prepared["seconds"]}


def working_seconds(notebook: Path) -> float:
    """Seconds that an executed notebook spent in training and scoring, by papermill's clock."""
    spent = 0.0
    for cell in json.loads(notebook.read_text())["cells"]:
        source, clock = "".join(cell["source"]), cell["metadata"].get("papermill", {})
        if "experiment.train(" in source or "experiment.evaluate()" in source:
            first, last = (datetime.fromisoformat(clock[name]) for name in ("start_time", "end_time"))
            spent += (last - first).total_seconds()
    return spent


# ---------------------------------------------------------------- in a process of its own


def main() -> None:
    """The probe of a teacher, told as a job file. What it builds goes with the job's folder."""
    job = take_job()
    methods = {method: at_hand(RunConfig(**given)) for method, given in job["methods"].items()}
    os.environ["KDLIB_RUNS"] = job["folder"]
    try:
        report = {"outcome": "ok"} | probe(methods, job["counts"], Path(job["folder"]))
    except Exception as problem:  # told to the plan, which says what it cannot predict
        report = {"outcome": "error", "error": f"{type(problem).__name__}: {problem}"}
    Path(job["answer"]).write_text(json.dumps(report))


def at_hand(config: RunConfig) -> RunConfig:
    """The configuration with the study's drawn images, which are there, and no more extra ones than the probe reads."""
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
