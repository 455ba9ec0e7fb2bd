"""The files of a data set: found whatever the folders look like, chosen by hash, identified by their content."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from kdlib.utils import file_digest, read_json, runs_root, write_atomic

UNREAD = ("BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF")  # known to Pillow, which cannot decode them by itself
KINDS = Image.registered_extensions().items()
SUFFIXES = tuple(suffix for suffix, kind in KINDS if kind in Image.OPEN and kind not in UNREAD)
_known = {"": ""}  # 'path|bytes|time of the last change in ns' -> SHA-256 of the content


class DataError(Exception):
    """Something is wrong with the data on disk; the message names the file and the remedy."""


def scan(folder: Path, above: tuple = ()) -> list[str]:
    """All files below a folder as sorted relative paths, without hidden ones; linked folders are followed."""
    above, found = (*above, os.path.realpath(folder)), []
    for entry in os.scandir(folder) if os.path.isdir(folder) else ():
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            found.append(entry.name)
        elif os.path.realpath(entry.path) not in above:  # else a link to a folder that it lies in
            found += [f"{entry.name}/{name}" for name in scan(entry.path, above)]
    return sorted(found)


def in_classes(top: Path, part: str, classes: Sequence[str] | None = None) -> tuple[dict[str, list[str]], list]:
    """{class: its images below the folder ``part``, as paths below ``top``}, and (path, reason) of all else there.

    An image is of the class that a folder above it is named after; None takes every folder in ``part`` for a class.
    """
    found, rest = {name: [] for name in classes or ()}, []
    for name in scan(top / part):
        owner = next((folder for folder in name.split("/")[:-1] if classes is None or folder in found), None)
        is_image = name.lower().endswith(SUFFIXES)
        if owner is not None and is_image:
            found.setdefault(owner, []).append(os.path.join(part, name))
        elif not name.endswith("_boxes.txt"):  # Tiny ImageNet's own
            reason = "is in no folder of a class" if is_image else "has no suffix of an image format"
            rest.append((os.path.join(part, name), reason))
    return found, rest


def place(root: str | Path, folder: str, mark: str) -> Path:
    """The folder that holds the file ``mark``: ``root``, ``folder`` in it, one or two levels down, or one up."""
    root = Path(root).expanduser()
    for pattern in (mark, f"{folder}/{mark}", f"*/{mark}", f"*/*/{mark}", f"../{mark}"):
        found = sorted(root.glob(pattern))
        if len(found) > 1:
            raise DataError(f"{root} holds several data sets: {', '.join(map(str, found[:3]))}. Give one of them.")
        if found:
            return found[0].parents[mark.count("/")]
    held = ", ".join(sorted(path.name for path in root.glob("*"))[:8]) or "nothing"
    raise DataError(f"{root}: {mark} is missing, and there is {held}. Get {folder} with 'kdlib data get'.")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[dict | str]:
    """The content of a JSON or text file. What is wrong with it, or is missed while it is read, names the file."""
    try:
        content = path.read_text(encoding="utf-8-sig")
        yield json.loads(content) if path.suffix == ".json" else content
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise DataError(f"{path} is damaged, or another file than its name says ({why}).") from error


def listed(pairs: Sequence[tuple[str, str]]) -> str:
    """The first few of many (name, reason)."""
    return "; ".join(f"{name} {reason}" for name, reason in pairs[:5]) + (" ..." if len(pairs) > 5 else "")


def left_out(where: object, wrong: list[tuple[str, str]], on_missing: str) -> list[tuple[str, str]]:
    """What cannot be used: counted with on_missing 'skip', and an error that lists it with 'error'."""
    if wrong and on_missing == "error":
        remedy = "Correct them, or set on_missing to 'skip', which leaves them out and counts them"
        raise DataError(f"{where}: {len(wrong)} entries cannot be used: {listed(wrong)}. {remedy}.")
    return wrong


def by_hash(names: Iterable[str], key: Callable = str) -> list[str]:
    """The names by ascending SHA-1 of ``key(name)``: the first ones are a choice that no order or seed can move."""
    return sorted(names, key=lambda name: hashlib.sha1(key(name).encode()).digest())


def content_hashes(paths: Sequence[str]) -> list[str]:
    """SHA-256 of each file, computed once; '' of what cannot be read."""
    memory, keys = runs_root() / "cache" / "content.json", [_key(path) for path in paths]
    if not _known.keys() >= set(keys):
        _known.update(read_json(memory) or {})
    new = {key: path for key, path in zip(keys, paths, strict=True) if key not in _known}
    if new:
        with ThreadPoolExecutor() as pool:
            _known.update(zip(new, pool.map(file_digest, new.values()), strict=True))
        with contextlib.suppress(OSError):  # what is not kept, or lost to another writer, is computed again
            write_atomic(memory, json.dumps((read_json(memory) or {}) | _known))
    return [_known[key] for key in keys]


def _key(path: str) -> str:
    found = Path(path).stat() if os.access(path, os.R_OK) else None
    return f"{os.path.abspath(path)}|{found.st_size}|{found.st_mtime_ns}" if found else ""
