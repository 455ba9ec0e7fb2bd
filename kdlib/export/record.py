"""Makes the record of exported files: parity with torch, scores by kdlib's evaluation, size and speed.

``parity.json`` in the folder, and ``exported-EEEE.json`` beside the run's result:

- ``schema``; ``experiment``: the key of the result it belongs to, by which an outdated record is known; ``files``:
  name -> ``bytes`` and ``sha256``; ``headline``: the name of the student's main score.
- ``rows``: 'student', 'onnx' and, where asked for, 'onnx_int8' -> ``scores``, ``intervals`` (95 %, by score) and ``mb``
  (2^20 bytes of the files that it needs). Resamples and queries are in ``exported-EEEE.npz``, as in scores-EEEE.npz.
- ``comparisons``: pairs of rows by the headline -> ``difference``, ``interval``, ``p``, ``verdict``, and
  ``within_interval``: whether the row's score lies in the interval of the other.
- ``parity``: check -> ``count``, ``cosine_min``, ``cosine_mean``, ``difference_max``.
- ``cost``: 'onnx', 'onnx_int8', 'teacher' -> side -> :func:`kdlib.export.check.cost`.
- ``hardware``, ``versions``, ``finished``; ``folder`` in exported-EEEE.json only.
"""

import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from kdlib.data.dataset import DataError, Dataset
from kdlib.evaluate import zeroshot
from kdlib.evaluate.exam import Exam, Scores
from kdlib.export import check, graph, yardstick
from kdlib.export.graph import ExportError
from kdlib.export.quantise import Feed, quantise
from kdlib.export.standalone import Standalone
from kdlib.features.loader import Split
from kdlib.files import file_digest
from kdlib.finished import Finished
from kdlib.machine import hardware, versions
from kdlib.sources import load_data, pixel_store

SCHEMA = 1
RECORD = "parity.json"
ROWS = {"onnx": "{}.onnx", "onnx_int8": "{}.int8.onnx"}  # row -> name of a side's file
CHECKED, CALIBRATED = 1000, 256  # images and texts at most


@dataclass(frozen=True)
class Inputs:
    """The images and texts that a run's files are checked with: the scored split, and fit for the calibration."""

    exam: Exam
    data: dict[str, Dataset]

    @classmethod
    def of(cls, run: Finished) -> "Inputs":
        """Raises DataError where the data are not those of the result."""
        config = run.config
        data = load_data(config)
        data.pop("extra", None)  # never scored
        for name, dataset in data.items():
            if dataset.fingerprint != run.result["data"][name]["fingerprint"]:
                raise DataError(f"{dataset.tree.where}: '{name}' is not what {run.run.path} was made with.")
        splits = {}
        for name, dataset in data.items():
            store = run.store(name)
            labels = None if dataset.labels is None else dataset.labels[store.rows]
            relevant = None
            if dataset.categories is not None:
                relevant = zeroshot.relevance(dataset.categories, len(dataset.category_names))[store.rows]
            splits[name] = Split(name, store, pixel_store(config, dataset), labels, relevant)
        return cls(Exam(splits, config.score_on, config.linear_probe), data)

    @property
    def on(self) -> str:
        """The name of the scored split."""
        return self.exam.on

    def captions(self, name: str) -> list[tuple[str, ...]]:
        """The captions of each stored image of a split."""
        return [self.data[name].captions[row] for row in self.exam.splits[name].store.rows]

    def texts(self) -> dict[str, list[str]]:
        """'text' the captions of the scored split, 'prompt' the zero-shot prompts where there are."""
        found = {"text": [text for texts in self.captions(self.on) for text in texts]}
        if self.exam.scored.has_prompts:
            found["prompt"] = zeroshot.prompts(self.data[self.on].category_names)
        return found

    def batches(self, student: Standalone, side: str, batch: int):
        """Up to CALIBRATED images or texts of fit in batches."""
        split = self.exam.splits["fit"]
        rows = some(len(split), CALIBRATED)
        if side == "image":
            return check.image_feeds(split.pixels["pixels"][rows], batch)
        captions = self.captions("fit")
        return check.text_feeds(student, [captions[row][0] for row in rows], batch)


def some(count: int, most: int) -> np.ndarray:
    """At most ``most`` of ``count`` rows, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def write_graphs(folder: Path, student: Standalone, inputs: Inputs, int8: bool) -> None:
    """image.onnx and text.onnx, and with ``int8`` their twins."""
    for side, tower in student.towers.items():
        path = folder / ROWS["onnx"].format(side)
        example: Feed = next(inputs.batches(student, side, 2))
        graph.write(tower, side, tuple(torch.from_numpy(values) for values in example.values()), path)
        if int8:
            twin = folder / ROWS["onnx_int8"].format(side)
            quantise(path, twin, inputs.batches(student, side, check.BATCHES[-1]))


def examine(
    folder: Path, run: Finished, student: Standalone, inputs: Inputs, int8: bool
) -> tuple[dict, dict[str, Scores]]:
    """The record of a folder's files, and their scores by row. Raises ExportError where they are not the student."""
    towers, texts = student.towers, inputs.texts() if "text" in student.towers else {}
    files = {
        row: {side: check.File(folder / name.format(side)) for side in towers}
        for row, name in ROWS.items()
        if int8 or row == "onnx"
    }
    parity = _parity(run, student, inputs, files)
    scores = {"student": stored(run)}
    cost = {"teacher": yardstick.files_cost(run.config)}
    for row, sides in files.items():
        embedded = check.embed(inputs.exam, student, sides, texts)
        scores[row] = inputs.exam.score(embedded)
        cost[row] = {
            side: check.cost(
                file.path,
                towers[side],
                {size: next(inputs.batches(student, side, size)) for size in check.BATCHES},
                run.config.timed_calls,
            )
            for side, file in sides.items()
        }
    pairs = [("onnx", "student"), ("onnx_int8", "onnx")]
    record = {
        "schema": SCHEMA,
        "experiment": run.result["keys"]["experiment"],
        "headline": run.headline,
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)} for path in sorted(folder.iterdir())
        },
        "rows": {row: check.row(made) for row, made in scores.items()},
        "comparisons": [check.comparison(*pair, scores, run.headline) for pair in pairs if pair[0] in scores],
        "parity": parity,
        "cost": cost,
        "hardware": hardware(torch.device("cpu")),
        "versions": versions() | {name: version(name) for name in ("onnx", "onnxruntime")},
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    record["rows"]["student"]["mb"] = record["files"]["model.safetensors"]["bytes"] / 2**20
    for row, sides in files.items():
        record["rows"][row]["mb"] = sum(cost[row][side]["bytes"] for side in sides) / 2**20
    return record, {row: made for row, made in scores.items() if row != "student"}


def stored(run: Finished) -> Scores:
    """The student's own scores, from its run."""
    scores = Scores(run.result["scores"]["student"])
    with np.load(run.run.scores_path(run.config.epochs)) as arrays:
        for name in arrays.files:
            row, kind, score = name.split("/")  # as Scores.arrays writes them
            if row == "student":  # and not 'dev', where a cooled-down student is scored too
                getattr(scores, kind)[score] = arrays[name].astype(np.float64)
    return scores


def _parity(run: Finished, student: Standalone, inputs: Inputs, files: dict) -> dict:
    """Every check, by name: the student from its folder against its result, each file against the student."""
    split = inputs.exam.scored
    rows = some(len(split), CHECKED)
    images = inputs.data[inputs.on].images
    pixels = student.prepare([_plain(images.at_least(row, 2 * student.image_size)) for row in split.store.rows[rows]])
    if not np.array_equal(pixels, split.pixels["pixels"][rows]):
        raise ExportError("Images are not resized as they were for training. Pillow may have changed; run it anew.")
    wanted = {"image": check.in_torch(student.towers["image"], check.image_feeds(pixels, 32))}
    feeds = {"image": lambda batch: check.image_feeds(pixels, batch)}
    kept = {"image": rows}
    if "text" in student.towers:
        texts = inputs.texts()["text"]
        kept["text"] = some(len(texts), CHECKED)
        chosen = [texts[row] for row in kept["text"]]
        feeds["text"] = lambda batch: check.text_feeds(student, chosen, batch)
        wanted["text"] = check.in_torch(student.towers["text"], feeds["text"](32))
    found = {}
    for side, made in wanted.items():
        own = torch.from_numpy(run.embeddings[f"{inputs.on}/{side}"][kept[side]])
        found[f"{side}: model.safetensors against the result"] = check.agreement("model.safetensors", made, own)
        for row, sides in files.items():
            file = sides[side]
            for batch in check.BATCHES:
                name = f"{file.path.name}, batch {batch}"
                least = check.AGREE if row == "onnx" else -1.0  # int8 is judged by its scores
                found[f"{side}: {name}"] = check.agreement(name, file.all(feeds[side](batch)), made, least)
    # JPEGs are decoded at a reduced size for training; a user decodes them whole.
    whole = student.encode_images([_plain(images[row]) for row in split.store.rows[rows]])
    found["image: decoded whole"] = check.agreement("images decoded whole", whole, wanted["image"], -1.0)
    return found


def _plain(image: Image.Image) -> Image.Image:
    """The pixels alone, without the EXIF orientation: a decoded image is upright already."""
    return Image.fromarray(np.asarray(image))
