"""Builds a feature store: threads decode images, the encoder encodes them, another thread writes the arrays.

progress.json, the mark, says how many rows are written. An interrupted build leaves runs/features/<key>.partial, and
the next one continues from its mark. The manifest, written last, makes the store complete.
"""

import errno
import itertools
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from kdlib.data.dataset import BadImageError, Dataset
from kdlib.features.encoders import Encoder
from kdlib.features.npy import Appender, StoreError, mean_row
from kdlib.files import digest, file_digest, read_json, rename, sync, write_json
from kdlib.progress import Progress


def build_store(path: Path, parts: dict, dataset: Dataset, load_encoder: Callable, on_bad_image: str = "error") -> None:
    """Write the store at ``path``, going on where an earlier attempt stopped. The caller holds the lock.

    Raises StoreError when the disk has no room, BadImageError for unreadable images that are not to be skipped.
    """
    scratch = path.with_name(path.name + ".partial")
    mark, writers = _begun(scratch)
    try:
        encoder = load_encoder()
        mark = _fill(scratch, mark, writers, dataset, encoder, on_bad_image)
        _seal(scratch, path, parts, dataset, encoder, mark, writers)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise StoreError(
            f"{scratch}: the disk is full after {mark['next']} of {len(dataset)} images. Make room and start again, "
            "which goes on from there; or delete this folder and set KDLIB_RUNS to a larger disk."
        ) from error
    finally:
        for writer in writers.values():
            writer.close()


def _begun(scratch: Path) -> tuple[dict, dict[str, Appender]]:
    """The mark and the open files of an earlier attempt, cut after the last marked row; without one a new mark.

    Files that do not fit the mark, as after a power cut, are deleted.
    """
    mark = read_json(scratch / "progress.json")
    try:
        whole = all(Appender.bytes(**state) <= _size(scratch / f"{name}.npy") for name, state in mark["arrays"].items())
        whole = whole and isinstance(mark["next"] + mark["seconds"], float) and isinstance(mark["skipped"], dict)
    except (TypeError, KeyError, AttributeError):  # no mark, or not one of ours
        whole = False
    if not whole:
        shutil.rmtree(scratch, ignore_errors=True)
        # skipped: row -> what is wrong with its image; all others before 'next' are there
        mark = {"next": 0, "skipped": {}, "arrays": {}, "seconds": 0.0}
    scratch.mkdir(parents=True, exist_ok=True)
    return mark, {name: Appender(scratch / f"{name}.npy", **state) for name, state in mark["arrays"].items()}


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else -1


def _fill(scratch: Path, mark: dict, writers: dict, dataset: Dataset, encoder: Encoder, on_bad_image: str) -> dict:
    """Encode and write all chunks after ``mark``; returns the last mark. Writing overlaps with encoding."""
    started, before, written = time.perf_counter(), mark["seconds"], None
    with ExitStack() as stack:
        behind = stack.enter_context(ThreadPoolExecutor(1))
        bar = stack.enter_context(Progress(f"features of {dataset.name}/{dataset.split}", len(dataset)))
        bar.start_at(mark["next"])
        for chunk, kept, arrays, bad in encoded(dataset, encoder, mark["next"], on_bad_image):
            if written is not None:
                written.result()  # an error of the writer stops the build here
            elif kept:
                _check_room(scratch, arrays, len(kept), len(dataset) - chunk.start)
            mark |= {
                "next": chunk.stop,
                "skipped": mark["skipped"] | {str(row): message for row, message in bad.items()},
                "seconds": before + time.perf_counter() - started,
            }
            written = behind.submit(_write, scratch, writers, arrays, dict(mark))
            bar.update(chunk.stop)
        return written.result() if written is not None else mark


def encoded(dataset: Dataset, encoder: Encoder, first: int, on_bad_image: str) -> Iterator:
    """(chunk, kept rows, arrays, row -> message of bad images) from row ``first`` on, decoded in threads ahead.

    This decides what a store holds: which rows, with which captions, in which batches.
    """
    starts = iter(range(first, len(dataset), encoder.chunk))
    threads, pending = max(1, torch.get_num_threads()), deque()
    with ThreadPoolExecutor(threads) as ahead:
        try:
            while True:
                for start in itertools.islice(starts, threads + 1 - len(pending)):
                    chunk = range(start, min(start + encoder.chunk, len(dataset)))
                    pending.append((chunk, ahead.submit(_decode, dataset, chunk, encoder)))
                if not pending:
                    return
                chunk, decoding = pending.popleft()
                prepared, kept, bad = decoding.result()
                if bad and on_bad_image == "error":
                    raise _all_bad_images(dataset, bad, chunk.stop)
                texts = [dataset.captions[row] for row in kept] if dataset.captions is not None else None
                yield chunk, kept, encoder.encode(prepared, texts) if kept else {}, bad
        finally:
            for _, decoding in pending:
                decoding.cancel()


def _decode(dataset: Dataset, rows: Iterable[int], encoder: Encoder | None = None):
    """``encoder.prepare`` of each readable image of ``rows``, their rows, and {row: message} of the bad images."""
    prepared, kept, bad = [], [], {}
    for row in rows:
        try:
            image = dataset.images.at_least(row, encoder.least if encoder else 0)
        except BadImageError as error:
            bad[row] = str(error)
            continue
        prepared.append(encoder.prepare(image, dataset.ids[row]) if encoder else None)
        kept.append(row)
    return prepared, kept, bad


def _all_bad_images(dataset: Dataset, bad: dict[int, str], start: int) -> BadImageError:
    """The error that names every bad image: those of ``bad``, and those from row ``start`` on."""
    bad = bad | _decode(dataset, range(start, len(dataset)))[2]
    listed = "\n  ".join(bad.values())
    return BadImageError(
        f"{len(bad)} of {len(dataset)} images of {dataset.name}/{dataset.split} cannot be read:\n  {listed}\n"
        "Replace them, or set on_bad_image to 'skip' to leave them out (each result then says how many)."
    )


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
    """Raise StoreError where the disk has no room for ``left`` images of the size of the first chunk's."""
    needed = sum(array.nbytes for array in arrays.values()) / images * left
    free = shutil.disk_usage(scratch).free
    if needed > free:
        raise StoreError(
            f"{scratch.parent}: the features of {left} images need about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB "
            "are free. Set KDLIB_RUNS to a larger disk, or token_grid to keep fewer tokens an image."
        )


def _seal(
    scratch: Path, path: Path, parts: dict, dataset: Dataset, encoder: Encoder, mark: dict, writers: dict
) -> None:
    """Headers, digests and the manifest, each on the disk before the folder gets its name."""
    rows = [row for row in range(len(dataset)) if str(row) not in mark["skipped"]]
    if not rows:
        raise StoreError(f"{dataset.tree.where}: not one readable image in {dataset.name}/{dataset.split}.")
    for name, array in encoder.extras.items():
        writers[name] = Appender(scratch / f"{name}.npy", array.dtype.str, list(array.shape[1:]), 0)
        writers[name].append(array)
    arrays, means = {}, {}
    for name, writer in writers.items():
        writer.finish()
        file = scratch / f"{name}.npy"
        shape = [writer.count, *writer.shape]
        arrays[name] = {"bytes": file.stat().st_size, "sha256": file_digest(file), "shape": shape}
        if name in ("image_pooled", "text_pooled"):
            means[name.replace("pooled", "mean")] = mean_row(np.load(file, mmap_mode="r", allow_pickle=False)).tolist()
    manifest = {
        "key": parts,
        "facts": encoder.facts | means,
        "ids": [dataset.ids[row] for row in rows],
        "rows": rows,
        "skipped": list(mark["skipped"].values()),
        "arrays": arrays,
        "build_seconds": mark["seconds"],
    }
    write_json(scratch / "manifest.json", manifest | {"digest": digest(manifest)})
    (scratch / "progress.json").unlink(missing_ok=True)
    sync(scratch)
    if path.exists():
        shutil.rmtree(path)
    rename(scratch, path)
