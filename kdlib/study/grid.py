"""Runs the experiments of a study that are missing, in parallel. One that fails does not stop the others.

An engine runs the jobs, on this machine or on a cluster, each in a fresh process. All state is in files.
"""

import time

from filelock import FileLock, Timeout

from kdlib import study
from kdlib.files import make_folder, reports_root, runs_root, sweep
from kdlib.notebook import scratch
from kdlib.progress import Ticker, clock, say
from kdlib.study import cluster, status
from kdlib.study.engine import Cluster, Local, default_workers
from kdlib.study.file import StudyConfig
from kdlib.study.queue import Queue
from kdlib.teachers import check

PATIENCE = 1.0  # seconds between two looks at workers, disk and running jobs


def run(
    config: StudyConfig,
    workers: int | None = None,
    scheduler: str | None = None,
    inspector: status.Inspector | None = None,
) -> list[status.ExperimentState]:
    """Run what is missing or out of date; the states of all experiments afterwards.

    ``scheduler``: address or scheduler file of a dask cluster whose workers see the same files and have one
    thread each. ``inspector``: whoever has one passes it, so that each data set is opened once. Raises RuntimeError
    when another process is running this study, or the scheduler is gone.
    """
    folder = make_folder(runs_root() / config.study)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise RuntimeError(
            f"Another process is running the study '{config.study}' ({lock.lock_file} is locked)."
        ) from error
    with lock:
        scratch.sweep()
        for root in (folder, reports_root() / config.study):
            sweep(root)
        specs = study.experiments(config)
        check.prepare((spec.config for spec in specs), say)
        if scheduler:
            engine = Cluster(scheduler, config.memory_gb, cluster.mark(config.study))
        else:
            workers = min(workers or default_workers(), len({spec.chain for spec in specs}))
            engine = Local(workers, config.memory_gb)
        try:
            inspector = inspector or status.Inspector()
            inspector.room = engine.room
            before = [inspector.state(spec) for spec in specs]
            todo = [item for item in before if not item.finished]
            if todo:
                say(f"{config.title}: {len(before)} experiments, {len(before) - len(todo)} done before.")
                work(Queue(config, todo, len(before), engine.slots), engine, inspector)
        finally:
            engine.close()
        return [inspector.state(spec) for spec in specs]


def work(queue: Queue, engine: Local | Cluster, inspector: status.Inspector) -> None:
    """Give each free slot a job, and handle those that ended, until nothing is left."""
    ticker, since = Ticker(), {}
    while not queue.empty:
        queue.slots = engine.slots
        for _ in range(engine.free):
            if (job := queue.next()) is None:
                break
            engine.submit(job)
            since[job["name"]] = time.perf_counter()
        if not engine.running:
            time.sleep(PATIENCE)  # for room on the disk, or for a worker
            continue
        for job, report in engine.ended(PATIENCE):
            queue.handle(job, report, inspector)
        ticker.show(lambda: ", ".join(doing(job, since[job["name"]]) for job in engine.running))


def doing(job: dict, since: float) -> str:
    """A running job in words: its name, how far it is, and for how long it has run."""
    return f"{job['name']} ({status.progress_of(job)}, {clock(time.perf_counter() - since)})"
