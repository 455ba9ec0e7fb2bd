"""Runs a study: what is missing, features first, on dask workers of this machine or of a cluster; then its report."""

import contextlib
import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import dask
import nbformat
import papermill
import psutil
from distributed import Client, Future, KilledWorker, as_completed
from filelock import Timeout
from nbclient.exceptions import DeadKernelError

from kdlib import machine, report, status
from kdlib.config import RunConfig
from kdlib.experiment import features_key_of, is_done, run_folder
from kdlib.students import class_of
from kdlib.study import Planned, Study
from kdlib.utils import locked, read_json, reports_root, runs_root, write_atomic, write_json
from kdlib.worker import ENVIRONMENT, THREADS, Job, execute, token

SHARE = 0.9  # of a machine's memory that experiments may use
RETRIES = 2  # of a job whose kernel or worker died; training continues from its last checkpoint
EFFORT = {"pixels": 3.0, "tokens": 1.2, "features": 1.0}  # of an epoch, roughly, by what the student reads
QUIET = {"DASK_LOGGING__DISTRIBUTED": "critical"}  # dask's loggers are loud at each orderly end
DASK = {
    "distributed.scheduler.worker-saturation": 1.0,  # the death of a worker blames only the job that ran
    "distributed.scheduler.allowed-failures": RETRIES,
    "distributed.worker.preload": ["kdlib.worker"],
    "distributed.nanny.pre-spawn-environ": ENVIRONMENT | QUIET | dict.fromkeys(THREADS, "1"),
}
CONNECT_SECONDS = 30  # in which a scheduler must answer
LOCAL = {"threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "memory_limit": 0}
BUILD = "from kdlib import RunConfig, experiment\n\nexperiment.build_features(RunConfig(**{}))"


def run(study: Study, workers: int = 0, scheduler: str = "", memory_gb: float = 0) -> dict[str, str]:
    """Run what is missing of a study, then make its report. Name of an experiment -> why it is not done, or ''.

    ``scheduler``: address or file of a dask scheduler whose workers see the same files. Raises RuntimeError when
    another command runs this study, or the scheduler is gone.
    """
    with _alone(study.study) as root:
        jobs = [_job(planned) for planned in study.experiments()]
        rows = [(job.folder.relative_to(root).as_posix(), job.notebook, job.config.model_dump()) for job in jobs]
        rows = [dict(zip(("folder", "notebook", "config"), row, strict=True)) for row in rows]
        index = {"study": study.study, "title": study.title, "file": str(study.file), "experiments": rows}
        if read_json(root / "index.json") != index:
            write_json(root / "index.json", index)
        slots, memory_gb = workers or default_workers(study), memory_gb or study.memory_gb
        limit = memory_gb * 2**30 if memory_gb else 0 if scheduler else machine.memory_bytes() * SHARE / slots
        found = {job.name: job.why and status.in_vain(job.folder, limit) for job in jobs}
        todo = [job for job in jobs if job.why and not found[job.name]]
        done = sum(not job.why for job in jobs)
        print(f"{study.title}: {len(jobs)} experiments, {done} are done, {len(todo)} to run.", flush=True)
        if todo:
            with connect(scheduler, min(slots, len(todo)), study.study, limit) as (client, setting):
                found |= _work(client, setting, todo)
        page, files = reports_root() / study.study / "index.html", [root / "index.json", *root.glob("*/*/*/*.json")]
        if not page.exists() or page.stat().st_mtime < max(file.stat().st_mtime for file in files):
            report.report(study.study, study.reports)
        print(f"{sum(not why for why in found.values())} of {len(found)} experiments are done. Report: {page}")
    return found


def default_workers(study: Study) -> int:
    """One a GPU; without one, as many as cores and memory (2 GB each) of the allocation allow."""
    threads = max(planned.config.threads for planned in study.experiments())
    return len(machine.gpus()) or max(1, min(machine.cores() // threads, machine.memory_bytes() // 2**31))


@contextlib.contextmanager
def _alone(study: str) -> Iterator[Path]:
    """Keep other commands off this study, and ask both disks for room now rather than after hours."""
    folders = [root / study for root in (runs_root(), reports_root())]
    for folder in folders:
        write_atomic(folder / ".room", bytes(2**20))
        (folder / ".room").unlink()
    command = folders[0] / ".command.json"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folders[0] / ".lock", timeout=0))
        except Timeout:
            who = "process {pid} on {host} since {since}".format(**read_json(command))
            raise RuntimeError(f"The study '{study}' is being run by {who}: wait for it, or end it.") from None
        write_json(command, {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %H:%M")})
        for folder in folders:
            write_json(folder / ".token", uuid.uuid4().hex)
        yield folders[0]


def _job(planned: Planned) -> Job:
    """Papermill would only warn of a parameter that a notebook lacks; such a one goes into its ``overrides``."""
    notebook, config = planned
    known, folder = set(papermill.inspect_notebook(str(notebook))), run_folder(config)
    fields = config.model_dump(exclude={"teacher"})
    other = {name: fields[name] for name in set(fields) - known if fields[name] != RunConfig.model_fields[name].default}
    if other and "overrides" not in known:
        raise ValueError(f"{notebook} has no parameter {', '.join(other)}; it has {', '.join(sorted(known))}.")
    given = {name: fields[name] for name in set(fields) & known} | ({"overrides": other} if other else {})
    why = status.lacks(folder, is_done(config, folder))
    return Job(planned.name, str(notebook), given, config, folder, report.page_of(folder), why)


@contextlib.contextmanager
def connect(scheduler: str, slots: int, study: str, limit: float) -> Iterator[tuple[Client, dict]]:
    """A dask client, and what its workers need to know. What it started on this machine ends with it."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    place = {"scheduler_file": scheduler} if Path(scheduler).is_file() else {"address": scheduler}
    with dask.config.set(DASK), contextlib.ExitStack() as stack:
        try:
            client = stack.enter_context(
                Client(**place if scheduler else LOCAL | {"n_workers": slots}, timeout=CONNECT_SECONDS)
            )
        except (OSError, ValueError) as error:
            raise RuntimeError(f"No dask scheduler answers at {scheduler}: start it first ({error}).") from error
        client.wait_for_workers(1)
        room = _checked(client, study) if scheduler else 0
        try:
            yield client, {"token": token(study), "gpus": [] if scheduler else machine.gpus(), "limit": limit or room}
        except BaseException:  # dask would wait for the notebooks that run here
            client.cancel(list(client.futures), force=True)
            for nanny in getattr(client.cluster, "workers", {}).values():
                for kernel in psutil.Process(nanny.pid).children() if nanny.pid else []:
                    kernel.kill()
            raise


def _checked(client: Client, study: str) -> float:
    """Bytes that each worker may use. Raises RuntimeError where one has other versions than this command, or files."""
    versions, seen = client.get_versions(packages=["torch", "transformers", "papermill"]), client.run(token, study)
    here = versions["client"]["packages"] | {"folders": token(study)}
    for address, found in versions["workers"].items():
        there = found["packages"] | {"folders": seen[address]}
        if other := [f"{name} {there[name]} (here {here[name]})" for name in here if there[name] != here[name]]:
            raise RuntimeError(f"The worker {address} has {', '.join(other)}: both need the same.")
    hosts = [address.rpartition(":")[0] for address in seen]
    return min(client.run(machine.memory_bytes).values()) * SHARE / max(map(hosts.count, hosts))


def _work(client: Client, setting: dict, todo: list[Job]) -> dict[str, str]:
    """Build features and run experiments, longest first. Name of an experiment -> why it is not done, or ''."""
    jobs, result, spent, seconds = {}, {}, 0.0, 0.0
    left = sum(_effort(job) for job in todo)

    def submit(job: Job, priority: float, *before: Future) -> Future:
        key = f"{job.name} {uuid.uuid4().hex}"
        future = client.submit(execute, job, setting, *before, key=key, retries=RETRIES, priority=priority, pure=False)
        jobs[future] = job
        return future

    features = {key: submit(job, 1e6) for key, job in _features(todo).items()}
    for job in todo:
        submit(job, _effort(job), *([] if job.why == status.PAGE else [features[features_key_of(job.config)]]))
    for future in as_completed(jobs):
        job = jobs[future]
        why, took = _outcome(job, future)
        line = f"{job.name}: {why or 'done'} in {status.duration(took)}"
        if job.page:
            result[job.name] = why
            left, spent, seconds = left - _effort(job), spent + _effort(job), seconds + took
            rest = status.duration(max(left, 0) * seconds / spent / len(client.nthreads() or [1]))
            line = f"[{len(result)}/{len(todo)}] {line}, about {rest} left"
        print(line, flush=True)
    return result


def _features(todo: list[Job]) -> dict[str, Job]:
    """A job for the features of each teacher and data set: with tokens if one student reads them, as they serve all."""
    found = {}
    for job in sorted(todo, key=lambda job: class_of(job.config.method).reads == "tokens", reverse=True):
        if job.why != status.PAGE and (key := features_key_of(job.config)) not in found:
            cell, config = nbformat.v4.new_code_cell(BUILD.format(job.config.model_dump())), job.config
            name = f"features of {config.teacher}_{config.dataset}{' (random heads)' * config.untrained_heads}"
            folder = runs_root() / config.study / ".features" / key[:12]
            found[key] = Job(name, nbformat.v4.new_notebook(cells=[cell]), {}, config, folder)
    return found


def _effort(job: Job) -> float:
    """About how long it takes, in epochs of the smallest students; what is no training is worth five."""
    return 5 + EFFORT[class_of(job.config.method).reads] * max(job.config.epochs) * (1 + job.config.cooldown)


def _outcome(job: Job, future: Future) -> tuple[str, float]:
    """Why a job is not done, or '', and its seconds. Judged by its files; what is not done is kept in its folder."""
    if future.status not in ("finished", "error"):
        raise RuntimeError("The dask scheduler is gone. What is done is kept, and the same command continues.")
    if future.status == "finished":
        found = future.result()
        if job.page and found["outcome"] == "done" and (problem := is_done(job.config, job.folder)):
            found |= {"outcome": "failed", "error": f"the notebook ended, and its result does not count: {problem}"}
    else:
        problem, dead = future.exception(), {KilledWorker: "worker", DeadKernelError: "kernel"}
        words = f"its {dead[type(problem)]} died {RETRIES + 1} times" if type(problem) in dead else ""
        words = words or f"{type(problem).__name__}: {problem}"
        found = {"outcome": "failed", "error": words, "limit_gb": 0, "host": "", "seconds": 0.0}
    if found["outcome"] == "done":
        (job.folder / "outcome.json").unlink(missing_ok=True)
        return found["error"], found["seconds"]
    when = time.strftime("%FT%TZ", time.gmtime())
    write_json(job.folder / "outcome.json", found | {"when": when})
    return f"{found['outcome']}, {found['error']}", found["seconds"]
