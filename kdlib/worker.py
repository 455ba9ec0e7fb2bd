"""Executes a notebook of a study: what runs in a dask worker, which is kept small."""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import nbformat
import papermill
import psutil
from distributed import get_worker
from papermill.exceptions import PapermillExecutionError

from kdlib.status import Job
from kdlib.utils import read_json, reports_root, runs_root, write_atomic

OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError", "can't allocate memory", "out of memory")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# dask starts workers with a trim threshold of 64 KB, which kernels inherit; with it convolutions take twice as long.
ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_MMAP_THRESHOLD_": str(2**30)}
ENVIRONMENT |= {"JUPYTER_PATH": f"{sys.prefix}/share/jupyter"}  # our kernel, whatever else is registered as 'python3'
ENVIRONMENT |= {"DASK_LOGGING__DISTRIBUTED": "critical"}  # dask's loggers are loud at each orderly end


def dask_setup(worker) -> None:
    """Called by dask in a worker of this machine: Ctrl-C, which a terminal sends to all, is the command's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def execute(job: Job, setting: dict, *before: dict) -> dict:
    """Execute a job's notebook: {"outcome", "error", "limit_gb", "host", "seconds"}.

    ``before``: the outcome of the features that it reads. Raises what dask is to try again: a kernel that died.
    """
    if failed := [found for found in before if found["outcome"] != "done"]:
        return failed[0]
    if (seen := token(job.config.study)) != setting["token"]:
        raise RuntimeError(f"a worker on {socket.gethostname()} has {seen}, and this command {setting['token']}")
    os.environ.update(ENVIRONMENT | dict.fromkeys(THREADS, str(job.config.threads)))
    if setting["gpus"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = setting["gpus"][int(get_worker().name) % len(setting["gpus"])]
    began, (outcome, error) = time.time(), _notebook(job, setting["limit"])
    limit = 0 if "CUDA" in error else setting["limit"] / 2**30  # a GPU may have more the next time
    found = {"outcome": outcome, "error": error, "limit_gb": limit, "host": socket.gethostname()}
    return found | {"seconds": time.time() - began}


def _notebook(job: Job, limit: float) -> tuple[str, str]:
    kept, failed = job.folder / "notebook.ipynb", job.folder / "notebook.failed.ipynb"
    kept.unlink(missing_ok=True)  # it is of an earlier result
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it says of a dead kernel is in the outcome
    scratch = Path(get_worker().local_directory, f"{uuid.uuid4().hex}.ipynb")
    over, end, outcome, error = threading.Event(), threading.Event(), "failed", ""
    threading.Thread(target=_watch, args=(limit, over, end), daemon=True).start()
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(job.build)]) if job.build else job.notebook
    try:
        papermill.execute_notebook(
            book, scratch, {} if job.build else _parameters(job), kernel_name="python3", progress_bar=False,
            cwd=Path(job.notebook).parent, start_timeout=120, iopub_timeout=60, coalesce_streams=True,
            store_widget_state=False, shutdown_kernel="immediate", extra_arguments=["--IPKernelApp.log_level=50"],
        )  # fmt: skip
        outcome = "done"
    except PapermillExecutionError as problem:
        error = f"{problem.ename}: {problem.evalue}"
        outcome = "out of memory" if any(words in error for words in OUT_OF_MEMORY) else "failed"
    except RuntimeError:  # the kernel died, or did not start
        if not over.is_set():
            raise
        outcome, error = "out of memory", f"it held more than {limit / 2**30:.1f} GB"
    finally:
        end.set()
        if scratch.exists():
            write_atomic(kept if outcome == "done" else failed, scratch.read_bytes())
    if outcome == "done":
        failed.unlink(missing_ok=True)
    return outcome, error


def _parameters(job: Job) -> dict[str, Any]:
    """Papermill would only warn of a parameter that a notebook lacks; such a one goes into its ``overrides``."""
    known = set(papermill.inspect_notebook(job.notebook))
    other = job.config.model_dump(exclude={"teacher", *known}, exclude_defaults=True)
    if other and "overrides" not in known:
        raise ValueError(f"{job.notebook} has no parameter {', '.join(other)}; it has {', '.join(sorted(known))}")
    return job.config.model_dump(include=known, exclude={"teacher"}) | ({"overrides": other} if other else {})


def _watch(limit: float, over: threading.Event, end: threading.Event) -> None:
    """Kill this worker's kernel when it holds more than ``limit`` bytes. Mapped files, as features, do not count."""
    # A kernel ends with its parent, but not while it starts; the shell sees the end of its input, and kills it.
    script, pipe, none = 'while read k; do p=$k; done; kill -9 "$p"', subprocess.PIPE, subprocess.DEVNULL
    last = subprocess.Popen(["sh", "-c", script], stdin=pipe, stderr=none, text=True)
    while not end.wait(0.2):
        for kernel in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess, OSError):
                if kernel.pid != last.pid:
                    print(kernel.pid, file=last.stdin, flush=True)
                memory = kernel.memory_info()
                if memory.rss - getattr(memory, "shared", 0) > limit:
                    over.set()
                    kernel.kill()
    last.kill()
    last.communicate()


def token(study: str) -> str:
    """The study's two folders with what the command wrote there: equal where a worker sees the same files."""
    roots = {"KDLIB_RUNS": runs_root(), "KDLIB_REPORTS": reports_root()}
    return ", ".join(f"{name}={root} ({read_json(root / study / '.command.json')})" for name, root in roots.items())
