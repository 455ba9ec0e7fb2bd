"""Ends a process when the process that it works for ends, however that was killed: no training goes on alone."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import psutil

PR_SET_PDEATHSIG = 1  # of Linux's prctl, see its manual page
LOOK_SECONDS = 0.25
SAME = 5.0  # seconds: two readings of one process's start can differ by a correction of the clock


def die_with_parent(parent: int) -> None:
    """End this process as soon as ``parent`` ends. ``parent`` must have forked it from its main thread.

    Linux sends the signal itself, even while this process runs no Python. If ``parent`` ended before the request, this
    process already has another parent. On other systems a thread watches.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
    else:
        die_with(parent, None, lambda: os.kill(os.getpid(), signal.SIGTERM))


def started(pid: int) -> float | None:
    """When a process started, which tells it from a later one with the same id; None if there is none."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def alive(pid: int, born: float | None) -> bool:
    """Whether the process ``pid`` that started at ``born`` still runs; a zombie does not."""
    try:
        process = psutil.Process(pid)
        same = born is None or abs(process.create_time() - born) < SAME
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def die_with(pid: int, born: float | None, end: Callable[[], None]) -> None:
    """Call ``end`` from a thread when the process ``pid`` that started at ``born`` ends, or has ended."""

    def watch() -> None:
        while alive(pid, born):
            time.sleep(LOOK_SECONDS)
        end()

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def end_own_group() -> None:
    """Kill this process, and all of its process group if it leads one."""
    if os.name == "posix" and os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGTERM if os.name != "posix" else signal.SIGKILL)
