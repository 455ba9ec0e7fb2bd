"""The code that runs on a dask worker: it describes its machine, and runs one job. Imports nothing heavy."""

import hashlib
import os
import platform
import socket
import uuid
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kdlib.files import read_record, reports_root, runs_root, write_json
from kdlib.notebook.worker import run_job

PACKAGE = Path(__file__).parents[1]
LIBRARIES = ("torch", "torchvision", "transformers", "numpy", "safetensors", "pillow", "papermill")
MARKER = ".marker.json"


def mark(study: str) -> dict:
    """Write a marker into runs/<study>/ and reports/<study>/. Returns what :func:`introduce` is asked with."""
    token = uuid.uuid4().hex
    for root in (runs_root(), reports_root()):
        write_json(root / study / MARKER, {"token": token})
    return {"study": study, "token": token, "made_with": made_with()}


@cache
def made_with() -> dict[str, str]:
    """The environment that numbers come from: versions, and a digest of kdlib's code."""
    code = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        code.update(path.relative_to(PACKAGE).as_posix().encode() + path.read_bytes())
    found = {"python": platform.python_version(), "kdlib's code": code.hexdigest()[:12]}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def introduce(marker: dict) -> dict:
    """On a worker: its machine, the memory that it may use, and why it cannot work for this study ('' if it can)."""
    from distributed.system import MEMORY_LIMIT  # of the container where there is one

    return {"host": f"{socket.gethostname()} {boot()}", "memory": MEMORY_LIMIT, "problem": difference(marker)}


def boot() -> str:
    """An id that differs between machines or containers of the same name; '' if the system has none."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.stat('/proc/self/ns/mnt').st_ino}"
    except OSError:
        return ""


def difference(marker: dict) -> str:
    """How this worker's folders or versions differ from those of 'kdlib run', with the remedy; '' if they do not."""
    for name, root in (("KDLIB_RUNS", runs_root()), ("KDLIB_REPORTS", reports_root())):
        if (read_record(root / marker["study"] / MARKER) or {}).get("token") != marker["token"]:
            return (
                f"its folder {root} is not the one that 'kdlib run' uses. Set {name} to the same folder, on a file "
                "system in common, for the worker and for 'kdlib run'."
            )
    own, asked = made_with(), marker["made_with"]
    other = [f"{name} {own.get(name)} there, {asked[name]} here" for name in asked if own.get(name) != asked[name]]
    return f"{', '.join(other)}. Start it in the same environment." if other else ""


def run_here(job: dict) -> dict:
    """On a worker: run a job. End it when nobody waits for it any more, because client or scheduler are gone."""
    from distributed import Status, get_worker
    from distributed.worker import thread_state

    worker, key = get_worker(), thread_state.key

    def wanted() -> bool:
        task = worker.state.tasks.get(key)
        alive = worker.status in (Status.init, Status.running, Status.paused, Status.closing_gracefully)
        return alive and task is not None and task.state not in ("cancelled", "released", "forgotten")

    return run_job(job, wanted)
