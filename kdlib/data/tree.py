"""A read-only tree of files that may lie in a folder or in zip archives; readers need not know which."""

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path


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

    def read(self, name: str) -> bytes:
        """The content of a file; FileNotFoundError when there is none."""
        path = self._path(name)
        if path is not None:
            return path.read_bytes()
        if name not in self.members:
            raise FileNotFoundError(f"{self.where}: there is no {name}")
        archive, member = self.members[name]
        try:
            return self._zip(archive).read(member)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise OSError(f"{archive}: {member} is damaged ({error}). Download the archive again.") from error

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

        What is remembered is dropped as soon as a size or a modification time differs.
        """
        names = list(names)
        paths = {name: self._path(name) for name in names}
        stats = {name: path.stat() for name, path in paths.items() if path is not None}
        seen = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()]
        memory = self._memory(seen)
        known = json.loads(memory.read_text()) if seen and memory.exists() else {}
        if seen and not known:
            known = {name: zlib.crc32(paths[name].read_bytes()) for name in stats}
            memory.parent.mkdir(parents=True, exist_ok=True)
            scratch = memory.with_suffix(f".{os.getpid()}")
            scratch.write_text(json.dumps(known))
            os.replace(scratch, memory)
        rows = []
        for name in names:
            if name in stats:
                rows.append((name, stats[name].st_size, known[name]))
            elif name in self.members:
                archive, member = self.members[name]
                info = self._zip(archive).getinfo(member)
                rows.append((name, info.file_size, info.CRC))
            else:
                raise FileNotFoundError(f"{self.where}: there is no {name}")
        return rows

    def _memory(self, seen: list) -> Path:
        from kdlib.files import runs_root

        digest = hashlib.sha256(json.dumps([self.where, seen]).encode()).hexdigest()
        return runs_root() / "data" / "checksums" / f"{digest[:24]}.json"
