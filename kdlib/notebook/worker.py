"""Runs one job in a fresh process, and watches its memory from outside. Imports nothing heavy."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from kdlib.notebook import lifeline, warm
from kdlib.notebook.scratch import Scratch

POLL_SECONDS = 0.25
NEAR_LIMIT = 0.9
_running: set = set()  # processes of jobs, for :func:`end_all`
_ending = threading.Event()  # set by end_all, so that a job that is being started meanwhile ends too


def run_job(job: dict, wanted: Callable[[], bool] = lambda: True) -> dict:
    """Run ``python -m <job['module']>`` on the job's file, in a process group of its own, warm if possible.

    ``job``: module, threads, memory_bytes (0: no limit), log, environment (further variables), and what the module
    reads. Returns the module's answer with ``seconds`` and ``peak_bytes``; an outcome of out_of_memory when its
    processes together passed the limit, of kernel_died when it left no answer, of abandoned when it was ended
    because it was not ``wanted`` any more.
    """
    if _ending.is_set():
        raise RuntimeError("No job is started any more: the run has been interrupted.")
    began = time.perf_counter()
    with Scratch() as folder:
        answer, file = folder / "answer.json", folder / "job.json"
        owner = {"pid": os.getpid(), "born": lifeline.started(os.getpid())}
        file.write_text(json.dumps(job | {"answer": str(answer), "owner": owner}))
        log = Path(job["log"])
        log.parent.mkdir(parents=True, exist_ok=True)
        own = job.get("environment", {}) | {"TMPDIR": str(folder)}  # what the job leaves there goes with the folder
        process = start(job["module"], str(file), log, environment(job["threads"]) | own, job["threads"])
        _running.add(process)
        try:
            if _ending.is_set():
                end_group(process)
            peak, over = watch(process, job["memory_bytes"], wanted)
        finally:
            _running.discard(process)
        report = json.loads(answer.read_text()) if answer.exists() else {"outcome": "kernel_died"}
        if not answer.exists():
            report["error"] = f"exit code {process.returncode}: {tail(log)}"
            if not wanted():
                report["outcome"] = "abandoned"
    if over or (report["outcome"] == "kernel_died" and near(peak, job["memory_bytes"])):
        report |= {
            "outcome": "out_of_memory",
            "error": f"used {peak / 2**30:.1f} GB of {job['memory_bytes'] / 2**30:.1f}",
        }
    return report | {"seconds": time.perf_counter() - began, "peak_bytes": peak}


def take_job() -> dict:
    """In the job's process: read the job. From here on this process ends when the one that started it ends."""
    job = json.loads(Path(sys.argv[1]).read_text())
    if "owner" in job:
        lifeline.die_with(job["owner"]["pid"], job["owner"]["born"], lifeline.end_own_group)
    return job


def start(
    module: str, argument: str, log: Path, variables: dict[str, str], threads: int
) -> subprocess.Popen | warm.Forked:
    """``python -m module argument > log`` in a session of its own, warm if possible."""
    log.write_bytes(b"")
    if warm.available(threads):
        return warm.run_module(module, argument, log, variables, threads)
    with open(log, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", module, argument],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=variables,
        )


def environment(threads: int) -> dict[str, str]:
    """The caller's environment with every thread pool limited to ``threads``, so that jobs do not compete."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    quiet = {"PYDEVD_DISABLE_FILE_VALIDATION": "1", "TOKENIZERS_PARALLELISM": "false", "MPLBACKEND": "agg"}
    return os.environ | dict.fromkeys(names, str(threads)) | quiet


def watch(process: subprocess.Popen | warm.Forked, limit: int, wanted: Callable[[], bool]) -> tuple[int, bool]:
    """Wait until the process ends, or end it. Returns the process tree's peak memory, and if it passed ``limit``."""
    peak = 0
    try:
        while True:
            try:
                process.wait(POLL_SECONDS)
                return peak, False
            except subprocess.TimeoutExpired:
                peak = max(peak, tree_memory(process.pid))
                if limit and peak > limit:
                    return peak, True
                if not wanted():
                    return peak, False
    finally:
        end_group(process)
        process.wait()


def tree_memory(pid: int) -> int:
    """Bytes that a process and its descendants hold in memory."""
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for member in family:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def end_group(process: subprocess.Popen | warm.Forked) -> None:
    """Kill a job and all that it started: its process group, and its descendants, such as the kernel."""
    try:
        members = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        members = []
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        process.kill()  # it may not have a group of its own yet
    for member in members:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue


def accept_jobs() -> None:
    """Start jobs again after :func:`end_all`."""
    _ending.clear()


def end_all() -> None:
    """End every job that this process runs in any thread, as when a run is interrupted.

    The files that they wrote are complete (written under a new name, then renamed), and the next run goes on from them.
    No other job is started until :func:`accept_jobs`.
    """
    _ending.set()
    for process in list(_running):
        end_group(process)


def near(peak: int, limit: int) -> bool:
    """Whether a peak is so close to the limit (if there is one) that the process probably ran out of memory."""
    return bool(limit) and peak > NEAR_LIMIT * limit


def tail(log: Path, characters: int = 400) -> str:
    """The last line of a log, for an error message."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][-characters:] if lines else "no output"
