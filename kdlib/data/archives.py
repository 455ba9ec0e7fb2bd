"""The official archives of the data sets: where they lie, how large they are, and by which digests they are known."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from kdlib.data.dataset import DataError
from kdlib.progress import Progress

CHUNK = 1 << 20  # bytes
MB = 10**6  # bytes
ELSEWHERE = "KDLIB_ARCHIVES"  # a file that names other addresses and digests


@dataclass(frozen=True)
class Archive:
    """One zip file: addresses in the order they are tried, bytes, digests in hexadecimal, empty where unknown."""

    urls: tuple[str, ...]
    bytes: int
    md5: str
    sha256: str = ""

    @property
    def file(self) -> str:
        """The archive's file name, the last part of its address."""
        return self.urls[0].rsplit("/", 1)[1]

    def wrong(self, path: Path) -> str:
        """How the file ``path`` differs from this archive, as 'the MD5 ..., not ...'; '' where it is the archive."""
        if path.stat().st_size != self.bytes:
            return f"{path.stat().st_size:,} bytes, not {self.bytes:,}"
        known = {"MD5": self.md5, "SHA-256": self.sha256}
        digests = {"MD5": hashlib.md5(usedforsecurity=False), "SHA-256": hashlib.sha256()}
        digests = {name: digest for name, digest in digests.items() if known[name]}
        done = 0
        with (
            open(path, "rb") as file,
            Progress(f"{path.name}: checking {' and '.join(digests)} (MB)", self.bytes // MB) as bar,
        ):
            while chunk := file.read(CHUNK):
                for digest in digests.values():
                    digest.update(chunk)
                done += len(chunk)
                bar.update(done // MB)
        found = {name: digest.hexdigest() for name, digest in digests.items()}
        return "; ".join(f"the {name} {found[name]}, not {known[name]}" for name in found if found[name] != known[name])


def _coco(place: str, **facts) -> Archive:
    """An archive of COCO, whose host has no HTTPS certificate; the second address is the same S3 bucket over HTTPS."""
    hosts = ("http://images.cocodataset.org", "https://s3.amazonaws.com/images.cocodataset.org")
    return Archive(tuple(f"{host}/{place}" for host in hosts), **facts)


ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "tinyimagenet": (
        Archive(
            ("http://cs231n.stanford.edu/tiny-imagenet-200.zip", "https://cs231n.stanford.edu/tiny-imagenet-200.zip"),
            bytes=248100043,
            md5="90528d7ca1a48142e341f4ef8d21d0de",
            sha256="6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
        ),
    ),
    "coco": (
        _coco(
            "annotations/annotations_trainval2017.zip",
            bytes=252907541,
            md5="f4bbac642086de4f52a3fdda2de5fa2c",
            sha256="113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
        ),
        _coco(
            "zips/val2017.zip",
            bytes=815585330,
            md5="442b8da7639aecaf257c1dceb8ba8c80",
            sha256="4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        ),
        _coco(
            "zips/train2017.zip",
            bytes=19336861798,
            md5="cced6f7f71b7629ddf16f17bbcfab6b2",
            sha256="69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
        ),
    ),
}


def archives(name: str) -> tuple[Archive, ...]:
    """The archives of data set ``name``.

    $KDLIB_ARCHIVES names a JSON file, {name: [{"urls", "bytes", "md5", "sha256"}]}, whose entries stand in
    the place of the official ones: a mirror in the house, or a cut of the data. They are checked in the same way.
    Raises ValueError for an unknown data set, DataError for a file that is not like this.
    """
    if name not in ARCHIVES:
        raise ValueError(f"There are no archives of '{name}' to download; there are {', '.join(ARCHIVES)}.")
    if not (elsewhere := os.environ.get(ELSEWHERE)):
        return ARCHIVES[name]
    try:
        given = json.loads(Path(elsewhere).read_text())
        if (entries := given.get(name)) is None:
            return ARCHIVES[name]
        return tuple(Archive(**entry | {"urls": tuple(entry["urls"])}) for entry in entries)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{elsewhere} (${ELSEWHERE}) names no archives: {error}. It holds {{name: [{{urls, bytes, md5}}]}} as "
            f"JSON; mend it, or unset {ELSEWHERE}."
        ) from error
