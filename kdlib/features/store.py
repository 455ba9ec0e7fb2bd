"""The feature store: a teacher's outputs on one split, computed once, then read as memory-mapped arrays.

runs/features/<key>/ holds one .npy per output and manifest.json, written last. The key is the SHA-256 of all
that the numbers depend on. Rows are images; captions are ragged: ``caption_offsets`` says which texts belong
to an image, ``text_offsets`` which tokens to a text.
"""

import itertools
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from kdlib.data.dataset import BadImageError, Dataset
from kdlib.features.encoders import Encoder
from kdlib.features.npy import Appender, StoreError
from kdlib.files import digest, file_digest, read_json, runs_root, write_json
from kdlib.progress import Progress

CHUNK = 64  # images between two marks; an interrupted build goes on from the last one


class FeatureStore:
    """A finished store, opened read-only. ``store['image_pooled']`` is a memory-mapped (rows, T) array."""

    def __init__(self, path: Path, manifest: dict):
        self.path, self.manifest = path, manifest
        self._arrays: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.manifest["arrays"]:
            raise StoreError(f"{self.path.name}: no array '{name}'; it has {', '.join(self.manifest['arrays'])}.")
        if name not in self._arrays:
            self._arrays[name] = np.load(self.path / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return self._arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.manifest["arrays"]

    def __len__(self) -> int:
        return len(self.manifest["rows"])

    @property
    def ids(self) -> list[str]:
        """Ids of the images, a row each."""
        return self.manifest["ids"]

    @property
    def rows(self) -> np.ndarray:
        """Rows of the data set that this store holds: all, unless unreadable images were skipped."""
        return np.asarray(self.manifest["rows"])

    @property
    def skipped(self) -> list[str]:
        """What was wrong with each image that was left out; empty when none was."""
        return self.manifest["skipped"]

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return sum(entry["bytes"] for entry in self.manifest["arrays"].values())

    @classmethod
    def open(cls, path: Path, verify: bool = False) -> "FeatureStore":
        """Open a finished store.

        A file whose size or modification time is not the one that was last verified is hashed again;
        ``verify`` hashes all. Raises StoreError for an unfinished or altered store.
        """
        manifest = read_json(path / "manifest.json")
        if manifest is None:
            raise StoreError(f"{path}: no finished feature store here; it is built by the run that needs it.")
        seen = read_json(path / "verified.json") or {}
        for name, entry in manifest["arrays"].items():
            file = path / f"{name}.npy"
            state = [file.stat().st_size, file.stat().st_mtime_ns] if file.exists() else None
            if state is not None and seen.get(name) == state and not verify:
                continue
            if state is None or state[0] != entry["bytes"] or file_digest(file) != entry["sha256"]:
                raise StoreError(
                    f"{file}: altered or lost since it was written. Delete the folder {path}; the next run builds "
                    "it again."
                )
            seen[name] = state
        if seen != read_json(path / "verified.json"):
            write_json(path / "verified.json", seen)
        return cls(path, manifest)


def store_key(parts: dict) -> str:
    """The name of a store: 24 hex digits over everything that its numbers depend on."""
    return digest(parts)[:24]


def store_path(key: str) -> Path:
    """The folder of a store: runs/features/<key>."""
    return runs_root() / "features" / key


def ensure(parts: dict, dataset: Dataset, load_encoder: Callable, on_bad_image: str = "error") -> FeatureStore:
    """The store that ``parts`` identifies, built first where it is missing.

    ``load_encoder() -> Encoder`` is called only to build. Processes that need the same store at once build it once.
    """
    path = store_path(store_key(parts))
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not (path / "manifest.json").exists():
            build(path, parts, dataset, load_encoder, on_bad_image)
        return FeatureStore.open(path)


def build(path: Path, parts: dict, dataset: Dataset, load_encoder: Callable, on_bad_image: str = "error") -> None:
    """Write the store, going on where an earlier attempt stopped. The caller holds the lock.

    Images are decoded ahead and arrays are written behind, each in threads of their own, so that the encoder waits
    for neither. Raises StoreError when the disk has no room for what the first chunk foretells.
    """
    scratch = path.with_name(path.name + ".partial")
    scratch.mkdir(parents=True, exist_ok=True)
    mark = read_json(scratch / "progress.json") or {
        "next": 0,
        "skipped": {},  # row -> what is wrong with its image; all others before 'next' are there
        "arrays": {},
        "seconds": 0.0,
    }
    started = time.perf_counter()
    encoder = load_encoder()
    writers: dict[str, Appender] = {}
    decoders = max(1, torch.get_num_threads())
    with ExitStack() as stack:
        stack.callback(lambda: [writer.close() for writer in writers.values()])
        # Left in the reverse order: the threads end before the files are closed.
        behind = stack.enter_context(ThreadPoolExecutor(1))
        ahead = stack.enter_context(ThreadPoolExecutor(decoders))
        for name, state in mark["arrays"].items():
            writers[name] = Appender(scratch / f"{name}.npy", **state)
        bar = stack.enter_context(Progress(f"features of {dataset.name}/{dataset.split}", len(dataset)))
        bar.start_at(mark["next"])
        before, written = mark["seconds"], None
        for chunk, decoded in _read_ahead(ahead, decoders + 1, dataset, encoder, mark["next"]):
            prepared, kept, bad = decoded
            if bad and on_bad_image == "error":
                raise _all_bad_images(dataset, bad, chunk.stop)
            texts = [dataset.captions[row] for row in kept] if dataset.captions is not None else None
            arrays = encoder.encode(prepared, texts) if kept else {}
            if written is not None:
                written.result()  # an error of the writer stops the build here
            elif arrays:
                _check_room(scratch, arrays, len(kept), len(dataset) - chunk.start)
            mark = mark | {
                "next": chunk.stop,
                "skipped": mark["skipped"] | {str(row): message for row, message in bad.items()},
                "seconds": before + time.perf_counter() - started,
            }
            written = behind.submit(_write, scratch, writers, arrays, mark)
            bar.update(chunk.stop)
        if written is not None:
            mark = written.result()
    rows = [row for row in range(len(dataset)) if str(row) not in mark["skipped"]]
    if not rows:
        raise StoreError(f"{dataset.tree.where}: not one readable image in {dataset.name}/{dataset.split}.")
    for name, array in encoder.extras.items():
        writers[name] = Appender(scratch / f"{name}.npy", array.dtype.str, list(array.shape[1:]), 0)
        writers[name].append(array)
        writers[name].flush()
        writers[name].close()
    arrays = {}
    for name, writer in writers.items():
        writer.finish()
        file = scratch / f"{name}.npy"
        arrays[name] = {
            "bytes": file.stat().st_size,
            "sha256": file_digest(file),
            "shape": [writer.count, *writer.shape],
        }
    manifest = {
        "key": parts,
        "facts": encoder.facts,
        "ids": [dataset.ids[row] for row in rows],
        "rows": rows,
        "skipped": list(mark["skipped"].values()),
        "arrays": arrays,
        "build_seconds": mark["seconds"],
    }
    write_json(scratch / "manifest.json", manifest)
    (scratch / "progress.json").unlink(missing_ok=True)
    if path.exists():
        shutil.rmtree(path)
    os.replace(scratch, path)


def _read_ahead(pool: ThreadPoolExecutor, depth: int, dataset: Dataset, encoder: Encoder, first: int) -> Iterator:
    """(chunk, (prepared, kept rows, messages of bad ones)) in order, at most ``depth`` chunks ahead."""
    starts = iter(range(first, len(dataset), CHUNK))
    pending: deque = deque()
    try:
        while True:
            for start in itertools.islice(starts, depth - len(pending)):
                chunk = range(start, min(start + CHUNK, len(dataset)))
                pending.append((chunk, pool.submit(_decode, dataset, chunk, encoder)))
            if not pending:
                return
            chunk, decoded = pending.popleft()
            yield chunk, decoded.result()
    finally:
        for _, decoded in pending:
            decoded.cancel()


def _decode(dataset: Dataset, rows: Iterable[int], encoder: Encoder | None = None):
    """What the encoder reads of the readable images of ``rows``, those rows, and row -> message of the others."""
    prepared, kept, bad = [], [], {}
    for row in rows:
        try:
            image = dataset.images.at_least(row, encoder.least if encoder else 0)
        except BadImageError as error:
            bad[row] = str(error)
            continue
        prepared.append(encoder.prepare(image) if encoder else None)
        kept.append(row)
    return prepared, kept, bad


def _write(scratch: Path, writers: dict, arrays: dict[str, np.ndarray], mark: dict) -> dict:
    """Append a chunk, then the mark that says that it is there; returns the mark."""
    for name, array in arrays.items():
        if name not in writers:
            writers[name] = Appender(scratch / f"{name}.npy", array.dtype.str, list(array.shape[1:]), 0)
        writers[name].append(array)
    mark = mark | {"arrays": {name: writer.flush() for name, writer in writers.items()}}
    write_json(scratch / "progress.json", mark)
    return mark


def _check_room(scratch: Path, arrays: dict[str, np.ndarray], images: int, left: int) -> None:
    """A store that will not fit fails at its first chunk, not at its last."""
    needed = sum(array.nbytes for array in arrays.values()) / images * left
    free = shutil.disk_usage(scratch).free
    if needed > free:
        raise StoreError(
            f"{scratch.parent}: the features of {left} images need about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB "
            "are free. Set KDLIB_RUNS to a larger disk, or token_grid to keep fewer tokens an image."
        )


def _all_bad_images(dataset: Dataset, bad: dict[int, str], start: int) -> BadImageError:
    """Look at the rest as well, so that the reader can mend everything at once."""
    for row in range(start, len(dataset), CHUNK):
        bad = bad | _decode(dataset, range(row, min(row + CHUNK, len(dataset))))[2]
    listed = "\n  ".join(bad.values())
    return BadImageError(
        f"{len(bad)} of {len(dataset)} images of {dataset.name}/{dataset.split} cannot be read:\n  {listed}\n"
        "Replace them, or set on_bad_image to 'skip' to leave them out (each result then says how many)."
    )
