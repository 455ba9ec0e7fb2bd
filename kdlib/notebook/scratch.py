"""Temporary folders. If the process that made one was killed, the next run removes it."""

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX, LOCK = "kdlib-", "owner.lock"
LONGEST = 80  # characters of a folder below which a kernel's sockets fit: the path of a socket may have 107
YOUNG = 60  # seconds in which a folder may not have its lock yet


def place() -> str:
    """Where temporary folders are made: in TMPDIR, or in /tmp where TMPDIR is too long for a kernel's sockets."""
    given = tempfile.gettempdir()
    return "/tmp" if len(given) > LONGEST and os.access("/tmp", os.W_OK) else given


class Scratch:
    """A temporary folder, with a lock in it that ends with this process."""

    def __init__(self):
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place()))
        self._lock = FileLock(self.path / LOCK, thread_local=False)
        self._lock.acquire()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_) -> None:
        self.remove()

    def remove(self) -> None:
        """Delete the folder with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()


def sweep() -> None:
    """Remove this user's folders whose process has ended."""
    for folder in Path(place()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, Timeout):
            status = folder.stat()
            if hasattr(os, "getuid") and status.st_uid != os.getuid():
                continue
            if not (folder / LOCK).exists() and time.time() - status.st_mtime < YOUNG:
                continue
            with FileLock(folder / LOCK, timeout=0):
                shutil.rmtree(folder)
