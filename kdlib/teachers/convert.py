"""Converts pickled weights to safetensors, once. The pickle runs no code; the result is written whole or not at all."""

import os
import pickle
import re
import shutil
import zipfile
from functools import lru_cache
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from kdlib.files import file_digest, read_json, rename, sync, write_json
from kdlib.teachers.hub import first_line, need_room
from kdlib.teachers.teacher import TeacherError

RECORD = "converted.json"  # beside the weights: what they were made from, and the SHA-256 of what was made


def convert(pickles: list[Path], small: list[Path], target: Path, made_from: dict) -> Path:
    """Write the tensors of ``pickles`` to the folder ``target`` as safetensors, with copies of the files ``small``.

    One .bin becomes model.safetensors, several become its shards and their index. ``made_from``, with the SHA-256 of
    each .bin, is recorded. Where ``target`` is whole already, nothing is done; what is damaged is made again. Raises
    TeacherError for a pickle that would run code or holds no weights, and for a full disk; nothing is left then.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if whole(target):
            return target
        for leftover in target.parent.glob(f".{target.name}.*"):
            shutil.rmtree(leftover, ignore_errors=True)  # of a conversion that was killed
        size = sum(path.stat().st_size for path in (*pickles, *small))
        need_room(size, f"Converting {pickles[0].name} to safetensors", target.parent)
        scratch = target.with_name(f".{target.name}.{os.getpid()}")
        scratch.mkdir()
        try:
            _write(pickles, small, scratch, made_from)
            shutil.rmtree(target, ignore_errors=True)
            rename(scratch, target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target


def whole(folder: Path) -> bool:
    """Whether ``folder`` is a finished conversion of which no file is missing or altered."""
    record = read_json(folder / RECORD)
    if not isinstance(record, dict) or not isinstance(record.get("files"), dict):
        return False
    return all((folder / name).is_file() and sha256(folder / name) == sha for name, sha in record["files"].items())


def sha256(path: Path) -> str:
    """A file's SHA-256; computed once in a process while size and modification time stay the same."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256(path: Path, size: int, changed: int) -> str:
    return file_digest(path)


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a .bin file by name. Raises TeacherError where the file would load or run anything else."""
    try:
        # Mapped where the format allows: the weights are then not in memory twice.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"would run {asked[1]}" if asked else "holds instructions that no weights need"
        raise TeacherError(
            f"{path}: this pickle {what} when it is read, and was not read. Do not trust where it came from; take a "
            "checkpoint with safetensors, or one from its authors."
        ) from None
    except (RuntimeError, EOFError, KeyError, ValueError, IndexError, TypeError) as error:
        raise TeacherError(
            f"{path}: no file of weights, or a damaged one ({first_line(error)[:200]}). Download it again."
        ) from None
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise TeacherError(
            f"{path}: this file holds more than named tensors, so it is no checkpoint in transformers' layout. Save "
            "model.state_dict() alone, or better model.save_pretrained(folder)."
        )
    return state


def _write(pickles: list[Path], small: list[Path], folder: Path, made_from: dict) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    names = ["model.safetensors"]
    if len(pickles) > 1:
        names = [f"model-{number:05d}-of-{len(pickles):05d}.safetensors" for number in range(1, len(pickles) + 1)]
    index = {}
    try:
        for path, name in zip(pickles, names, strict=True):
            state = read_pickle(path)
            save_file(_alone(state), folder / name, metadata={"format": "pt"})
            sync(folder / name)
            index |= dict.fromkeys(state, name)
        if len(pickles) > 1:
            write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
        for path in small:
            shutil.copyfile(path, folder / path.name)
            sync(folder / path.name)
    except (OSError, SafetensorError) as error:
        raise TeacherError(
            f"{pickles[0].name} could not be converted in {folder.parent}: {first_line(error)}. Make room on this disk "
            "or set KDLIB_RUNS to a folder on another one, and run again; what was cut off has been removed."
        ) from error
    made = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    write_json(folder / RECORD, {"made_from": made_from, "files": made})
    sync(folder)


def _alone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with tied weights copied: safetensors does not write tensors that share memory."""
    seen: set[int] = set()
    alone = {}
    for name, value in state.items():
        place = value.untyped_storage().data_ptr()
        value = value.detach()
        alone[name] = value.clone(memory_format=torch.contiguous_format) if place in seen else value.contiguous()
        seen.add(place)
    return alone
