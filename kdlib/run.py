"""Runs a study: what is missing, features first, on dask workers of this machine or of a cluster; then its report."""

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dask
import psutil
from distributed import Client, Future, KilledWorker, as_completed
from filelock import Timeout
from nbclient.exceptions import DeadKernelError

from kdlib import report, status
from kdlib.status import Job
from kdlib.study import Study, said
from kdlib.utils import locked, read_json, reports_root, runs_root, write_atomic, write_json
from kdlib.worker import ENVIRONMENT, THREADS, execute, token

SHARE = 0.9  # of a machine's memory that experiments may use
RETRIES = 2  # of a job whose kernel or worker died; training continues from its last checkpoint
EFFORT = {"pixels": 3.0, "tokens": 1.2, "features": 1.0}  # of an epoch, roughly, by what the student reads
DASK = {
    "distributed.scheduler.worker-saturation": 1.0,  # the death of a worker blames only the job that ran
    "distributed.scheduler.allowed-failures": RETRIES,
    "distributed.worker.preload": ["kdlib.worker"],
    "distributed.nanny.pre-spawn-environ": ENVIRONMENT | dict.fromkeys(THREADS, "1"),
}
CONNECT_SECONDS = 30  # in which a scheduler must answer
BUILD = "from kdlib import Experiment, RunConfig\n\nExperiment.open(RunConfig(**{}))"
LOCAL = {"threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "memory_limit": 0}


def run(study: Study, workers: int = 0, scheduler: str = "", memory_gb: float = 0) -> dict[str, str]:
    """Run what is missing of a study, then make its report. Name of an experiment -> why it is not done, or ''.

    ``scheduler``: address or file of a dask scheduler whose workers see the same files. Raises RuntimeError when
    another command runs this study, or the scheduler is gone.
    """
    with _alone(study.study) as root:
        jobs, room = apart(status.prepared, study)
        rows = [{"folder": job.folder.relative_to(root).as_posix(), "notebook": job.notebook,
                 "config": job.config.model_dump()} for job in jobs]  # fmt: skip
        index = {"study": study.study, "title": study.title, "file": str(study.file), "experiments": rows}
        if read_json(root / "index.json") != index:
            write_json(root / "index.json", index)
        slots, memory_gb = workers or room["workers"], memory_gb or study.memory_gb
        limit = memory_gb * 2**30 if memory_gb else 0 if scheduler else room["memory"] * SHARE / slots
        found = {job.name: _in_vain(job.folder, limit) if job.why else _page(job) for job in jobs}
        todo = [job for job in jobs if job.why and not found[job.name]]
        done = sum(not job.why for job in jobs)
        print(f"{study.title}: {len(jobs)} experiments, {done} are done, {len(todo)} to run.", flush=True)
        if todo:
            with connect(scheduler, min(slots, len(todo))) as client:
                least = _checked(client, study.study) if scheduler else 0
                setting = {"gpus": [] if scheduler else room["gpus"], "limit": limit or least}
                found |= _work(client, setting | {"token": token(study.study)}, todo)
        page, files = reports_root() / study.study / "index.html", [root / "index.json", *root.glob("*/*/*/*.json")]
        if not page.exists() or page.stat().st_mtime < max(file.stat().st_mtime for file in files):
            report.report(study.study, study.reports)
        print(f"{sum(not why for why in found.values())} of {len(found)} experiments are done. Report: {page}")
    return found


def apart(function: Callable, *given) -> Any:
    """The result of a call in a process of its own, whose memory ends with it: torch alone takes 0.5 GB."""
    with multiprocessing.get_context("spawn").Pool(1, _end_with_parent) as pool:
        return pool.apply(function, given)


def _end_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which a terminal sends to all; it is the command's to handle
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()


@contextlib.contextmanager
def _alone(study: str) -> Iterator[Path]:
    """Keep other commands off this study, and ask both disks for room now rather than after hours."""
    folders = [root / study for root in (runs_root(), reports_root())]
    for folder in folders:
        write_atomic(folder / ".room", bytes(2**20))
        (folder / ".room").unlink()
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folders[0] / ".lock", timeout=0))
        except Timeout:
            who = read_json(folders[0] / ".command.json")
            raise RuntimeError(f"The study '{study}' is being run by {who}: wait for it, or end it.") from None
        who = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%F %T')}"
        for folder in folders:
            write_json(folder / ".command.json", who)
        yield folders[0]


def _in_vain(folder: Path, limit: float) -> str:
    """Why it is not tried again: it ran out of memory with as much as the ``limit`` in bytes (0: unknown)."""
    found = read_json(folder / "outcome.json") or {"outcome": ""}
    if found["outcome"] != "out of memory" or not limit or limit / 2**30 > found["limit_gb"]:
        return ""
    return f"out of memory with {found['limit_gb']:.1f} GB; it is tried again with a larger memory_gb"


@contextlib.contextmanager
def connect(scheduler: str, slots: int) -> Iterator[Client]:
    """A dask client. What it started on this machine ends with it."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    place = {"scheduler_file": scheduler} if Path(scheduler).is_file() else {"address": scheduler}
    place = place if scheduler else LOCAL | {"n_workers": slots}
    with dask.config.set(DASK), contextlib.ExitStack() as stack:
        try:
            client = stack.enter_context(Client(**place, timeout=CONNECT_SECONDS))
        except (OSError, ValueError) as error:
            raise RuntimeError(f"No dask scheduler answers at {scheduler}: start it first ({error}).") from error
        client.wait_for_workers(1)
        try:
            yield client
        except BaseException:  # dask would wait for the notebooks that run here
            client.cancel(list(client.futures), force=True)
            for nanny in getattr(client.cluster, "workers", {}).values():
                for kernel in psutil.Process(nanny.pid).children() if nanny.pid else []:
                    kernel.kill()
            raise


def _checked(client: Client, study: str) -> float:
    """Bytes that each worker may use. Raises RuntimeError where one has other versions than this command, or files."""
    from kdlib.machine import memory_bytes

    versions, seen = client.get_versions(packages=["torch", "transformers", "papermill"]), client.run(token, study)
    here = versions["client"]["packages"] | {"folders": token(study)}
    for address, found in versions["workers"].items():
        there = found["packages"] | {"folders": seen[address]}
        if other := [f"{name} {there[name]} (here {here[name]})" for name in here if there[name] != here[name]]:
            raise RuntimeError(f"The worker {address} has {', '.join(other)}: both need the same.")
    hosts = [address.rpartition(":")[0] for address in seen]
    return min(client.run(memory_bytes).values()) * SHARE / max(map(hosts.count, hosts))


def _work(client: Client, setting: dict, todo: list[Job]) -> dict[str, str]:
    """Build features and run experiments, longest first. Name of an experiment -> why it is not done, or ''."""
    submit = partial(client.submit, execute, retries=RETRIES, pure=False)
    builds = _features(todo)
    features = {key: submit(job, setting, priority=1e6) for key, job in builds.items()}
    jobs = {submit(job, setting, features[job.keys["features"]], priority=_effort(job)): job for job in todo}
    left, spent, seconds, result = sum(map(_effort, todo)), 0.0, 0.0, {}
    for future in as_completed(jobs := jobs | {features[key]: job for key, job in builds.items()}):
        job = jobs[future]
        why, took = _outcome(job, future)
        line = f"{job.name}: {why or 'done'} in {status.duration(took)}"
        if not job.build:
            result[job.name] = why
            left, spent, seconds = left - _effort(job), spent + _effort(job), seconds + took
            rest = status.duration(max(left, 0) * seconds / spent / len(client.nthreads() or [1]))
            line = f"[{len(result)}/{len(todo)}] {line}, about {rest} left"
        print(line, flush=True)
    return result


def _features(todo: list[Job]) -> dict[str, Job]:
    """A job for the features of each teacher and data set: with tokens if one student reads them, as they serve all."""
    found = {}
    for job in sorted(todo, key=lambda job: job.reads == "tokens"):  # the last one of a key stays
        config, key = job.config, job.keys["features"]
        name = f"features of {config.teacher}_{config.dataset}{' (random heads)' * config.untrained_heads}"
        code, folder = BUILD.format(config.model_dump()), runs_root() / config.study / ".features" / key[:12]
        found[key] = job._replace(name=name, folder=folder, build=code)
    return found


def _effort(job: Job) -> float:
    """About how long it takes, in epochs of the smallest students; what is no training is worth five."""
    return 5 + EFFORT[job.reads] * max(job.config.epochs) * (1 + job.config.cooldown)


def _outcome(job: Job, future: Future) -> tuple[str, float]:
    """Why a job is not done, or '', and its seconds. Judged by its files; what is not done is kept in its folder."""
    if future.status not in ("finished", "error"):
        raise RuntimeError("The dask scheduler is gone. What is done is kept, and the same command continues.")
    if problem := future.exception():
        dead = {KilledWorker: "worker", DeadKernelError: "kernel"}.get(type(problem))
        words = f"its {dead} died {RETRIES + 1} times" if dead else f"{type(problem).__name__}: {problem}"
        found = {"outcome": "failed", "error": words, "limit_gb": 0, "host": "", "seconds": 0.0}
    else:
        found = future.result()
        problem = "" if job.build else status.lacks(job.folder, job.config.epochs, job.keys["evaluation"])
        if found["outcome"] == "done" and problem:
            found |= {"outcome": "failed", "error": f"the notebook ended, and its result does not count: {problem}"}
    if found["outcome"] != "done":
        write_json(job.folder / "outcome.json", found | {"when": time.strftime("%FT%TZ", time.gmtime())})
        return f"{found['outcome']}, {found['error']}", found["seconds"]
    (job.folder / "outcome.json").unlink(missing_ok=True)
    return "" if job.build else _page(job, anew=True), found["seconds"]


def _page(job: Job, anew: bool = False) -> str:
    """Make the page of a run that is done, where it is missing; returns what is wrong with it, or ''."""
    target = report.page_of(job.folder)
    try:
        if anew or not target.exists():
            report.page(job.folder / "notebook.ipynb", target)
    except Exception as problem:  # it costs no result; the next run makes the page again
        return f"its page cannot be made: {said(problem)}"
    return ""
