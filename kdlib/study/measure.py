"""How fast a study is on this machine: a probe of each of its teachers, and one notebook a data set."""

import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

from kdlib import study
from kdlib.config import RunConfig
from kdlib.data import shapes
from kdlib.files import runs_root
from kdlib.notebook.worker import accept_jobs, end_all, run_job
from kdlib.study.file import ExperimentSpec
from kdlib.study.probe import CALLS
from kdlib.teachers import STANDIN, TeacherError, standin

TINY = shapes.ShapesSpec(0, 8, 2, 144, 12)  # for the notebook: as many test images as a page shows


def measure(specs: list[ExperimentSpec], counts: dict, workers: int) -> dict[str, dict]:
    """Name of a probe -> seconds, or its "problem"; ``counts``: sources -> split -> (images, captions).

    The probes: one of each teacher (:mod:`kdlib.study.probe`), and the notebook of each data set, ``fixed`` seconds of
    which are neither training nor scoring. Also "all", the seconds that this took.
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
