"""Where things lie on disk, and how they are written: whole or not at all."""

import hashlib
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np


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


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write to a new name, flush to the disk, rename: a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with open(scratch, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


class RunDir:
    """The folder of one run: config.json, metrics.jsonl, checkpoints/, and per budget a result and a notebook.

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
        """What went wrong in the last attempt at so many epochs."""
        return self.path / f"failure-{epochs:04d}.json"

    def notebook_path(self, epochs: int, failed: bool = False) -> Path:
        """The executed notebook; of a failed attempt with its traceback."""
        return self.path / f"epoch-{epochs:04d}{'.failed' if failed else ''}.ipynb"

    def scores_path(self, epochs: int) -> Path:
        """Resamples and per-query credits of the student's scores."""
        return self.path / f"scores-{epochs:04d}.npz"

    def embeddings_path(self, epochs: int) -> Path:
        """The student's embeddings of the scored splits."""
        return self.path / f"embeddings-{epochs:04d}.npz"

    def exported_path(self, epochs: int) -> Path:
        """What is known of the student's exported files; see :mod:`kdlib.export.record`."""
        return self.path / f"exported-{epochs:04d}.json"

    def result(self, epochs: int) -> dict | None:
        """The result after so many epochs, None where there is none."""
        return read_json(self.result_path(epochs))

    def failure(self, epochs: int) -> dict | None:
        """The record of a failed attempt, None where there is none."""
        return read_json(self.failure_path(epochs))

    def claim(self, config: dict, train_key: str) -> None:
        """Make the folder this training's, moving an earlier, different training aside."""
        record = read_json(self.path / "config.json")
        if record is not None and record["train_key"] != train_key:
            aside = self.path.with_name(f"{self.path.name}.superseded-{record['train_key'][:8]}")
            if aside.exists():
                shutil.rmtree(aside)  # the same training, set aside before and then repeated
            os.replace(self.path, aside)
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "config.json", {"train_key": train_key, "config": config})
