"""The official archives of the data sets: downloaded with resume, checked by MD5, extracted safely."""

import hashlib
import os
import shutil
import stat
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import httpx
from filelock import FileLock
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from kdlib.data.dataset import DataError
from kdlib.progress import Progress

CHUNK = 1 << 20  # bytes
MB = 10**6  # bytes
ATTEMPTS = 10
WAIT = wait_random_exponential(multiplier=1, max=60)  # seconds
TIMEOUT = 60.0  # seconds without a byte


@dataclass(frozen=True)
class Archive:
    """One file of an official site: its size in bytes and its MD5 in hexadecimal."""

    url: str
    bytes: int
    md5: str

    @property
    def file(self) -> str:
        """The archive's file name, the last part of its address."""
        return self.url.rsplit("/", 1)[1]


COCO = "http://images.cocodataset.org"
ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "tinyimagenet": (
        Archive("http://cs231n.stanford.edu/tiny-imagenet-200.zip", 248100043, "90528d7ca1a48142e341f4ef8d21d0de"),
    ),
    "coco": (
        Archive(f"{COCO}/annotations/annotations_trainval2017.zip", 252907541, "f4bbac642086de4f52a3fdda2de5fa2c"),
        Archive(f"{COCO}/zips/val2017.zip", 815585330, "442b8da7639aecaf257c1dceb8ba8c80"),
        Archive(f"{COCO}/zips/train2017.zip", 19336861798, "cced6f7f71b7629ddf16f17bbcfab6b2"),
    ),
}
# Where below the root the loaders look for what the archives hold at their top (train2017/ and so on).
FOLDERS = {"tinyimagenet": ".", "coco": "coco"}


def get(name: str, folder: str | Path) -> list[Path]:
    """Download the archives of data set ``name`` into ``folder``; the paths of the whole, checked files.

    What is there and has the right MD5 is kept; a download that stopped before goes on from its .part file.
    Raises ValueError for an unknown data set, and DataError when the disk is too small, when the site does
    not deliver, or when a file has the wrong MD5 (it is then set aside as <file>.bad).
    """
    if name not in ARCHIVES:
        raise ValueError(f"There are no archives of '{name}' to download; there are {', '.join(ARCHIVES)}.")
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{name}.download.lock"):
        missing = [archive for archive in ARCHIVES[name] if not _is_there(archive, folder / archive.file)]
        needed = sum(archive.bytes - _size(_part(folder / archive.file)) for archive in missing)
        _check_space(folder, needed, f"Downloading {name}")
        for archive in missing:
            _download(archive, folder / archive.file)
    return [folder / archive.file for archive in ARCHIVES[name]]


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check_space(folder: Path, needed: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{folder}: {what} takes {needed / MB:,.0f} MB and the disk has {free / MB:,.0f} MB free. "
            "Make room, or choose a folder on another disk."
        )


def _is_there(archive: Archive, target: Path) -> bool:
    """Whether ``target`` is the right file; a wrong one is set aside."""
    if not target.exists():
        return False
    if target.stat().st_size == archive.bytes and _md5(target) == archive.md5:
        print(f"{target}: already there, and its MD5 is right.", file=sys.stderr)
        return True
    print(f"{target}: not the official file; kept as {_set_aside(target, target).name}.", file=sys.stderr)
    return False


def _set_aside(path: Path, target: Path) -> Path:
    bad = target.with_name(f"{target.name}.bad")
    os.replace(path, bad)
    return bad


def _download(archive: Archive, target: Path) -> None:
    part = _part(target)
    if _size(part) > archive.bytes:
        part.unlink()
    if _size(part) < archive.bytes:
        try:
            _fetch(archive, part)
        except httpx.HTTPError as error:
            raise DataError(
                f"{archive.url}: {_reason(error)}. {_size(part):,} of {archive.bytes:,} bytes are in {part}; "
                f"the same command goes on from there, or download the file in another way to {target}."
            ) from error
    found = _md5(part)
    if found != archive.md5:
        bad = _set_aside(part, target)
        raise DataError(
            f"{target}: the download from {archive.url} has the MD5 {found}, not {archive.md5}; it is "
            f"set aside as {bad.name} and not used. Run the same command again; it starts this file over."
        )
    os.replace(part, target)


def _fetch(archive: Archive, part: Path) -> None:
    """Append to ``part`` what is missing, over as many connections as it takes."""
    retrying = Retrying(retry=retry_if_exception(_may_pass), wait=WAIT, stop=stop_after_attempt(ATTEMPTS), reraise=True)
    with (
        Progress(f"{archive.file} (MB)", archive.bytes // MB) as bar,
        httpx.Client(follow_redirects=True, timeout=TIMEOUT) as client,
    ):
        for attempt in retrying:
            with attempt:
                _fetch_once(client, archive, part, bar)


def _fetch_once(client: httpx.Client, archive: Archive, part: Path, bar: Progress) -> None:
    done = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
    with client.stream("GET", archive.url, headers=headers) as response:
        if done and response.status_code == 416:  # nothing lies beyond; the MD5 says whether that is all
            return
        response.raise_for_status()
        if response.status_code != 206:
            done = 0  # the server ignores ranges and sends the file from its beginning
        bar.start_at(done // MB)
        with open(part, "ab" if done else "wb") as file:
            for chunk in response.iter_raw():  # as it comes: a larger chunk would be lost with the connection
                file.write(chunk)
                done += len(chunk)
                bar.update(done // MB)
                if done > archive.bytes:
                    return  # not the official file; the MD5 will say so
            file.flush()
            os.fsync(file.fileno())
    if done < archive.bytes:
        raise httpx.RemoteProtocolError(f"the connection ended after {done:,} bytes")


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500 or error.response.status_code in (408, 429)
    return isinstance(error, httpx.TransportError)


def _reason(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"the server answered {error.response.status_code} {error.response.reason_phrase}"
    return f"{error or type(error).__name__}"


def _md5(path: Path) -> str:
    total, digest, done = path.stat().st_size, hashlib.md5(usedforsecurity=False), 0
    with open(path, "rb") as file, Progress(f"{path.name}: checking the MD5 (MB)", total // MB) as bar:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            bar.update(done // MB)
    return digest.hexdigest()


# ---------------------------------------------------------------- extraction

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
                _check_space(folder, size, f"Extracting {archive.name}")
                scratch.mkdir()
                done = 0
                with Progress(f"extracting {archive.name} (MB)", size // MB) as bar:
                    for entry in entries:
                        source.extract(entry, scratch)
                        done += entry.file_size
                        bar.update(done // MB)
            for path in sorted(scratch.iterdir()):
                _move(path, folder / path.name)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise DataError(f"{archive}: not a whole zip archive ({error}). Download it again.") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


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
    if not path.is_file() or path.stat().st_size != entry.file_size:
        return False
    crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc == entry.CRC


def _move(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target``; a folder that is there takes in what it does not have."""
    if not target.exists():
        os.replace(source, target)
    else:
        for path in sorted(source.iterdir()):
            _move(path, target / path.name)
