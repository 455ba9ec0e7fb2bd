"""A read-only tree of files that may lie in a folder or in zip archives; readers need not know which."""

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from kdlib.files import read_json, runs_root, write_json

UNREADABLE = -1  # the size of what cannot be read as a file
LARGEST = 2 << 30  # bytes of one file; COCO's largest annotation file has 0.47 GB


class Tree:
    """Files by their path below ``folder`` (as 'train/n01443537/images/x.JPEG').

    ``root`` is a zip archive, a folder that is or holds ``folder``, or a folder of zip archives (COCO comes
    in three). A path found in several places is read from the first; folders come before archives.
    """

    def __init__(self, root: str | Path, folder: str):
        root = Path(root).expanduser()
        self.where = str(root)
        self.folders: list[Path] = []
        self.archives: list[Path] = []
        if root.is_dir():
            self.folders = [path for path in (root / folder, root) if path.is_dir()]
            self.archives = sorted(root.glob("*.zip"))
        elif root.is_file():
            self.archives = [root]
        self._prefix = folder + "/"
        self._members: dict[str, tuple[Path, str]] | None = None
        self._open: dict[tuple[int, Path], zipfile.ZipFile] = {}

    def __getstate__(self):
        return {**self.__dict__, "_open": {}}

    @property
    def members(self) -> dict[str, tuple[Path, str]]:
        """Path -> (archive, name in it)."""
        if self._members is None:
            members: dict[str, tuple[Path, str]] = {}
            for archive in self.archives:
                try:
                    names = self._zip(archive).namelist()
                except (zipfile.BadZipFile, OSError) as error:
                    raise OSError(f"{archive}: not a complete zip archive ({error}). Download it again.") from error
                for name in names:
                    members.setdefault(name.removeprefix(self._prefix), (archive, name))
            self._members = members  # only when it is complete, for other threads
        return self._members

    def _zip(self, archive: Path) -> zipfile.ZipFile:
        key = (os.getpid(), archive)  # a handle must not be shared with a forked process
        if key not in self._open:
            self._open[key] = zipfile.ZipFile(archive)
        return self._open[key]

    def _path(self, name: str) -> Path | None:
        return next((folder / name for folder in self.folders if (folder / name).is_file()), None)

    def exists(self, name: str) -> bool:
        """Whether there is a file ``name``, in a folder or an archive."""
        return self._path(name) is not None or name in self.members

    def read(self, name: str, most: int = LARGEST) -> bytes:
        """The content of a file of up to ``most`` bytes.

        FileNotFoundError when there is none, another OSError with the path when it cannot be read: a link that leads
        nowhere, something that is no file (a pipe would be waited for without end), a damaged or locked member of an
        archive, or more than ``most`` bytes, of which none is read.
        """
        path = self._path(name)
        if path is not None:
            self._check_size(f"{path}", path.stat().st_size, most)
            return path.read_bytes()
        if name not in self.members:
            raise self._absent(name)
        archive, member = self.members[name]
        try:
            # A member never gives more than the archive's directory says.
            self._check_size(f"{archive}: {member}", self._zip(archive).getinfo(member).file_size, most)
            return self._zip(archive).read(member)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise OSError(f"{archive}: {member} is damaged ({error}). Download the archive again.") from error
        except (RuntimeError, NotImplementedError) as error:  # a password, or a compression that is not known here
            raise OSError(f"{archive}: {member} cannot be unpacked ({error}). Pack it anew, as a plain zip.") from error

    def _absent(self, name: str) -> OSError:
        for folder in self.folders:
            path = folder / name
            if path.is_symlink():
                return OSError(f"{path}: a link that leads nowhere. Put the file there.")
            if path.exists() and not path.is_dir():
                return OSError(f"{path}: a pipe or a device, not a file. Put the file there.")
        return FileNotFoundError(f"{self.where}: there is no {name}")

    def _check_size(self, where: str, size: int, most: int) -> None:
        if size > most:
            raise OSError(f"{where} has {size / 1e6:,.0f} MB, and {most / 1e6:,.0f} MB are the most that is read.")

    def below(self, prefix: str) -> list[str]:
        """All file paths below ``prefix``, sorted."""
        start = f"{prefix}/" if prefix else ""
        found = {name for name in self.members if name.startswith(start) and not name.endswith("/")}
        for folder in self.folders:
            for parent, _, files in os.walk(folder / prefix):
                relative = Path(parent).relative_to(folder).as_posix()
                found.update(file if relative == "." else f"{relative}/{file}" for file in files)
        return sorted(found)

    def checksums(self, names: Iterable[str]) -> list[tuple[str, int, int]]:
        """(path, bytes, CRC-32) per file. Archives know theirs; a folder's are computed once and remembered.

        They are computed again when a size or a modification time has changed. A link that leads nowhere, a pipe and
        a device have the size UNREADABLE and the sum 0.
        """
        names = list(names)
        paths = {name: self._path(name) for name in names}
        stats = {name: path.stat() for name, path in paths.items() if path is not None}
        seen = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()]
        memory = self._memory(seen)
        known = (read_json(memory) if seen else None) or {}
        if seen and not _are_sums(known, stats):  # also where the memory was cut or emptied
            known = {name: crc32(paths[name]) for name in stats}
            write_json(memory, known)
        rows = []
        for name in names:
            if name in stats:
                rows.append((name, stats[name].st_size, known[name]))
            elif name in self.members:
                archive, member = self.members[name]
                info = self._zip(archive).getinfo(member)
                rows.append((name, info.file_size, info.CRC))
            elif isinstance(error := self._absent(name), FileNotFoundError):
                raise error
            else:
                rows.append((name, UNREADABLE, 0))
        return rows

    def _memory(self, seen: list) -> Path:
        digest = hashlib.sha256(json.dumps([self.where, seen]).encode()).hexdigest()
        return runs_root() / "data" / "checksums" / f"{digest[:24]}.json"


def _are_sums(known: object, names: Iterable[str]) -> bool:
    """Whether ``known`` has a CRC-32 for each of ``names``."""
    if not isinstance(known, dict):
        return False
    return all(type(known.get(name)) is int and 0 <= known[name] < 1 << 32 for name in names)


def crc32(path: Path) -> int:
    """The CRC-32 of a file's content, as zip archives record it."""
    crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            crc = zlib.crc32(chunk, crc)
    return crc
