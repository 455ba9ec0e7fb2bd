"""The feature store: a teacher's outputs on one split, computed once, then read as memory-mapped arrays.

runs/features/<key>/ holds one .npy per output and manifest.json, written last. The key is the SHA-256 of all
that the numbers depend on. Rows are images; captions are ragged: ``caption_offsets`` says which texts belong
to an image, ``text_offsets`` which tokens to a text.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from filelock import FileLock

from kdlib import code
from kdlib.data.dataset import BadImageError, Dataset
from kdlib.progress import Progress
from kdlib.runs import digest, file_digest, read_json, runs_root, write_json

CHUNK = 64  # images between two marks; an interrupted build goes on from the last one
HEADER = 128  # bytes reserved for the .npy header, filled in when the number of rows is known


class StoreError(Exception):
    """A store that is unfinished, altered or unsuited; the message names it and the remedy."""


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

    ``load_encoder() -> (encode, facts, extras)`` is called only to build; ``encode(images, texts)`` maps up to
    CHUNK images and their captions to arrays by name, ``facts`` go into the manifest, ``extras`` are arrays that
    belong to the whole split. Processes that need the same store at once build it once.
    """
    path = store_path(store_key(parts))
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not (path / "manifest.json").exists():
            build(path, parts, dataset, load_encoder, on_bad_image)
        return FeatureStore.open(path)


def build(path: Path, parts: dict, dataset: Dataset, load_encoder: Callable, on_bad_image: str = "error") -> None:
    """Write the store, going on where an earlier attempt stopped. The caller holds the lock."""
    scratch = path.with_name(path.name + ".partial")
    scratch.mkdir(parents=True, exist_ok=True)
    mark = read_json(scratch / "progress.json") or {
        "next": 0,
        "rows": [],
        "skipped": [],
        "arrays": {},
        "seconds": 0.0,
    }
    started = time.perf_counter()
    encode, facts, extras = load_encoder()
    writers: dict[str, _Appender] = {}
    try:
        for name, state in mark["arrays"].items():
            writers[name] = _Appender(scratch / f"{name}.npy", **state)
        before = mark["seconds"]
        with Progress(f"features of {dataset.name}/{dataset.split}", len(dataset)) as bar:
            bar.start_at(mark["next"])
            while mark["next"] < len(dataset):
                chunk = range(mark["next"], min(mark["next"] + CHUNK, len(dataset)))
                images, kept, bad = _decode(dataset, chunk)
                if bad and on_bad_image == "error":
                    raise _all_bad_images(dataset, bad, chunk.stop)
                mark["skipped"] += bad
                if kept:
                    texts = [dataset.captions[row] for row in kept] if dataset.captions is not None else None
                    for name, array in encode(images, texts).items():
                        if name not in writers:
                            writers[name] = _Appender(
                                scratch / f"{name}.npy", array.dtype.str, list(array.shape[1:]), 0
                            )
                        writers[name].append(array)
                mark |= {
                    "next": chunk.stop,
                    "rows": mark["rows"] + kept,
                    "arrays": {name: writer.flush() for name, writer in writers.items()},
                    "seconds": before + time.perf_counter() - started,
                }
                write_json(scratch / "progress.json", mark)
                bar.update(chunk.stop)
    finally:
        for writer in writers.values():
            writer.close()
    if not mark["rows"]:
        raise StoreError(f"{dataset.tree.where}: not one readable image in {dataset.name}/{dataset.split}.")
    for name, array in extras.items():
        writers[name] = _Appender(scratch / f"{name}.npy", array.dtype.str, list(array.shape[1:]), 0)
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
        "facts": facts,
        "ids": [dataset.ids[row] for row in mark["rows"]],
        "rows": mark["rows"],
        "skipped": mark["skipped"],
        "arrays": arrays,
        "build_seconds": mark["seconds"],
    }
    write_json(scratch / "manifest.json", manifest)
    (scratch / "progress.json").unlink(missing_ok=True)
    if path.exists():
        shutil.rmtree(path)
    os.replace(scratch, path)


def _decode(dataset: Dataset, rows: Iterable[int]):
    images, kept, bad = [], [], []
    for row in rows:
        try:
            images.append(dataset.images[row])
            kept.append(row)
        except BadImageError as error:
            bad.append(str(error))
    return images, kept, bad


def _all_bad_images(dataset: Dataset, bad: list[str], start: int) -> BadImageError:
    """Look at the rest as well, so that the reader can mend everything at once."""
    for row in range(start, len(dataset), CHUNK):
        bad = bad + _decode(dataset, range(row, min(row + CHUNK, len(dataset))))[2]
    listed = "\n  ".join(bad)
    return BadImageError(
        f"{len(bad)} of {len(dataset)} images of {dataset.name}/{dataset.split} cannot be read:\n  {listed}\n"
        "Replace them, or set on_bad_image to 'skip' to leave them out (each result then says how many)."
    )


class _Appender:
    """A .npy file that grows: rows are appended raw, the header is written when their number is known."""

    def __init__(self, path: Path, dtype: str, shape: list[int], count: int):
        self.dtype, self.shape, self.count = np.dtype(dtype), list(shape), count
        self.row_bytes = self.dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        self.file = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115 - closed by close()
        self.file.truncate(HEADER + count * self.row_bytes)  # what came after the last mark is dropped
        self.file.seek(0, os.SEEK_END)

    def append(self, array: np.ndarray) -> None:
        if list(array.shape[1:]) != self.shape or array.dtype != self.dtype:
            raise StoreError(f"Rows of shape {array.shape[1:]} do not fit into a store of {tuple(self.shape)}.")
        self.file.write(np.ascontiguousarray(array).tobytes())
        self.count += len(array)

    def flush(self) -> dict:
        self.file.flush()
        os.fsync(self.file.fileno())
        return {"dtype": self.dtype.str, "shape": self.shape, "count": self.count}

    def close(self) -> None:
        self.file.close()

    def finish(self) -> None:
        """Write the header over the space reserved for it."""
        content = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.count, *self.shape)}
        text = repr(content).encode("latin1")
        body = text + b" " * (HEADER - 11 - len(text)) + b"\n"
        with open(self.file.name, "r+b") as file:
            file.write(b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body)


# ---------------------------------------------------------------- what is stored


def teacher_parts(description: dict, dataset: Dataset, dtype: str, prompts: list[str]) -> dict:
    """What the features of a teacher depend on. ``description``: ``teachers.describe(...)``."""
    return {
        "kind": "teacher",
        "teacher": description,
        "dataset": dataset.fingerprint,
        "dtype": dtype,
        "prompts": prompts,
        "code": code.digest_of("features"),
    }


def teacher_encoder(load: Callable, dtype: str, prompts: list[str]) -> Callable:
    """Make ``load_encoder`` for :func:`ensure` from a function that loads the teacher.

    ``prompts`` are texts for zero-shot scores, encoded beside the split where the teacher reads text.
    """

    def load_encoder():
        teacher = load()
        facts = {
            "family": teacher.family,
            "source": teacher.source,
            "revision": teacher.revision,
            "untrained": teacher.untrained,
            "grid": list(teacher.grid),
            "centre_crop": bool(getattr(teacher.preprocess, "do_center_crop", False)),
            "logit_scale": teacher.logit_scale,
            "text": teacher.has_text,
        }
        extras = encode_captions(teacher, prompts, dtype, "prompt") if prompts and teacher.has_text else {}
        return lambda images, texts: encode_with(teacher, images, texts, dtype), facts, extras

    return load_encoder


def encode_with(teacher, images: list, texts: list[tuple[str, ...]] | None, dtype: str) -> dict[str, np.ndarray]:
    """One chunk through the teacher: image arrays, and for a text teacher its captions without padding."""
    seen = teacher.encode_images(images)
    arrays = {f"image_{name}": seen[name].numpy().astype(dtype) for name in ("pooled", "tokens", "attention")}
    if texts is None or not teacher.has_text:
        return arrays
    arrays |= encode_captions(teacher, [text for captions in texts for text in captions], dtype, "text")
    arrays["caption_count"] = np.array([len(captions) for captions in texts], dtype=np.int32)
    return arrays


def encode_captions(teacher, texts: list[str], dtype: str, kind: str) -> dict[str, np.ndarray]:
    """Texts through the teacher, without padding: ``<kind>_pooled``, ``_tokens``, ``_attention``, ``_length``."""
    read = teacher.encode_texts(texts)
    mask = read["mask"].bool()
    return {
        f"{kind}_pooled": read["pooled"].numpy().astype(dtype),
        f"{kind}_tokens": read["tokens"][mask].numpy().astype(dtype),
        f"{kind}_attention": read["attention"][mask].numpy().astype(dtype),
        f"{kind}_length": mask.sum(dim=1).numpy().astype(np.int32),
    }


def pixel_parts(dataset: Dataset, size: int) -> dict:
    """What the pixels that ResNet and DenseNet read depend on."""
    return {
        "kind": "pixels",
        "dataset": dataset.fingerprint,
        "size": size,
        "code": code.digest_of("features"),
    }


def pixel_encoder(size: int) -> Callable:
    """``load_encoder`` for decoded images: shorter side to ``size``, centre crop, uint8 (3, size, size)."""

    def encode(images: list, texts) -> dict[str, np.ndarray]:
        from PIL import Image, ImageOps

        fitted = [ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC) for image in images]
        return {"pixels": np.stack([np.asarray(image).transpose(2, 0, 1) for image in fitted])}

    return lambda: (encode, {"size": size}, {})
