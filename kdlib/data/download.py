"""The official archives: downloaded with resume, checked by their digests, extracted safely, then removed."""

import hashlib
import os
import shutil
import stat
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import httpx

from kdlib import data
from kdlib.data import coco, tinyimagenet
from kdlib.data.files import DataError
from kdlib.utils import Progress, locked

ATTEMPTS, WAIT, LONGEST_WAIT = 6, 1.0, 60.0  # connections in a row that bring nothing; seconds between them
MB = 10**6  # bytes
FOLDERS = {"tinyimagenet": tinyimagenet.FOLDER, "coco": coco.FOLDER}
HOSTS = {  # tried in this order; COCO's own has no certificate, the second is the same storage
    "tinyimagenet": ("http://cs231n.stanford.edu", "https://cs231n.stanford.edu"),
    "coco": ("http://images.cocodataset.org", "https://s3.amazonaws.com/images.cocodataset.org"),
}
ARCHIVES = {  # path on the host, bytes, MD5 as published, SHA-256
    "tinyimagenet": [("tiny-imagenet-200.zip", 248100043, "90528d7ca1a48142e341f4ef8d21d0de",
                      "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821")],
    "coco": [("annotations/annotations_trainval2017.zip", 252907541, "f4bbac642086de4f52a3fdda2de5fa2c",
              "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268"),
             ("zips/val2017.zip", 815585330, "442b8da7639aecaf257c1dceb8ba8c80",
              "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05"),
             ("zips/train2017.zip", 19336861798, "cced6f7f71b7629ddf16f17bbcfab6b2",
              "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929")],
}  # fmt: skip


def get(name: str, root: str | Path, source: str | Path | None = None, keep: bool = False) -> Path:
    """Download data set ``name`` below ``root`` and extract it; or extract ``source``, an archive that is at hand.

    What was got before stays as it is. ``keep``: the downloaded archives stay too.
    """
    if name not in ARCHIVES:
        raise ValueError(f"There are no archives of '{name}'; there are {', '.join(ARCHIVES)}.")
    root = Path(root).expanduser()
    root.mkdir(parents=True, exist_ok=True)
    complete = root / FOLDERS[name] / ".complete"  # written last: what a killed extraction left is not taken for whole
    with locked(root / f".{name}.lock"):
        if source:
            extract(Path(source).expanduser(), root, FOLDERS[name])
        elif not complete.exists():
            for archive in (archives := _downloaded(name, root)):
                extract(archive, root, FOLDERS[name])
            complete.touch()
            for archive in [] if keep else archives:
                archive.unlink()
    return root


def check(name: str, root: str | Path) -> str:
    """What each split holds. All that a run would refuse is one error: splits, images, and images in two splits."""
    wrong, loaded = [], {}

    def note(call: Callable, *given):
        try:
            return call(*given)
        except DataError as error:
            wrong.append(str(error))

    for split in data.SPLITS:
        if dataset := note(data.load, name, root, split):
            loaded[split] = dataset
            for row in range(len(dataset)):
                note(dataset.images.at_least, row, 0)
    note(data.separate, loaded)
    if wrong:
        raise DataError(f"{root}: {len(wrong)} problems in {name}:\n  " + "\n  ".join(wrong))
    return "\n".join(f"{split}: {len(each)} images, {len(each.left_out)} left out" for split, each in loaded.items())


def _downloaded(name: str, root: Path) -> list[Path]:
    """The whole archives of a data set. One with a wrong digest is set aside."""
    need, free = sum(2 * size for _, size, *_ in ARCHIVES[name]) / MB, shutil.disk_usage(root).free / MB
    if need > free + sum(path.stat().st_size for path in root.glob("*.zip*")) / MB:
        raise DataError(f"{root}: {name} takes {need:,.0f} MB, and {free:,.0f} MB are free. Make room first.")
    try:
        client = httpx.Client(follow_redirects=True, timeout=httpx.Timeout(60.0, connect=15.0))
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        why = f"The proxy that http_proxy, https_proxy or all_proxy names cannot be used: {error}"
        raise DataError(f"{why}. Name one with http://, or give an archive at hand with --from FILE.") from error
    archives = []
    for place, size, *digests in ARCHIVES[name]:
        archives.append(archive := root / os.path.basename(place))
        if not archive.exists():
            _fetch(client, [f"{host}/{place}" for host in HOSTS[name]], Path(f"{archive}.part"), size)
            os.replace(f"{archive}.part", archive)
        for kind, known in zip(("md5", "sha256"), digests, strict=True):
            with open(archive, "rb") as file:
                digest = hashlib.file_digest(file, kind).hexdigest()
            if digest != known:
                os.replace(archive, f"{archive}.bad")
                raise DataError(f"{archive} has the {kind} {digest}, not {known}, and is now .bad. Start again.")
    return archives


def _fetch(client: httpx.Client, urls: list[str], part: Path, size: int) -> None:
    """Fill ``part`` from the first address that delivers; each continues with what is there."""
    part.touch()
    reasons = []
    for url in urls:
        failures, may_pass = 0, True
        while may_pass and failures < ATTEMPTS:
            before = part.stat().st_size
            time.sleep(min(WAIT * 2**failures, LONGEST_WAIT) if failures else 0)
            try:
                return _receive(client, url, part, size)
            except httpx.HTTPStatusError as error:
                status = error.response.status_code
                reason, may_pass = f"the server answered {status}", status >= 500 or status in (408, 429)
            except httpx.HTTPError as error:
                reason, may_pass = str(error) or type(error).__name__, isinstance(error, httpx.TransportError)
            except OSError as error:
                raise DataError(f"{part} cannot be written: {error.strerror}. Make room, and start again.") from error
            failures = 1 if part.stat().st_size > before else failures + 1
        reasons.append(f"{url}: {reason}")
    raise DataError(
        f"{'; '.join(reasons)}. {part.stat().st_size:,} of {size:,} bytes are in {part}: the same command continues "
        "there. Or download in another way, and give the archive with --from FILE."
    )


def _receive(client: httpx.Client, url: str, part: Path, size: int) -> None:
    """Append to ``part`` what is missing, over one connection."""
    if (done := part.stat().st_size) == size:
        return
    ask = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if 0 < done < size else {})
    with client.stream("GET", url, headers=ask) as answer:
        answer.raise_for_status()
        done = done if answer.status_code == 206 else 0  # else the server sends the file from its beginning
        if (offered := done + int(answer.headers.get("Content-Length", size - done))) != size:
            raise httpx.HTTPError(f"it offers {offered:,} bytes, not {size:,}")  # as the login page of a network
        with open(part, "ab" if done else "wb") as file, Progress(f"{part.stem} (MB)", size // MB, done // MB) as bar:
            for chunk in answer.iter_raw():
                file.write(chunk)
                bar.update(file.tell() // MB)


def extract(archive: Path, root: Path, folder: str) -> None:
    """Unpack a zip or tar archive to ``root``/``folder``; one with links, devices or paths that lead out is refused."""
    try:
        packed = zipfile.is_zipfile(archive)
        with zipfile.ZipFile(archive) if packed else tarfile.open(archive) as box:
            members = [(one, one.filename if packed else one.name) for one in (box.infolist() if packed else box)]
            for one, name in members:
                plain = not stat.S_ISLNK(one.external_attr >> 16) if packed else one.isfile() or one.isdir()
                if not plain or os.path.isabs(name) or ".." in Path(name.replace("\\", "/")).parts:
                    raise DataError(f"{archive}: {name} is a link, a device, or leads out. Nothing was extracted.")
            target = root if all(Path(name).parts[:1] in ((folder,), ()) for _, name in members) else root / folder
            with Progress(f"extracting {archive.name}", len(members)) as bar:
                for number, (one, _) in enumerate(members):
                    box.extract(one, target, **({} if packed else {"filter": "data"}))
                    bar.update(number)
    except (OSError, zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError) as error:
        raise DataError(f"{archive} cannot be extracted ({error}). Download it again, or make room.") from error
