"""Kills at random moments: of a job, its kernel, a worker, the client or the scheduler, by SIGKILL.

A moment is an event, some files further on in the study's folder, so that a slow machine meets the same moments.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from network import Machine, machines

CLIENT = Path(__file__).with_name("client.py")
WORKERS = 2
ONE_MACHINE = {"job": 10, "kernel": 10, "client": 3}  # victim -> how often of so many
CLUSTER = {"job": 8, "kernel": 8, "worker": 4, "client": 1, "scheduler": 1}


@dataclass
class Family:
    """The processes of one study: a client, and for a cluster a scheduler and its workers, each kept alive."""

    folder: Path
    cluster: bool
    machines: list[Machine] = field(default_factory=lambda: [Machine()])  # of client and scheduler, then of the workers
    running: dict[str, subprocess.Popen] = field(default_factory=dict)
    # For sockets, whose paths may have 107 characters: below a test's own folder they would be longer.
    temporary: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="kills-")))

    @property
    def scheduler_file(self) -> Path:
        """Where the scheduler writes its address."""
        return self.folder / "scheduler.json"

    def commands(self) -> dict[str, list[str]]:
        """Name of a process -> its command."""
        if not self.cluster:
            return {"client": [sys.executable, str(CLIENT), str(self.folder)]}
        dask, file = [sys.executable, "-m", "dask"], str(self.scheduler_file)
        worker = [*dask, "worker", "--scheduler-file", file, "--nthreads", "1", "--memory-limit", "0", "--no-dashboard"]
        here, *others = self.machines
        scheduler = [*dask, "scheduler", "--scheduler-file", file, "--port", "0", "--no-dashboard"]
        return {
            "scheduler": [*scheduler, "--host", here.address],
            **{
                f"worker {number}": [*other.before, *worker, "--host", other.address]
                for number, other in enumerate(others)
            },
            "client": [sys.executable, str(CLIENT), str(self.folder), file],
        }

    def keep_alive(self) -> None:
        """Start what is not running, in its order; what hangs on a dead scheduler ends first."""
        for name, command in self.commands().items():
            if (process := self.running.get(name)) is not None and process.poll() is None:
                continue
            own = self.folder / name.replace(" ", "-")
            if process is not None and process.returncode > 0 and not self.cluster:
                raise RuntimeError(f"The {name} ended by itself: {(own / 'log').read_text()[-2000:]}")
            if name == "scheduler":
                self.scheduler_file.unlink(missing_ok=True)
            elif self.cluster and not self.scheduler_file.exists():
                return
            own.mkdir(exist_ok=True)
            short = self.temporary / own.name
            short.mkdir(exist_ok=True)
            folders = {"KDLIB_RUNS": str(self.folder / "runs"), "KDLIB_REPORTS": str(self.folder / "reports")}
            with open(own / "log", "ab") as log:
                self.running[name] = subprocess.Popen(
                    command,
                    cwd=own,
                    env=os.environ | folders | {"OMP_NUM_THREADS": "1", "TMPDIR": str(short)},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

    def victims(self, kind: str) -> list[psutil.Process]:
        """The processes of a kind that are there now."""
        if kind in ("client", "scheduler"):
            found = [self.running[kind].pid] if kind in self.running else []
            return [psutil.Process(pid) for pid in found if psutil.pid_exists(pid)]
        tops = [psutil.Process(process.pid) for name, process in self.running.items() if process.poll() is None]
        below = [child for top in tops for child in _children(top, recursive=True)]
        servers = [child for child in below if "multiprocessing.forkserver" in _command(child)]
        jobs = [job for server in servers for job in _children(server)]
        if kind == "job":
            return jobs
        if kind == "kernel":
            return [kernel for job in jobs for kernel in _children(job)]
        return [parent for server in servers if (parent := server.parent()) is not None]  # dask's workers

    def end(self) -> None:
        """End all of it, whatever state it is in."""
        for process in self.running.values():
            try:
                family = [psutil.Process(process.pid), *_children(psutil.Process(process.pid), recursive=True)]
            except psutil.NoSuchProcess:
                continue
            for one in family:
                _kill(one)
        shutil.rmtree(self.temporary, ignore_errors=True)


def _children(process: psutil.Process, recursive: bool = False) -> list[psutil.Process]:
    try:
        return process.children(recursive=recursive)
    except psutil.NoSuchProcess:
        return []


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _kill(process: psutil.Process) -> bool:
    try:
        process.send_signal(signal.SIGKILL)
        return True
    except psutil.NoSuchProcess:
        return False


def survive(folder: Path, kills: int, cluster: bool, seed: int = 0, say: Callable = print) -> list[dict]:
    """Kill ``kills`` times, let the last pass end, and return a row for each kind of victim."""
    if not cluster:
        return _survive(Family(folder, cluster), kills, seed, say)
    with machines(WORKERS) as network:
        return _survive(Family(folder, cluster, network), kills, seed, say)


def _survive(family: Family, kills: int, seed: int, say: Callable) -> list[dict]:
    folder, cluster = family.folder, family.cluster
    folder.mkdir(parents=True, exist_ok=True)
    draw, done = random.Random(seed), Counter()
    weights = CLUSTER if cluster else ONE_MACHINE
    if not (folder / "reference.json").exists():  # undisturbed, on one machine, also for a cluster
        subprocess.run([sys.executable, str(CLIENT), str(folder), "", "once"], check=True, env=os.environ)
    try:
        while sum(done.values()) < kills:
            kind = draw.choices(list(weights), list(weights.values()))[0]
            awaited, seen = draw.randint(1, 8), files(folder)
            while awaited > 0:  # so many events from here
                family.keep_alive()
                now = files(folder)
                awaited -= len(now - seen)
                seen = now
                time.sleep(0.02)
            victims = family.victims(kind)
            if victims and _kill(draw.choice(victims)):
                done[kind] += 1
                say(f"kill {sum(done.values())} of {kills}: {kind}", flush=True)
        passes = len(told(folder))
        while len(told(folder)) == passes:  # the pass that was hit last, to its end
            family.keep_alive()
            time.sleep(0.1)
        (folder / "stop").touch()
    finally:
        family.end()
    rows = told(folder)
    lost, wrong = (sum(len(row[what]) for row in rows) for what in ("lost", "wrong"))
    twice = folder / "runs" / "doubled"
    doubled = len(twice.read_text().splitlines()) if twice.exists() else 0
    where = "cluster" if cluster else "one machine"
    apart = "; workers in network namespaces" if family.machines[-1].before else ""
    table: list[dict] = [{"fault": f"SIGKILL of a {kind}, {where}", "tries": count} for kind, count in done.items()]
    total = {"fault": f"all of these, {where}", "tries": kills, "lost": lost, "wrong": wrong + doubled}
    return [*table, total | {"message": f"{len(rows)} passes of 8 experiments, {doubled} run twice at once{apart}"}]


def files(folder: Path) -> set[Path]:
    """What is below the study's runs and reports now."""
    found = set()
    for root in (folder / "runs" / "faults", folder / "reports" / "faults"):
        for place, _, names in os.walk(root):
            found |= {Path(place, name) for name in names}
    return found


def told(folder: Path) -> list[dict]:
    """What each pass said."""
    path = folder / "passes.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
