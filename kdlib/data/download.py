"""Downloads of the official archives: resumed, from another host where the first is dead, checked by their digests."""

import errno
import os
import shutil
import sys
from pathlib import Path

import httpx
from filelock import FileLock
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from kdlib.data.archives import ARCHIVES, ELSEWHERE, MB, Archive, archives
from kdlib.data.dataset import DataError
from kdlib.progress import Progress

ATTEMPTS = 10  # at the last address of an archive
FEW = 3  # at one that has another behind it
WAIT = wait_random_exponential(multiplier=1, max=60)  # seconds
TIMEOUT = httpx.Timeout(60.0, connect=15.0)  # seconds without a byte


class OtherFileError(httpx.HTTPError):
    """The host answers with something that is not the archive, as the login page of a network."""


def get(name: str, folder: str | Path) -> list[Path]:
    """Download the archives of data set ``name`` into ``folder``; the paths of the whole, checked files.

    What is there and has the right digests is kept; a download that stopped before goes on from its .part file. What it
    takes of the disk is said first.
    Raises ValueError for an unknown data set, and DataError when the disk is too small, when no site delivers, or when
    a file has the wrong digest (it is then set aside as <file>.bad).
    """
    wanted = archives(name)
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    if wanted is not ARCHIVES[name]:
        print(f"{name}: addresses and digests are those of {os.environ[ELSEWHERE]} (${ELSEWHERE}).", file=sys.stderr)
    with FileLock(folder / f".{name}.download.lock"):
        missing = [archive for archive in wanted if not _is_there(archive, folder / archive.file)]
        needed = sum(archive.bytes - _size(_part(folder / archive.file)) for archive in missing)
        free = shutil.disk_usage(folder).free
        if missing:
            space = f"{free / MB:,.0f} MB are free in {folder}"
            print(f"{name}: {needed / MB:,.0f} MB to download; {space}.", file=sys.stderr)
        if needed > free:
            raise DataError(
                f"{folder}: Downloading {name} takes {needed / MB:,.0f} MB and the disk has {free / MB:,.0f} MB free. "
                "Make room, or choose a folder on another disk."
            )
        for archive in missing:
            _download(archive, folder / archive.file)
    return [folder / archive.file for archive in wanted]


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_there(archive: Archive, target: Path) -> bool:
    """Whether ``target`` is the right file; a wrong one is set aside."""
    if not target.exists():
        return False
    if not (wrong := archive.wrong(target)):
        print(f"{target}: already there, and its digests are right.", file=sys.stderr)
        return True
    bad = _set_aside(target, target).name
    print(f"{target}: not the official file (it has {wrong}); kept as {bad}.", file=sys.stderr)
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
        _fetch_from_any(archive, part, target)
    if wrong := archive.wrong(part):
        bad = _set_aside(part, target)
        raise DataError(
            f"{target}: the download from {archive.urls[0]} has {wrong}; it is "
            f"set aside as {bad.name} and not used. Run the same command again; it starts this file over."
        )
    os.replace(part, target)


def _fetch_from_any(archive: Archive, part: Path, target: Path) -> None:
    """Fill ``part`` from the first address that delivers; what one host gave is gone on with at the next."""
    reasons = []
    for url, more in zip(archive.urls, (*archive.urls[1:], ""), strict=True):
        try:
            return _fetch(url, archive, part, FEW if more else ATTEMPTS)
        except httpx.HTTPError as error:
            reasons.append(f"{url}: {_reason(error)}")
            if more:
                print(f"{reasons[-1]}; trying {more}.", file=sys.stderr)
        except OSError as error:
            why = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
            raise DataError(
                f"{part}: cannot be written ({why}). What is there stays; make room, and the same command goes on."
            ) from error
    raise DataError(
        f"{'; '.join(reasons)}. {_size(part):,} of {archive.bytes:,} bytes are in {part}; "
        f"the same command goes on from there, or download the file in another way to {target}."
    )


def _fetch(url: str, archive: Archive, part: Path, attempts: int) -> None:
    """Append to ``part`` what is missing, over as many connections as it takes."""
    retrying = Retrying(retry=retry_if_exception(_may_pass), wait=WAIT, stop=stop_after_attempt(attempts), reraise=True)
    with (
        Progress(f"{archive.file} (MB)", archive.bytes // MB) as bar,
        httpx.Client(follow_redirects=True, timeout=TIMEOUT) as client,
    ):
        for attempt in retrying:
            with attempt:
                _fetch_once(client, url, archive, part, bar)


def _fetch_once(client: httpx.Client, url: str, archive: Archive, part: Path, bar: Progress) -> None:
    done = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
    with client.stream("GET", url, headers=headers) as response:
        if done and response.status_code == 416:  # nothing lies beyond; the digests say whether that is all
            return
        response.raise_for_status()
        if response.status_code != 206:
            done = 0  # the server ignores ranges and sends the file from its beginning
        _check_offer(response, archive, done)  # before anything that is there is overwritten
        bar.start_at(done // MB)
        with open(part, "ab" if done else "wb") as file:
            for chunk in response.iter_raw():  # as it comes: a larger chunk would be lost with the connection
                file.write(chunk)
                done += len(chunk)
                bar.update(done // MB)
                if done > archive.bytes:
                    return  # not the official file; its size will say so
            file.flush()
            os.fsync(file.fileno())
    if done < archive.bytes:
        raise httpx.RemoteProtocolError(f"the connection ended after {done:,} bytes")


def _check_offer(response: httpx.Response, archive: Archive, done: int) -> None:
    """Raise OtherFileError where the headers say that what comes is not the rest of the archive."""
    offered = response.headers.get("Content-Length", "")
    if offered.isdigit() and int(offered) + done != archive.bytes:
        raise OtherFileError(f"the server offers a file of {int(offered) + done:,} bytes, not {archive.bytes:,}")
    span = response.headers.get("Content-Range", f"bytes {done}-")
    if done and not span.startswith(f"bytes {done}-"):
        raise OtherFileError(f"the server sends '{span}', and the bytes from {done:,} on were asked for")


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500 or error.response.status_code in (408, 429)
    return isinstance(error, httpx.TransportError)


def _reason(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"the server answered {error.response.status_code} {error.response.reason_phrase}"
    return f"{error or type(error).__name__}"
