"""An experiment's overhead, and how well the grid keeps all cores busy."""

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil

from kdlib import sources, study
from kdlib.bench.measure import Row, Setting, seconds
from kdlib.files import runs_root
from kdlib.notebook.worker import run_job
from kdlib.study import grid as grids
from kdlib.study.file import StudyConfig
from kdlib.study.measure import working_seconds
from kdlib.study.status import Inspector

ROUNDS = 3


def _study(name: str, **fields) -> StudyConfig:
    return StudyConfig(study=name, title="Bench", parameters={"timed_calls": 5}, seeds=[0], **fields)


def overhead(setting: Setting) -> list[Row]:
    """All of an experiment but training and scoring, against the import of torch in a fresh process."""
    config = _study("bench_experiment", notebooks={"clip_coco": {}}, methods=["projection"], epochs=[1])
    spec = study.experiments(config)[0]
    sources.load_data(spec.config)
    taken, parts = [], []
    for _ in range(ROUNDS + 1):  # the first one builds the store and starts the fork server
        shutil.rmtree(runs_root() / config.study, ignore_errors=True)
        queue = grids.Queue(config, [Inspector().state(spec)], 1, 1)
        queue.unprepared.clear()
        job = queue.next() | {"memory_bytes": 0}
        report = run_job(job)
        if report["outcome"] != "ok":
            raise RuntimeError(f"The experiment of the bench failed: {report.get('error')}")
        work = working_seconds(Path(job["output"]))
        taken.append(report["seconds"] - work)
        parts.append(work)
    ours = statistics.median(taken[1:])
    torch = statistics.median(seconds(lambda: subprocess.run([sys.executable, "-c", "import torch"])) for _ in range(5))
    shutil.rmtree(runs_root() / config.study, ignore_errors=True)
    return [
        Row(
            "an experiment without its training and scoring: kernel, data, figures, page",
            "python -c 'import torch' in a fresh process",
            ours / torch,
            2.5,
            ours,
            torch,
            "s",
            at_most=True,
            note=f"training and scoring themselves {statistics.median(parts[1:]):.1f} s",
        )
    ]


def grid(setting: Setting) -> list[Row]:
    """A part of the embedded study (all of it with --whole-grid), from stored features to the last page."""
    cut = {} if setting.whole_grid else {"methods": ["projection", "attention", "cbam", "resnet"], "epochs": [1, 2]}
    results = {}
    for workers in (1, 2):
        config = _study("bench_grid", notebooks={"clip_coco": {}, "dino_tinyimagenet": {}}, **cut)
        if setting.whole_grid:
            config = study.load(study.notebooks_folder() / "studies" / "mini.yaml").model_copy(
                update={"study": "bench_grid"}
            )
        for spec in {spec.sources: spec for spec in study.experiments(config)}.values():
            for dataset in sources.load_data(spec.config).values():
                sources.teacher_store(spec.config, dataset)
            sources.backbone_cost(spec.config)
        shutil.rmtree(runs_root() / config.study, ignore_errors=True)
        before, started = psutil.cpu_times(), time.perf_counter()
        states = grids.run(config, workers)
        wall = time.perf_counter() - started
        after = psutil.cpu_times()
        bad = [item.spec.name for item in states if not item.finished]
        if bad:
            raise RuntimeError(f"Experiments of the bench failed: {', '.join(bad)}.")
        used = sum(getattr(after, kind) - getattr(before, kind) for kind in ("user", "nice", "system"))
        results[workers] = (wall, used / wall / 2, len(states))
        shutil.rmtree(runs_root() / config.study, ignore_errors=True)
    (one, _, count), (two, busy, _) = results[1], results[2]
    what = f"{'the' if setting.whole_grid else 'a cut of the'} embedded study, {count} experiments, 2 workers"
    return [
        Row(what, "1 worker", one / two, 1.4, two, one, "s"),
        Row("share of two cores that is busy from the first experiment to the last", "all", busy, 0.85, busy, 1, ""),
    ]
