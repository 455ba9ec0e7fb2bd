"""The official archives: downloaded with resume, checked by their SHA-256, extracted, then removed."""

import json
import os
import time
import zipfile
import zlib
from pathlib import Path

import httpx

from kdlib import data
from kdlib.data import coco, tinyimagenet
from kdlib.data.files import DataError
from kdlib.utils import Progress, check_proxies, file_digest, find, locked

ATTEMPTS, WAIT = 5, 1.0  # connections in a row that bring nothing; seconds before the next, doubled each time
MB = 10**6  # bytes, the unit of the progress line
SITES = {"tinyimagenet": "http://cs231n.stanford.edu", "coco": "http://images.cocodataset.org"}
FOLDERS = {"tinyimagenet": tinyimagenet.FOLDER, "coco": coco.FOLDER}
# Of each archive the SHA-256 (the sites have no certificate), bytes, place on the site.
ARCHIVES = json.loads(Path(__file__).with_name("archives.json").read_text(encoding="utf-8"))


def get(name: str, root: str | Path, source: str | Path | None = None, keep: bool = False) -> Path:
    """Download data set ``name`` below ``root``, if it is not there, and extract it; or extract the zip ``source``."""
    files, root = find(ARCHIVES, name, "archive of"), Path(root).expanduser()
    complete = root / FOLDERS[name] / ".complete"  # written last: what a killed extraction left is not taken for whole
    with locked(root / f".{name}.lock"):
        if source:
            extract(Path(source).expanduser(), root / FOLDERS[name])
        elif not complete.exists():
            check_proxies()
            archives = [_downloaded(root, f"{SITES[name]}/{place}", *facts) for *facts, place in files]
            for archive in archives:
                extract(archive, root / FOLDERS[name])
            complete.touch()
            for archive in [] if keep else archives:
                archive.unlink()
    return root


def check(name: str, root: str | Path) -> str:
    """What each split holds; an error lists the images that a run would refuse."""
    splits, bad = {split: data.load(name, root, split) for split in data.SPLITS}, []
    for dataset in splits.values():
        for row in range(len(dataset)):
            try:
                dataset.images[row]
            except data.BadImageError as error:
                bad.append(f"\n  {error}")
    if bad:
        raise DataError(f"{root}: {len(bad)} images of {name} cannot be read:{''.join(bad)}")
    return data.summary(data.separate(splits))


def _downloaded(root: Path, url: str, sha256: str, size: int) -> Path:
    """The whole archive. Each connection continues with what is there; a wrong one is set aside."""
    archive, failures = root / os.path.basename(url), 0
    part = Path(f"{archive}.part")
    while not archive.exists():
        try:
            part.touch()
            if (done := part.stat().st_size) == size:
                os.replace(part, archive)
                break
            headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if 0 < done < size else {})
            with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=60) as answer:
                first = done if answer.status_code == 206 else 0  # else the server sends the file from its beginning
                if answer.is_error or first + int(answer.headers.get("Content-Length", 0)) != size:
                    raise httpx.HTTPError(f"status {answer.status_code}, or not {size:,} bytes, as a login page")
                mode, bar = "ab" if first else "wb", Progress(f"{archive.name} (MB)", size // MB, first // MB)
                with bar, open(part, mode) as file:
                    for chunk in answer.iter_raw():
                        file.write(chunk)
                        bar.update(file.tell() // MB)
        except httpx.HTTPError as error:
            failures = 0 if (here := part.stat().st_size) > done else failures + 1
            if failures == ATTEMPTS:
                remedy = "The same command continues there; or give an archive at hand with --from FILE"
                raise DataError(f"{url}: {error!r}. {here:,} of {size:,} bytes are in {part}. {remedy}.") from error
            time.sleep(WAIT * 2**failures)
        except OSError as error:
            raise DataError(f"{part} cannot be written: {error.strerror}. Make room, and start again.") from error
    if file_digest(archive) != sha256:
        os.replace(archive, f"{archive}.bad")
        raise DataError(f"{archive} has not the SHA-256 {sha256}, and is now .bad. Start again.")
    return archive


def extract(archive: Path, folder: Path) -> None:
    """Unpack a zip to ``folder``, or to where it lies if all in the zip is below that name; nothing leads out."""
    try:
        with zipfile.ZipFile(archive) as box:
            inside = all(name.split("/")[0] == folder.name for name in box.namelist())
            box.extractall(folder.parent if inside else folder)
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise DataError(f"{archive} cannot be extracted ({error}). Download it again, or make room.") from error
