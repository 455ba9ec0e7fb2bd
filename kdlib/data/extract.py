"""Zip archives, extracted safely: whole or not at all, and never out of the folder."""

import errno
import os
import shutil
import stat
import zipfile
import zlib
from pathlib import Path

from filelock import FileLock

from kdlib.data.archives import MB
from kdlib.data.dataset import DataError
from kdlib.data.tree import crc32
from kdlib.files import sync
from kdlib.progress import Progress

DISTRUST = "Nothing was extracted; do not trust this archive, and download it again with 'kdlib data get'."


def extract(archive: str | Path, folder: str | Path) -> Path:
    """Extract a zip archive into ``folder`` and return the folder.

    Files are written to a scratch folder beside their place and renamed when all are whole, so nothing is
    ever there by half. Files that are there with the same content are kept. Raises DataError, and changes
    nothing, for a path that leaves the folder, a link, a file that is there with other content, more than
    fits on the disk, or a damaged archive.
    """
    archive, folder = Path(archive), Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".{archive.name}.extracting"
    with FileLock(folder / f".{archive.name}.lock"):
        shutil.rmtree(scratch, ignore_errors=True)  # of an extraction that was killed
        try:
            with zipfile.ZipFile(archive) as source:
                entries = _missing(archive, source.infolist(), folder)
                size = sum(entry.file_size for entry in entries)
                check_space(folder, _on_disk(entries, folder), f"Extracting {archive.name}")
                scratch.mkdir()
                done = 0
                with Progress(f"extracting {archive.name} (MB)", size // MB) as bar:
                    for entry in entries:
                        source.extract(entry, scratch)
                        done += entry.file_size
                        bar.update(done // MB)
            for path in scratch.rglob("*"):
                sync(path)  # a power cut must not leave a name with an empty file
            for path in sorted(scratch.iterdir()):
                _move(path, folder / path.name)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise DataError(f"{archive}: not a whole zip archive ({error}). Download it again.") from error
        except OSError as error:
            why = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
            raise DataError(
                f"{folder}: {archive.name} cannot be extracted here ({why}). Nothing was left half-done; make room, or "
                "use the archive as it is: the loaders read it."
            ) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raise DataError where the disk of ``folder`` has fewer than ``needed`` bytes free for ``what``."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{folder}: {what} takes {needed / MB:,.0f} MB and the disk has {free / MB:,.0f} MB free. "
            "Make room, or choose a folder on another disk."
        )


def _on_disk(entries: list[zipfile.ZipInfo], folder: Path) -> int:
    """Bytes on the disk, where each file takes whole blocks: much more than the size of images of 2 KB."""
    block = os.statvfs(folder).f_frsize or 1
    return sum(-(-entry.file_size // block) * block for entry in entries)


def _missing(archive: Path, entries: list[zipfile.ZipInfo], folder: Path) -> list[zipfile.ZipInfo]:
    """The files that are not in ``folder`` yet; DataError when an entry must not be extracted there."""
    missing = []
    for entry in entries:
        parts = entry.filename.replace("\\", "/").split("/")
        if parts[0] == "" or ":" in parts[0] or ".." in parts:
            raise DataError(f"{archive}: '{entry.filename}' would lie outside of {folder}. {DISTRUST}")
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DataError(f"{archive}: '{entry.filename}' is a link or a device, not a file. {DISTRUST}")
        if entry.is_dir():
            continue
        target = folder / entry.filename
        nearest = next(path for path in (target, *target.parents) if os.path.lexists(path))
        if nearest != target and nearest.is_dir():
            missing.append(entry)
        elif not (nearest == target and _is_same(target, entry)):
            raise DataError(
                f"{nearest}: is there already, and differs from '{entry.filename}' in {archive}. Move it "
                "away, or extract into another folder; nothing was overwritten."
            )
    return missing


def _is_same(path: Path, entry: zipfile.ZipInfo) -> bool:
    return path.is_file() and path.stat().st_size == entry.file_size and crc32(path) == entry.CRC


def _move(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target``. Where ``target`` is a folder already, move the content of ``source`` into it."""
    if not target.exists():
        os.replace(source, target)
    else:
        for path in sorted(source.iterdir()):
            _move(path, target / path.name)
