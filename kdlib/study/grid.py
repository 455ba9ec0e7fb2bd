"""A study file, experiment by experiment: what is missing is run, in parallel, and what fails does not stop the rest.

Locally or on a cluster the same way: dask.distributed hands jobs to slots, each job is a fresh process, and all
truth is on disk. With one worker no engine is started.
"""

import logging
import shutil
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from kdlib import study
from kdlib.files import runs_root, write_json
from kdlib.keys import SCHEMA
from kdlib.notebook.worker import accept_jobs, end_all, run_job
from kdlib.progress import clock
from kdlib.sources import reads, views_of
from kdlib.study import forecast, status
from kdlib.study.file import ExperimentSpec, StudyConfig
from kdlib.teachers import check

RESUMES = 2  # how often an experiment whose kernel died is started again
SPACE_BYTES = 2**30  # the grid waits when the disk has less than this left
# How long an experiment takes, roughly, against a projection's: for the order (longest first keeps all slots busy to
# the end) and for the estimate of the rest before a method has been seen.
EFFORT = {"densenet": 3.0, "resnet": 3.0, "attention": 1.2, "cbam": 1.1}


def default_workers() -> int:
    """One slot a GPU, else one a core as far as memory goes (2 GB each)."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.device_count()
    return max(1, min(psutil.cpu_count(logical=False) or 1, psutil.virtual_memory().total // (2 * 2**30)))


@dataclass
class Queue:
    """Which job comes next, and what a finished one means."""

    config: StudyConfig
    todo: list[status.ExperimentState]
    total: int
    slots: int
    retry: dict[str, int] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    seconds: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    ended: int = 0
    bad: int = 0

    def __post_init__(self):
        chains: dict[tuple, deque[status.ExperimentState]] = {}
        for item in self.todo:
            chains.setdefault(item.spec.chain, deque()).append(item)
        self.chains = sorted(chains.values(), key=lambda chain: -EFFORT.get(chain[0].spec.config.method, 1.0))
        self.unprepared = deque(dict.fromkeys(chain[0].spec.sources for chain in self.chains))
        self.preparing: set[tuple] = set()
        self.busy: set[tuple] = set()

    def next(self) -> dict | None:
        """A job that can start now; None when everything else has to wait for a running one."""
        if self.unprepared:
            sources = self.unprepared.popleft()
            self.preparing.add(sources)
            specs = [chain[0].spec for chain in self.chains if chain[0].spec.sources == sources]
            tokens = any(reads(spec.config.method) == "tokens" for spec in specs)
            # Experiments of one teacher can differ in the images and views that they are trained on.
            differing = {(spec.config.extra_images, views_of(spec.config)): spec.config for spec in reversed(specs)}
            configs = [config.model_dump() for config in differing.values()]
            job = {"config": specs[0].config.model_dump(), "configs": configs, "tokens": tokens}
            return self._job(specs[0], "kdlib.study.prepare", "prepare") | job
        for chain in self.chains:
            if chain and chain[0].spec.chain not in self.busy and chain[0].spec.sources not in self.preparing:
                self.busy.add(chain[0].spec.chain)
                self._wait_for_disk()
                return self._experiment_job(chain[0])
        return None

    def _job(self, spec: ExperimentSpec, module: str, kind: str) -> dict:
        memory = (
            self.config.memory_gb * 2**30 if self.config.memory_gb else psutil.virtual_memory().total * 0.9 / self.slots
        )
        words = "-".join(str(part) for part in (*spec.chain, kind)).replace(":", ".")
        log = runs_root() / self.config.study / "logs" / f"{words}.log"
        return {
            "module": module,
            "kind": kind,
            "name": spec.name,
            "sources": list(spec.sources),
            "chain": spec.chain,
            "threads": spec.config.threads,
            "memory_bytes": int(memory),
            "log": str(log),
        }

    def _experiment_job(self, item: status.ExperimentState) -> dict:
        spec, epochs = item.spec, item.spec.config.epochs
        item.run.path.mkdir(parents=True, exist_ok=True)
        return self._job(spec, "kdlib.notebook.execute", f"epoch-{epochs:04d}") | {
            "notebook": str(study.notebooks_folder() / f"{spec.notebook}.ipynb"),
            "parameters": spec.parameters,
            "output": str(item.run.notebook_path(epochs)),
            "failed_output": str(item.run.notebook_path(epochs, failed=True)),
            "report": str(spec.page),
        }

    def _wait_for_disk(self) -> None:
        while shutil.disk_usage(runs_root()).free < SPACE_BYTES:
            say(f"Less than 1 GB is left on the disk of {runs_root()}; waiting for room.")
            time.sleep(30)

    def handle(self, job: dict, report: dict, inspector: status.Inspector) -> None:
        """Take a finished job: the result on disk decides, then what the process said."""
        if job["kind"] == "prepare":
            self.preparing.discard(tuple(job["sources"]))
            name = forecast.prepare_name(tuple(job["sources"]))
            if report["outcome"] == "ok":
                if report["built"]:
                    forecast.took(self.config.study, name, report["seconds"])
                say(f"           {name} ready in {clock(report['seconds'])}")
            else:  # the experiments will meet the same error and keep it in their notebooks
                say(f"           {name} failed: {report.get('error', '')}")
            return
        chain = next(chain for chain in self.chains if chain and chain[0].spec.chain == tuple(job["chain"]))
        item = chain[0]
        self.busy.discard(item.spec.chain)
        keys = inspector.keys(item.spec)
        result = item.run.result(item.spec.config.epochs)
        outcome = report["outcome"]
        if result is not None and result["keys"]["experiment"] == keys["experiment"] and result["outcome"] == "ok":
            if outcome != "ok":  # the numbers stand, the page does not
                report.setdefault("export_error", f"after its result: {report.get('error', outcome)}")
            outcome = "ok"
        elif outcome == "ok":
            outcome, report["error"] = (
                "error",
                "the notebook ended without a result; it must call experiment.finish()",
            )
        elif outcome == "kernel_died" and self.retry.get(item.spec.name, 0) < RESUMES:
            self.retry[item.spec.name] = self.retry.get(item.spec.name, 0) + 1
            say(f"           {item.spec.name}: the kernel died ({report.get('error', '')}); resuming its checkpoint")
            return
        chain.popleft()
        self.ended += 1
        self.seconds.setdefault(self._kind(item.spec), []).append(report["seconds"])
        if outcome == "ok":
            forecast.took(self.config.study, item.spec.name, report["seconds"])
        self._record(item, outcome, report, keys)
        self._say(item.spec, outcome, report)

    def _record(self, item: status.ExperimentState, outcome: str, report: dict, keys: dict) -> None:
        epochs, config = item.spec.config.epochs, item.spec.config.model_dump()
        notebook = str(item.run.notebook_path(epochs, failed=True))
        if outcome == "out_of_memory":
            record = {
                "schema": SCHEMA,
                "outcome": outcome,
                "config": config,
                "keys": keys,
                "error": report["error"],
            }
            write_json(item.run.result_path(epochs), record)
        elif outcome != "ok":
            self.bad += 1
            record = {"outcome": outcome, "config": config, "keys": keys, "error": report.get("error", "")}
            write_json(item.run.failure_path(epochs), record | {"notebook": notebook})
        elif "export_error" not in report:
            item.run.notebook_path(epochs, failed=True).unlink(missing_ok=True)

    def _say(self, spec: ExperimentSpec, outcome: str, report: dict) -> None:
        done = self.total - len(self.todo) + self.ended
        words = {"ok": "done", "out_of_memory": "OUT OF MEMORY"}.get(
            outcome, f"FAILED, {report.get('error', '')[:120]}"
        )
        note = f" (no page: {report['export_error']})" if "export_error" in report else ""
        say(
            f"[{done:>3}/{self.total}] {spec.name}: {words} in {clock(report['seconds'])}{note}   "
            f"{clock(time.perf_counter() - self.started)} elapsed, about {clock(self._rest())} left"
        )

    @staticmethod
    def _kind(spec: ExperimentSpec) -> tuple[str, str]:
        return spec.config.dataset, spec.config.method

    def _rest(self) -> float:
        """Seconds for what is left: each experiment as its kind took so far, else by its method's effort."""
        known = {kind: sum(times) / len(times) for kind, times in self.seconds.items()}
        unit = sum(mean / EFFORT.get(kind[1], 1.0) for kind, mean in known.items()) / len(known)
        kinds = [self._kind(item.spec) for chain in self.chains for item in chain]
        return sum(known.get(kind, unit * EFFORT.get(kind[1], 1.0)) for kind in kinds) / self.slots


def run(config: StudyConfig, workers: int | None = None, scheduler: str | None = None) -> list[status.ExperimentState]:
    """Run what is missing or out of date; the states of all experiments afterwards.

    ``scheduler``: address or scheduler file of a dask cluster whose workers see the same files and have one
    thread each. Raises RuntimeError when another process is running this study.
    """
    lock = FileLock(runs_root() / config.study / ".lock", timeout=0)
    lock_folder = Path(lock.lock_file).parent
    lock_folder.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire()
    except Timeout as error:
        raise RuntimeError(
            f"Another process is running the study '{config.study}' ({lock.lock_file} is locked)."
        ) from error
    with lock:
        accept_jobs()
        check.prepare((spec.config for spec in study.experiments(config)), say)
        inspector = status.Inspector()
        before = [inspector.state(spec) for spec in study.experiments(config)]
        todo = [item for item in before if not item.finished]
        if todo:
            workers = min(workers or default_workers(), len({item.spec.chain for item in todo}))
            say(f"{config.title}: {len(before)} experiments, {len(before) - len(todo)} done before, {workers} at once.")
            queue = Queue(config, todo, len(before), workers)
            if workers == 1 and not scheduler:
                run_serially(queue, inspector)
            else:
                run_distributed(queue, inspector, workers, scheduler)
        return [inspector.state(spec) for spec in study.experiments(config)]


def run_serially(queue: Queue, inspector: status.Inspector) -> None:
    """One job after the other, each in a process of its own."""
    while (job := queue.next()) is not None:
        queue.handle(job, run_job(job), inspector)


def run_distributed(queue: Queue, inspector: status.Inspector, workers: int, scheduler: str | None) -> None:
    """At most as many submitted jobs as slots: a worker's death then touches its own job only."""
    from distributed import Client, LocalCluster, wait

    logging.getLogger("distributed.batched").setLevel(logging.WARNING)  # it prints a traceback at each orderly end
    if scheduler:
        options = {"scheduler_file": scheduler} if Path(scheduler).exists() else {"address": scheduler}
        client = Client(**options)
        client.wait_for_workers(1)
    else:
        # No memory limit of dask's: it does not see child processes. The worker watches them itself.
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=False,  # a worker only watches a process; in one process they share a fork server
            memory_limit=0,
            dashboard_address=None,
            silence_logs=50,
        )
        client = Client(cluster)
    running = {}
    try:
        while True:
            if scheduler:  # workers of a cluster come and go
                queue.slots = max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
            while len(running) < queue.slots and (job := queue.next()) is not None:
                running[client.submit(run_job, job, pure=False)] = job
            if not running:
                return
            for future in wait(list(running), return_when="FIRST_COMPLETED").done:
                job = running.pop(future)
                try:
                    report = future.result()
                except Exception as error:  # the worker itself died: the same as a dead kernel
                    report = {"outcome": "kernel_died", "error": str(error), "seconds": 0.0}
                queue.handle(job, report, inspector)
    except BaseException:
        end_all()
        raise
    finally:
        client.close()
        if not scheduler:
            cluster.close()


def say(line: str) -> None:
    """A line for the person at the terminal, on stderr."""
    print(line, file=sys.stderr, flush=True)
