"""Where things lie on disk, and how they are written: whole or not at all."""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

SCRATCH = re.compile(r"\..+\.\d+(\.ipynb)?")  # names of files that are not whole yet: .NAME.PROCESS
UNSEALED = (1, 2, 3)  # schemas of results without a digest of themselves; they are stale anyway
FORGOTTEN = 600  # seconds after which nobody writes to such a file any more


def project_root() -> Path:
    """The checkout that this package was installed from, or the working directory."""
    checkout = Path(__file__).resolve().parents[1]
    return checkout if (checkout / "pyproject.toml").exists() else Path.cwd()


def runs_root() -> Path:
    """The folder ``runs``: $KDLIB_RUNS, or runs/ in the checkout, from whatever directory one works."""
    return Path(os.environ.get("KDLIB_RUNS") or project_root() / "runs")


def reports_root() -> Path:
    """The folder ``reports``: $KDLIB_REPORTS, or reports/ in the checkout."""
    return Path(os.environ.get("KDLIB_REPORTS") or project_root() / "reports")


def digest(record: Any) -> str:
    """SHA-256 of the canonical JSON of ``record``."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(path: Path) -> Path:
    """Make a folder and those above it so that they outlive a power cut; returns it."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync(folder.parent)
    return path


def sync(path: Path) -> None:
    """Bring a file's content, or the names in a folder, to the disk."""
    if os.name != "posix" and path.is_dir():
        return  # Windows has no such call for folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Move a complete, synced file or folder to ``target``, replacing a file there, and sync the folders of both."""
    os.replace(source, target)
    sync(target.parent)
    if source.parent != target.parent:
        sync(source.parent)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write to a new name, flush to the disk, rename: a reader sees the old file or the whole new one.

    A write that fails, as on a full disk, leaves nothing; its error names the file.
    """
    make_folder(path.parent)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(scratch, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        rename(scratch, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        error.filename = error.filename or str(path)
        raise


def sweep(folder: Path, older_than: float = FORGOTTEN) -> None:
    """Remove what writers that were killed left below ``folder``: scratch files and folders of that age in seconds."""
    for path in folder.rglob(".*"):
        if SCRATCH.fullmatch(path.name) and time.time() - path.stat().st_mtime >= older_than:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def write_json(path: Path, record: Any) -> None:
    """Write a record as JSON, whole or not at all; NaN is an error."""
    write_atomic(path, json.dumps(record, indent=1, allow_nan=False) + "\n")


def write_arrays(path: Path, arrays: dict) -> None:
    """A .npz file of numpy arrays, read with ``numpy.load(path)``, which never unpickles."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomic(path, buffer.getvalue())


def read_json(path: Path) -> Any | None:
    """The record in ``path``; None where there is no file or it is not whole."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def read_record(path: Path) -> dict | None:
    """As :func:`read_json`; None also where the file holds no record of names and values, or an empty one."""
    record = read_json(path)
    return record if isinstance(record, dict) and record else None


def seal(record: dict) -> dict:
    """The record with a digest of itself, by which :func:`seal_broken` knows an altered one."""
    bare = {name: value for name, value in record.items() if name != "digest"}
    return bare | {"digest": digest(json.loads(json.dumps(bare, allow_nan=False)))}


def seal_broken(record: dict) -> bool:
    """Whether a record that was read is not what :func:`seal` made."""
    try:
        return digest({name: value for name, value in record.items() if name != "digest"}) != record.get("digest")
    except ValueError:  # NaN or infinity, which no sealed record holds
        return True


class RunDir:
    """The folder of one run: config.json, metrics.jsonl, checkpoints/; a result and a notebook per number of epochs.

    A run is one training (one ``train_key``), whatever the number of epochs. A folder that holds another
    training is moved aside under the name of its key, never mixed with this one and never deleted.
    """

    def __init__(self, path: Path):
        self.path = Path(path)

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints, one an epoch."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The history, a line an epoch."""
        return self.path / "metrics.jsonl"

    def result_path(self, epochs: int) -> Path:
        """The result after so many epochs; there is one when the experiment is done."""
        return self.path / f"result-{epochs:04d}.json"

    def failure_path(self, epochs: int) -> Path:
        """The record of what went wrong in the last attempt at so many epochs."""
        return self.path / f"failure-{epochs:04d}.json"

    def notebook_path(self, epochs: int, failed: bool = False) -> Path:
        """The executed notebook; of a failed attempt with its traceback."""
        return self.path / f"epoch-{epochs:04d}{'.failed' if failed else ''}.ipynb"

    def scores_path(self, epochs: int) -> Path:
        """The student's scores on each resample of the test images, and for each query."""
        return self.path / f"scores-{epochs:04d}.npz"

    def embeddings_path(self, epochs: int) -> Path:
        """The student's embeddings of the scored splits."""
        return self.path / f"embeddings-{epochs:04d}.npz"

    def exported_path(self, epochs: int) -> Path:
        """What is known of the student's exported files; see :mod:`kdlib.export.record`."""
        return self.path / f"exported-{epochs:04d}.json"

    def published_path(self, epochs: int) -> Path:
        """Written when the notebook is whole: of which result it is, and its digest."""
        return self.path / f"published-{epochs:04d}.json"

    def result(self, epochs: int) -> dict | None:
        """The result after so many epochs, None where there is none, or an altered one: :meth:`result_problem`."""
        record = read_record(self.result_path(epochs))
        return None if record is None or self.result_problem(epochs, record) else record

    def result_problem(self, epochs: int, record: dict | None = None) -> str:
        """What is wrong with a result that is there, '' when it is sound or absent."""
        path = self.result_path(epochs)
        record = record or read_record(path)
        if record is None:
            return f"{path.name} holds no result" if path.exists() else ""
        if ("digest" in record or record.get("schema") not in UNSEALED) and seal_broken(record):
            return f"{path.name} was altered since it was written"
        return ""

    def failure(self, epochs: int) -> dict | None:
        """The record of a failed attempt, None where there is none."""
        return read_record(self.failure_path(epochs))

    @property
    def owner(self) -> str | None:
        """The ``train_key`` of the training that the folder belongs to; None where it is nobody's."""
        return (read_record(self.path / "config.json") or {}).get("train_key")

    @cached_property
    def _lock(self) -> FileLock:
        return FileLock(make_folder(self.path.parent) / f".{self.path.name}.lock")

    @property
    def _writer_path(self) -> Path:
        return self.path.with_name(f".{self.path.name}.writer")

    def writer(self) -> dict | None:
        """Who writes into the folder now: host, process, doing, since (a UTC time); None where nobody does."""
        record = read_record(self._writer_path)
        if record is None:
            return None
        try:
            with FileLock(self._lock.lock_file, timeout=0.5):  # an instance of its own: this process may be the writer
                return None  # the writer was killed
        except Timeout:
            return record

    @contextlib.contextmanager
    def writing(self, config: dict, train_key: str, doing: str) -> Iterator[None]:
        """Hold the folder for this training while it is written: one process at a time, and it is this training's.

        The lock ends with its process. Waits for another writer, and says which.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            other = read_record(self._writer_path) or {}
            print(
                f"{self.path} is being written by process {other.get('process', '?')} on {other.get('host', '?')} "
                f"({other.get('doing', '?')} since {other.get('since', '?')}); waiting for its end.",
                file=sys.stderr,
                flush=True,
            )
            self._lock.acquire()
        try:
            since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            record = {"host": socket.gethostname(), "process": os.getpid(), "doing": doing, "since": since}
            write_json(self._writer_path, record)
            self.claim(config, train_key)
            yield
        finally:
            if self._lock.lock_counter == 1:
                self._writer_path.unlink(missing_ok=True)
            self._lock.release()

    def claim(self, config: dict, train_key: str) -> None:
        """Make the folder this training's, moving another aside and bringing this one back where it was set aside.

        Nothing is deleted but what a killed writer left half-written. The caller holds the lock.
        """
        owner = self.owner
        if owner != train_key:
            if owner is not None:
                rename(self.path, self._aside(owner))
            with contextlib.suppress(OSError):
                self.path.rmdir()  # where it is empty
            if (before := self._set_aside(train_key)) is not None and not self.path.exists():
                rename(before, self.path)
        make_folder(self.path)
        sweep(self.path, older_than=0)
        if self.owner != train_key:
            write_json(self.path / "config.json", {"train_key": train_key, "config": config})

    def _aside(self, train_key: str) -> Path:
        """A free name for a training that is set aside."""
        first = self.path.with_name(f"{self.path.name}.superseded-{train_key[:8]}")
        others = (first.with_name(f"{first.name}-{number}") for number in range(2, 1000))
        return next(path for path in (first, *others) if not path.exists())

    def _set_aside(self, train_key: str) -> Path | None:
        """The folder of this training, if it was set aside."""
        found = self.path.parent.glob(f"{self.path.name}.superseded-{train_key[:8]}*")
        return next((path for path in sorted(found) if RunDir(path).owner == train_key), None)
