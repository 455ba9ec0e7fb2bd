"""Runs jobs: ``Local`` on this machine, ``Cluster`` on dask workers. Both have the same methods."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import psutil

from kdlib.machine import gpu_bytes, gpus
from kdlib.notebook.worker import accept_jobs, end_all, run_job
from kdlib.progress import say
from kdlib.study import cluster

SHARE = 0.9  # of a machine's memory that experiments may use
CONNECT_SECONDS = 30  # in which a scheduler must answer


def default_workers() -> int:
    """One per GPU; without a GPU, one per core as far as memory goes (2 GB each)."""
    return len(gpus()) or max(1, min(psutil.cpu_count(logical=False) or 1, psutil.virtual_memory().total // 2**31))


def room(memory_gb: float | None, slots: int) -> dict[str, int]:
    """Bytes that one experiment may use: ``memory`` (the study's limit, or its share of this machine) and ``gpu``."""
    memory = memory_gb * 2**30 if memory_gb else psutil.virtual_memory().total * SHARE / slots
    return {"memory": int(memory), "gpu": gpu_bytes()}


class Local:
    """``slots`` threads, each of which watches the process of one job. With GPUs, each slot uses one of them."""

    def __init__(self, slots: int, memory_gb: float | None):
        self.slots, self.room = slots, room(memory_gb, slots)
        self._pool = ThreadPoolExecutor(slots)
        self._running: dict[Future, dict] = {}
        found = gpus()
        self._gpus: SimpleQueue[str] = SimpleQueue()
        for slot in range(slots if found else 0):
            self._gpus.put(found[slot % len(found)])
        self._has_gpus = bool(found)
        accept_jobs()

    @property
    def running(self) -> list[dict]:
        """The jobs that run."""
        return list(self._running.values())

    @property
    def free(self) -> int:
        """Slots without a job."""
        return self.slots - len(self._running)

    def submit(self, job: dict) -> None:
        """Start a job in a free slot."""
        job["room"] = self.room
        self._running[self._pool.submit(self._run, job | {"memory_bytes": self.room["memory"]})] = job

    def _run(self, job: dict) -> dict:
        if not self._has_gpus or job["device"] not in ("auto", "cuda"):
            return run_job(job)
        gpu = self._gpus.get()
        try:
            return run_job(job | {"environment": {"CUDA_VISIBLE_DEVICES": gpu}})
        finally:
            self._gpus.put(gpu)

    def ended(self, seconds: float) -> list[tuple[dict, dict]]:
        """Jobs that have ended, each with its report, waiting up to ``seconds`` for one."""
        done = wait(list(self._running), timeout=seconds, return_when=FIRST_COMPLETED).done
        return [(self._running.pop(future), future.result()) for future in done]

    def close(self) -> None:
        """End what runs."""
        end_all()
        self._pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class Worker:
    """A dask worker that may run jobs: its memory in bytes as it measures it, and its machine."""

    memory: int
    host: str


class Cluster:
    """The workers of a dask scheduler, one job each. Those that join late are used at once.

    Each is asked first whether it has the same runs, reports, code and versions; if not, it gets no jobs, and a message
    says so. A job is given to one worker by its address, so the death of a worker affects its own job only.
    """

    def __init__(self, scheduler: str, memory_gb: float | None, marker: dict):
        from distributed import Client

        logging.getLogger("distributed.batched").setLevel(logging.WARNING)  # a traceback at each orderly end
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # the same when the scheduler is gone
        self.where, self.memory_gb, self.marker = scheduler, memory_gb, marker
        options = {"scheduler_file": scheduler} if Path(scheduler).exists() else {"address": scheduler}
        try:
            self.client = Client(**options, timeout=CONNECT_SECONDS)
        except (OSError, TimeoutError, ValueError) as error:
            raise RuntimeError(
                f"No dask scheduler answers at {scheduler} ({type(error).__name__}). Start it, then run the same "
                "command; docs/run_on_a_cluster.md says how."
            ) from error
        self._workers: dict[str, Worker] = {}
        self._refused: dict[str, str] = {}
        self._running: dict[Future, tuple[dict, str]] = {}
        self._waited = False
        self._greet()

    @property
    def running(self) -> list[dict]:
        """The jobs that run."""
        return [job for job, _ in self._running.values()]

    @property
    def room(self) -> dict[str, int]:
        """Bytes that an experiment gets on the worker with the most memory."""
        return {"memory": max(map(self._memory, self._workers), default=0), "gpu": 0}

    @property
    def slots(self) -> int:
        """Workers that take jobs."""
        return len(self._workers)

    @property
    def free(self) -> int:
        """Workers without a job."""
        self._greet()
        return len(self._idle())

    def _idle(self) -> list[str]:
        busy = {address for _, address in self._running.values()}
        return [address for address in self._workers if address not in busy]

    def _memory(self, address: str) -> int:
        worker = self._workers[address]
        neighbours = sum(other.host == worker.host for other in self._workers.values())
        return int(self.memory_gb * 2**30 if self.memory_gb else worker.memory * SHARE / neighbours)

    def _greet(self) -> None:
        """Question new workers, and forget those that are gone."""
        present = self._ask(lambda: set(self.client.scheduler_info(n_workers=-1)["workers"]))
        self._workers = {address: worker for address, worker in self._workers.items() if address in present}
        for address in sorted(present - set(self._workers) - set(self._refused)):
            try:
                answer = self.client.run(cluster.introduce, self.marker, workers=[address])[address]
            except Exception as error:  # of another version it may not even have the function; or it has just ended
                if address not in self.client.scheduler_info(n_workers=-1)["workers"]:
                    continue
                answer = {"problem": f"it cannot be asked ({type(error).__name__}: {error})"}
            if answer["problem"]:
                self._refused[address] = answer["problem"]
                say(f"The worker {address} gets no jobs: {answer['problem']}")
            else:
                self._workers[address] = Worker(answer["memory"], answer["host"])
        if not self._workers and not self._waited:
            say(f"No worker of {self.where} can take a job yet; waiting for one.")
        self._waited = not self._workers

    def _ask(self, question: Callable):
        """Ask the scheduler. Raises RuntimeError, which says what to do, when it is gone."""
        try:
            if self.client.status != "running":
                raise OSError(self.client.status)
            return question()
        except (OSError, TimeoutError) as error:
            raise RuntimeError(
                f"The dask scheduler {self.where} is gone. What is done is kept. Start a scheduler and workers again, "
                "then run the same command: it goes on from there."
            ) from error

    def submit(self, job: dict) -> None:
        """Give a job to an idle worker."""
        address = self._idle()[0]
        memory = self._memory(address)
        job["room"] = {"memory": memory, "gpu": 0}
        future = self.client.submit(
            cluster.run_here, job | {"memory_bytes": memory}, workers=[address], allow_other_workers=False, pure=False
        )
        self._running[future] = (job, address)

    def ended(self, seconds: float) -> list[tuple[dict, dict]]:
        """Jobs that have ended, each with its report, waiting up to ``seconds`` for one."""
        deadline = time.monotonic() + seconds
        while True:
            present = self._ask(lambda: set(self.client.scheduler_info(n_workers=-1)["workers"]))
            found = []
            for future, (job, address) in list(self._running.items()):
                if future.status in ("finished", "error"):
                    found.append((job, self._report(future)))
                elif address not in present or future.status in ("cancelled", "lost"):
                    found.append(
                        (job, {"outcome": "abandoned", "error": f"the worker {address} is gone", "seconds": 0.0})
                    )
                    future.cancel()
                else:
                    continue
                del self._running[future]
            if found or time.monotonic() > deadline:
                return found
            time.sleep(0.1)

    @staticmethod
    def _report(future) -> dict:
        try:
            return future.result()
        except Exception as error:  # raised on the worker, for example because it cannot write to its disk
            return {"outcome": "kernel_died", "error": f"{type(error).__name__}: {error}", "seconds": 0.0}

    def close(self) -> None:
        """Cancel all jobs; their workers then end them."""
        for future in self._running:
            future.cancel()
        self.client.close()
