"""Starts processes warm: as forks of a server process that has imported what an experiment needs.

``import torch`` alone takes longer than most experiments train. The standard library's fork server imports once, and
computes nothing, so that each fork starts from the same state. It has no threads, which a fork would lose.
"""

import contextlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.context import BaseContext
from pathlib import Path

# What an experiment, its papermill and its page import; neither transformers nor torchvision, which few need.
IMPORTS = [
    "torch._dynamo",  # which the first step of an optimizer asks for
    "torch.utils.flop_counter",
    "matplotlib.backends.backend_agg",
    "kdlib.experiment",
    "kdlib.report.experiment_page",
    "kdlib.report",
    "kdlib.notebook.kernel",
    "papermill",
    "nbconvert",
    "ipykernel.kernelapp",
]
LONGEST = 70  # characters of the temporary folder: the path of the server's socket below it may have 107
MARK = "KDLIB_WARM"  # in the environment of a warm process
_starting = threading.Lock()  # the environment is the whole process's
_threads: int | None = None  # of the fork server's libraries, which read their environment when they are loaded


class Forked:
    """A forked process with the part of subprocess.Popen's interface that is used here."""

    stdin = stdout = stderr = None

    def __init__(self, process):
        self._process = process

    @property
    def pid(self) -> int:
        """The number by which the system knows the process."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative after a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; raises subprocess.TimeoutExpired when it has not ended after ``timeout`` seconds."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a warm process", timeout)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()


def available(threads: int) -> bool:
    """Whether warm processes can be started: not on Windows, with the server's threads only, in a short TMPDIR."""
    there = "forkserver" in multiprocessing.get_all_start_methods() and len(tempfile.gettempdir()) <= LONGEST
    return there and _threads in (None, threads)


def run_module(module: str, argument: str, log: Path, environment: dict[str, str], threads: int) -> Forked:
    """As ``python -m module argument > log 2>&1`` in a session of its own. The first call takes the imports' time."""
    global _threads
    context = multiprocessing.get_context("forkserver")
    if _threads is None:
        context.set_forkserver_preload(IMPORTS)
        _threads = threads
    process = context.Process(target=_be_module, args=(module, argument, str(log), environment, threads))
    with _starting:
        before = dict(os.environ)
        os.environ.update(environment)  # the server, if it starts now, loads its libraries under it
        try:
            with _allowed_to_fork():
                process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
    return Forked(process)


@contextlib.contextmanager
def _allowed_to_fork():
    """Let a dask worker start processes: below dask's nanny it is a daemon, which multiprocessing forbids it.

    The reason for that ban does not hold here: a job ends with its worker (:mod:`~kdlib.notebook.lifeline`).
    """
    own = multiprocessing.current_process()._config
    daemon = own.get("daemon", False)
    own["daemon"] = False
    try:
        yield
    finally:
        own["daemon"] = daemon


def _be_module(module: str, argument: str, log: str, environment: dict[str, str], threads: int) -> None:
    os.setsid()
    multiprocessing.current_process()._config["daemon"] = False  # inherited from the worker; it forks a kernel
    os.environ.clear()
    os.environ.update(environment | {MARK: "1"})
    tempfile.tempdir = None  # forget the fork server's; the environment names another
    with open(log, "ab") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    sys.argv = [module, argument]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def fork(target: Callable, *arguments) -> Forked:
    """``target(*arguments)`` in a fork of this process, which must have no other threads yet."""
    context: BaseContext = multiprocessing.get_context("fork")
    process = context.Process(target=target, args=arguments)
    process.start()
    return Forked(process)
