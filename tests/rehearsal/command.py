"""One command as a user types it, and what it took: time, processor time and peak memory of all its processes, disk."""

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "KDLIB_REHEARSAL"  # in the environment of all processes of a command, also of those that have lost their parent
EVERY = 0.5  # seconds between two looks at the memory


@dataclass(frozen=True)
class Outcome:
    """``output`` is stdout and stderr as they came; ``memory`` the peak in bytes, shared pages counted once."""

    code: int
    output: str
    seconds: float
    cpu_seconds: float
    memory: int


def kdlib(*words: str | Path) -> list[str]:
    """The command ``kdlib`` of this environment."""
    script = Path(sys.executable).parent / "kdlib"
    start = [str(script)] if script.exists() else [sys.executable, "-m", "kdlib.cli"]
    return [*start, *map(str, words)]


def run(command: Sequence[str], environment: dict[str, str], cwd: Path, log: Path) -> Outcome:
    """Run to the end, whatever it is; the output is also in ``log``."""
    mark = uuid.uuid4().hex
    log.parent.mkdir(parents=True, exist_ok=True)
    started, peak, ended = time.perf_counter(), [0], threading.Event()
    used: dict[tuple, float] = {}  # processor seconds of each process when it was last seen
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment | {MARK: mark}, stdout=file, stderr=subprocess.STDOUT
        )

        def watch():
            ours: dict[tuple, bool] = {}
            while not ended.wait(EVERY):
                peak[0] = max(peak[0], _look(mark, ours, used))

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = process.wait()
        ended.set()
        watcher.join()
    seconds = time.perf_counter() - started
    return Outcome(code, log.read_text(errors="replace"), seconds, sum(used.values()), peak[0])


def _look(mark: str, ours: dict[tuple, bool], used: dict[tuple, float]) -> int:
    """Bytes of the processes with this mark, and in ``used`` their processor seconds; ``ours`` caches which."""
    total = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            key = process.pid, process.create_time()
            if key not in ours:
                ours[key] = process.environ().get(MARK) == mark
            if ours[key]:
                total += process.memory_full_info().pss
                times = process.cpu_times()
                used[key] = times.user + times.system
    return total


def size(folder: Path) -> int:
    """Bytes on the disk below ``folder``, a file with several names counted once."""
    seen, total = set(), 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with suppress(FileNotFoundError):
                status = os.lstat(os.path.join(parent, name))
                if (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    total += status.st_blocks * 512
    return total
