"""The teacher as data: its outputs on one split, computed once into runs/features/<key>/, then memory-mapped."""

import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from kdlib import keys, machine, teachers
from kdlib.config import RunConfig
from kdlib.data.base import BadImageError, Dataset
from kdlib.utils import Progress, digest, locked, read_json, runs_root, write_json

CHUNK = 64  # images that the teacher encodes at a time; the last digits of its outputs depend on it
MARK = 1.0  # seconds of work that a kill can lose; each mark waits for the disk
PROMPT = "a photo of a {}"  # of each category, for zero-shot scores


class FeatureError(Exception):
    """Features that cannot be built, or are not what is asked for; the message says what to do."""


@dataclass(frozen=True)
class Features:
    """A finished feature cache. ``features["image_pooled"]`` is a memory-mapped (images, T) array."""

    path: Path
    arrays: dict[str, np.ndarray]  # 'caption_count': texts of each image, 'text_length': tokens of each text
    ids: list[str]
    rows: np.ndarray  # (images,) their rows in the data set: all, unless unreadable images were skipped
    skipped: list[str]  # what is wrong with each image that was skipped
    facts: dict
    seconds: float  # that building took

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def __len__(self) -> int:
        return len(self.ids)

    def head(self, images: int) -> "Features":
        """The features of the first ``images`` images of the data set, with all prompts."""
        end = int(np.searchsorted(self.rows, images))
        texts = int(self["caption_count"][:end].sum()) if "caption_count" in self else 0
        tokens = int(self["text_length"][:texts].sum()) if "text_length" in self else 0
        ends = {"prompt": None, "text": tokens, "text_pooled": texts, "text_length": texts}  # by name or its first word
        arrays = {name: part[: ends.get(name, ends.get(name.split("_")[0], end))] for name, part in self.arrays.items()}
        skipped = self.skipped[: images - end]
        return replace(self, arrays=arrays, ids=self.ids[:end], rows=self.rows[:end], skipped=skipped)


def means(features: Features) -> dict[str, Tensor]:
    """{side: (T,) float32 mean of the teacher's pooled features}, summed in float64."""
    pooled = {side: features[f"{side}_pooled"] for side in ("image", "text") if f"{side}_pooled" in features}
    return {side: torch.from_numpy(array.mean(axis=0, dtype=np.float64)).float() for side, array in pooled.items()}


def fitted(image: Image.Image, size: int) -> np.ndarray:
    """The centre square of an image, resampled (bicubic) to (3, size, size) uint8."""
    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


def reduced(tokens: Tensor, attention: Tensor, grid: tuple[int, int], side: int) -> dict[str, Tensor]:
    """(B, N, T) tokens and (B, N) attention on ``grid``, average-pooled to ``side`` x ``side``; attention sums to 1."""
    maps = F.adaptive_avg_pool2d(tokens.transpose(1, 2).unflatten(2, grid), side)  # (B, T, side, side)
    looked = F.adaptive_avg_pool2d(attention.unflatten(1, grid)[:, None], side).flatten(1)
    return {"tokens": maps.flatten(2).transpose(1, 2), "attention": looked / looked.sum(dim=1, keepdim=True)}


def ahead(make: Callable, items: Iterable) -> Iterator:
    """``make`` of each item, in order; as many threads as torch has make them before they are asked for."""
    threads, pending = max(1, torch.get_num_threads()), []
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            pending.append(pool.submit(make, item))
            if len(pending) > threads + 1:
                yield pending.pop(0).result()
        while pending:
            yield pending.pop(0).result()


def teacher_features(config: RunConfig, dataset: Dataset, tokens: bool) -> Features:
    """The teacher's features of one split, built where they are missing. Those with tokens serve whoever needs none."""
    tokens = tokens or (_cache(config, dataset, tokens=True)[0] / "manifest.json").exists()
    folder, record = _cache(config, dataset, tokens)
    return _ensure(folder, record, dataset, lambda: teacher_encoder(config, tokens, record["prompts"]))


def pixels(config: RunConfig, dataset: Dataset, size: int) -> Features:
    """The decoded images of one split, (N, 3, size, size) uint8 as array 'pixels', built where they are missing."""
    encoder = lambda image: fitted(image, size), lambda images, captions: {"pixels": np.stack(images)}, {}, {}
    return _ensure(*_cache(config, dataset, size=size), dataset, lambda: encoder)


def features_key(config: RunConfig, dataset: Dataset, tokens: bool = False) -> str:
    """The key of the teacher's features, computed without building them. Keys of trainings take that without tokens."""
    return _cache(config, dataset, tokens)[0].name


def _cache(config: RunConfig, dataset: Dataset, tokens: bool = False, size: int = 0) -> tuple[Path, dict]:
    """The folder and what its content depends on: that of the pixels at ``size``, or of the teacher's features."""
    record = {"dataset": dataset.fingerprint, "on_bad_image": config.on_bad_image, "code": keys.code_digest("features")}
    if size:
        record["size"] = size
    else:
        record |= {"teacher": teachers.describe(config), "tokens": tokens, "token_grid": config.token_grid}
        record |= {"dtype": config.feature_dtype, "prompts": [PROMPT.format(name) for name in dataset.category_names]}
    return runs_root() / "features" / digest(record)[:24], record


def teacher_encoder(config: RunConfig, tokens: bool, prompts=()) -> tuple[Callable, Callable, dict, dict]:
    """prepare(image), for threads; encode(what that made of CHUNK images, their captions); facts; arrays of prompts."""
    teacher, side, dtype = teachers.load(config), config.token_grid, np.dtype(config.feature_dtype)
    if side > min(teacher.grid):
        raise FeatureError(f"token_grid is {side}, but the teacher has {teacher.grid} tokens; 0 keeps all.")

    def stored(kind: str, values: dict[str, Tensor]) -> dict[str, np.ndarray]:
        arrays = {}
        for name in ("pooled", "tokens", "attention") if tokens else ("pooled", "attention"):
            if not (largest := torch.stack(values[name].aminmax()).abs().max().item()) <= float(np.finfo(dtype).max):
                remedy = "Set feature_dtype to float32; if that does not help, the checkpoint is not sound."
                raise FeatureError(f"{kind}_{name} is up to {largest:.5g}, which {dtype} cannot hold. {remedy}")
            arrays[f"{kind}_{name}"] = values[name].numpy().astype(dtype)
        return arrays

    def read(texts: list[str], kind: str) -> dict[str, np.ndarray]:
        """Without padding; ``_words``: the index, within its text, of the word of each token, -1 at both ends."""
        encoding = teacher.tokenise(texts)
        ids, mask = encoding["input_ids"], encoding["attention_mask"].bool()
        seen = teacher.encode_text(ids, encoding["attention_mask"])
        arrays = stored(kind, {name: value if name == "pooled" else value[mask] for name, value in seen.items()})
        arrays[f"{kind}_length"] = mask.sum(dim=1).numpy().astype(np.int32)
        if getattr(encoding, "is_fast", False):  # a user's own tokenizer may know no words
            words = [[-1 if word is None else word for word in encoding.word_ids(row)] for row in range(len(texts))]
            arrays[f"{kind}_ids"] = ids[mask].numpy().astype(np.int32)
            arrays[f"{kind}_words"] = np.array(words, dtype=np.int16)[mask.numpy()]
        return arrays

    def encode(prepared: list[Tensor], captions: list[tuple[str, ...]] | None) -> dict[str, np.ndarray]:
        seen = teacher.encode_image(torch.cat(prepared))
        seen |= reduced(seen["tokens"], seen["attention"], teacher.grid, side) if side else {}
        arrays = stored("image", seen)
        if captions is not None and teacher.has_text:
            arrays["caption_count"] = np.array([len(texts) for texts in captions], dtype=np.int32)
            texts = [text for own in captions for text in own]
            arrays |= read(texts, "text") if texts else {}
        return arrays

    facts = {name: getattr(teacher, name) for name in ("source", "revision", "untrained", "audited", "logit_scale")}
    centred = bool(getattr(teacher.preprocess, "do_center_crop", False))
    facts |= {"grid": [side or length for length in teacher.grid], "text": teacher.has_text, "centre_crop": centred}
    extras = read(prompts, "prompt") if prompts and teacher.has_text else {}
    return lambda image: teacher.prepare([image]), encode, facts, extras


def _ensure(folder: Path, record: dict, dataset: Dataset, load: Callable) -> Features:
    """The features in ``folder``: opened without a lock or a write where they are whole, else built under a lock."""
    if found := _opened(folder, dataset):
        return found
    try:
        with locked(folder.with_name(f"{folder.name}.lock")):
            found = _opened(folder, dataset)
            if not found and (folder / "manifest.json").exists():
                warnings.warn(f"{folder} is damaged (an array or its manifest) and is built again.", stacklevel=4)
                shutil.rmtree(folder)
            return found or _build(folder, record, dataset, load)
    except OSError as error:
        remedy = "Make room, or set KDLIB_RUNS to a folder that can be written, and run again, which continues."
        raise FeatureError(f"{folder} cannot be built: {error}. {remedy}") from error


def _opened(folder: Path, dataset: Dataset) -> Features | None:
    """The finished features in ``folder``; None where there are none, or damaged ones."""
    manifest = read_json(folder / "manifest.json")
    try:
        files = {name: folder / f"{name}.npy" for name in manifest["arrays"]}
        arrays = {name: np.load(file, mmap_mode="r") for name, file in files.items()}
        if manifest["arrays"] != {name: [file.stat().st_size, *arrays[name].shape] for name, file in files.items()}:
            return None
        skipped, facts, seconds = (manifest[name] for name in ("skipped", "facts", "seconds"))
    except (FileNotFoundError, EOFError, ValueError, KeyError, TypeError):
        return None
    rows = np.array([row for row in range(len(dataset)) if str(row) not in skipped])
    return Features(folder, arrays, [dataset.ids[row] for row in rows], rows, [*skipped.values()], facts, seconds)


def _build(folder: Path, record: dict, dataset: Dataset, load: Callable) -> Features:
    """Fill ``folder``. After a kill it continues from progress.json: the next row, the size and shape of each array."""
    machine.keep_memory()
    mark = read_json(folder / "progress.json")
    sizes = {file.stem: file.stat().st_size for file in folder.glob("*.npy")}
    if mark is None or any(sizes.get(name, 0) < size for name, (size, *_) in mark["arrays"].items()):
        mark = {"next": 0, "arrays": {}, "skipped": {}, "seconds": 0.0}
    prepare, encode, facts, extras = load()
    where, started = f"{dataset.name}/{dataset.split}", time.perf_counter() - mark["seconds"]

    def decode(first: int) -> tuple[int, dict, dict]:
        prepared, bad, end = {}, {}, min(first + CHUNK, len(dataset))
        for row in range(first, end):
            try:
                prepared[row] = prepare(dataset.images.at_least(row, 2 * record.get("size", 0)))  # 0: decoded in full
            except BadImageError as error:
                bad[str(row)] = str(error)
        return end, prepared, bad

    with Progress(f"features of {where}", len(dataset), mark["next"]) as bar:
        for end, prepared, bad in ahead(decode, range(mark["next"], len(dataset), CHUNK)):
            mark["skipped"] |= bad
            bar.update(end)
            if mark["skipped"] and record["on_bad_image"] == "error":
                continue  # to name the others too
            captions = [dataset.captions[row] for row in prepared] if dataset.captions is not None else None
            _append(folder, mark["arrays"], encode(list(prepared.values()), captions) if prepared else {})
            if (seconds := time.perf_counter() - started) > mark["seconds"] + MARK:
                mark |= {"next": end, "seconds": seconds}
                write_json(folder / "progress.json", mark)
    if (bad := mark["skipped"]) and (record["on_bad_image"] == "error" or len(bad) == len(dataset)):
        remedy = "Replace them, or set on_bad_image to 'skip', which counts them in each result:"
        raise BadImageError("\n  ".join([f"{len(bad)} images of {where} cannot be read. {remedy}", *bad.values()]))
    _append(folder, mark["arrays"], extras)
    mark |= {"seconds": time.perf_counter() - started, "facts": facts}
    write_json(folder / "manifest.json", mark | {"record": record, "versions": machine.versions()})
    (folder / "progress.json").unlink(missing_ok=True)
    return _opened(folder, dataset)


def _append(folder: Path, marked: dict[str, list[int]], arrays: dict[str, np.ndarray]) -> None:
    """Append rows to .npy files of the ``marked`` size and shape; numpy pads headers, so that rows can become more."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        size, rows, *_ = marked.get(name, (0, 0))
        header = {"descr": array.dtype.str, "fortran_order": False, "shape": (rows + len(array), *array.shape[1:])}
        with open(folder / f"{name}.npy", "r+b" if rows else "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.seek(file.truncate(size or file.tell()))  # what came after the mark is cut off
            file.write(np.ascontiguousarray(array).data)
            marked[name] = [file.tell(), *header["shape"]]
