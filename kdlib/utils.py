"""Where things lie, how they are written (whole or not at all), digests, seeds, names, and a line of progress."""

import contextlib
import difflib
import errno
import hashlib
import importlib
import io
import json
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import psutil
from filelock import FileLock
from tqdm import tqdm

for _place in {"KDLIB_RUNS", "KDLIB_REPORTS", "HF_HOME"} & {*os.environ}:  # kernels have another working directory
    os.environ[_place] = os.path.abspath(os.path.expanduser(os.environ[_place])) if os.environ[_place] else ""


def project_root() -> Path:
    """The checkout that this package was installed from, or the working directory."""
    checkout = Path(__file__).resolve().parents[1]
    return checkout if (checkout / "pyproject.toml").exists() else Path.cwd()


def runs_root() -> Path:
    """The folder ``runs``: $KDLIB_RUNS, or runs/ in the checkout."""
    return Path(os.environ.get("KDLIB_RUNS") or project_root() / "runs").expanduser().absolute()


def reports_root() -> Path:
    """The folder ``reports``: $KDLIB_REPORTS, or reports/ in the checkout."""
    return Path(os.environ.get("KDLIB_REPORTS") or project_root() / "reports").expanduser().absolute()


def absolute(value: str, base: Path | None = None) -> str:
    """A path as an absolute one, relative to ``base`` where it exists there, else to the working directory.

    What is no path stays: '', 'toy', 'shapes:2000', a model id.
    """
    if value.split(":")[0] in ("", "toy", "shapes"):
        return value
    path = Path(value).expanduser()
    for place in filter(None, (base, Path.cwd())):
        if (place / path).exists():
            return os.path.abspath(place / path)
    return os.path.abspath(path) if value.startswith((".", "~", os.sep)) else value


def digest(record: Any) -> str:
    """SHA-256 of the canonical JSON of ``record``."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; text is UTF-8 whatever the locale."""
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(scratch, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        remedy = "Make room there, or set KDLIB_RUNS and KDLIB_REPORTS to folders that can be written."
        raise OSError(error.errno, f"{path} cannot be written: {error.strerror}. {remedy}") from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def write_json(path: Path, record: Any) -> None:
    """NaN is an error: what is missing is None."""
    write_atomic(path, json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(buffer := io.BytesIO(), **arrays)
    write_atomic(path, buffer.getvalue())


def read_json(path: Path) -> Any:
    """The record of a JSON file; None where there is none or it is damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


@contextlib.contextmanager
def locked(path: Path, timeout: float = -1) -> Iterator[None]:
    """Hold the lock file ``path``; wait for it, at most ``timeout`` seconds (filelock.Timeout)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=timeout, mode=0o666)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
            raise
        warnings.warn(f"{path.parent} is on a file system without locks: start one command at a time.", stacklevel=3)
    try:
        yield
    finally:
        lock.release()


def is_running(record: dict | None) -> bool:
    """Whether the process of a running.json lives; of another machine's nothing else is known."""
    return bool(record) and (record["host"] != socket.gethostname() or psutil.pid_exists(record["pid"]))


def check_proxies() -> None:
    """Raise OSError where a client cannot use the proxy that the environment names."""
    try:
        httpx.Client().close()
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        why = f"The proxy of HTTP_PROXY, HTTPS_PROXY or ALL_PROXY cannot be used: {str(error).rstrip('.')}"
        raise OSError(f"{why}. Write it as http://host:port, or unset it.") from error


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, so that a resumed run needs no saved generator."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int):
    """A torch.Generator on the CPU for one purpose, as ``generator(seed, 'order', epoch)``."""
    import torch  # which takes 250 MB: a worker that only starts notebooks goes without

    return torch.Generator().manual_seed(derive(seed, *purpose))


def nearest(name: str, known) -> str:
    """The end of an error about an unknown name: the nearest one, and the choices."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"{f' Did you mean {close[0]}?' if close else ''} Known: {', '.join(sorted(known))}."


def find(registry: dict, name: str, noun: str) -> Any:
    """``registry[name]``, or the user's own 'package.module:attribute'. KeyError with the choices."""
    if name in registry:
        return registry[name]
    place, _, attribute = name.partition(":")
    if not attribute:
        raise KeyError(f"There is no {noun} '{name}'.{nearest(name, registry)} Your own: 'package.module:attribute'.")
    try:
        return getattr(importlib.import_module(place), attribute)
    except (ImportError, AttributeError) as error:
        raise KeyError(f"The {noun} '{name}' cannot be imported: {error}. Is its folder on PYTHONPATH?") from error


def register(registry: dict, entry: Any, noun: str) -> str:
    """The name of an entry: a string is one; a user's own class or function is entered under its own name."""
    if isinstance(entry, str):
        return entry
    name = next((name for name, known in registry.items() if known is entry), getattr(entry, "__name__", ""))
    known = registry.get(name, entry)
    if not name.isidentifier() or (known is not entry and getattr(known, "__module__", "").startswith("kdlib.")):
        raise ValueError(f"The {noun} needs a name of its own, by class or def; '{name}' cannot be taken.")
    registry[name] = entry
    return name


class Progress(tqdm):
    """``with Progress('features', total) as bar: bar.update(done, note)``; in a notebook a line that ends empty."""

    def __init__(self, title: str, total: int, done: int = 0):
        shell, file = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None, sys.stderr
        if hasattr(shell, "kernel"):
            from IPython.display import display

            line = display({"text/plain": ""}, raw=True, display_id=True)  # tqdm.auto would leave a widget in a page
            write = lambda text: line.update({"text/plain": text.strip()}, raw=True)  # noqa: E731
            file = SimpleNamespace(write=write, flush=int, encoding="utf-8")
        options = {"mininterval": 0.5 if file is not sys.stderr or file.isatty() else 30.0, "leave": False}
        super().__init__(desc=title, total=total, initial=done, file=file, dynamic_ncols=True, **options)

    def update(self, done: int, note: str = "") -> None:
        """``done`` of ``total``, with a few words."""
        self.set_postfix_str(note, refresh=False)
        super().update(done - self.n)

    @property
    def due(self) -> bool:
        """Whether an update would be shown, so that a training loop need not wait for its loss before."""
        return self._time() - self.last_print_t >= self.mininterval
