"""Runs exported files with onnxruntime, compares their embeddings with torch's, and measures size and speed."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlib.evaluate.exam import Exam, Scores
from kdlib.evaluate.uncertainty import compare, interval
from kdlib.export.graph import ExportError
from kdlib.export.quantise import Feed
from kdlib.export.standalone import Standalone
from kdlib.machine import call_times, latency, multiply_accumulates

AGREE = 0.9999  # cosine of a file's embedding with torch's, at least
BATCHES = (1, 32)
THREADS = {"one_thread": 1, "all_threads": 0}  # 0 is onnxruntime's own choice: a thread a core


class File:
    """An ONNX file as onnxruntime runs it on the CPU."""

    def __init__(self, path: Path, threads: int = 0):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.path = path
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def __call__(self, feed: Feed) -> np.ndarray:
        """One batch -> (B, D)."""
        return self.session.run(None, feed)[0]

    def all(self, feeds: Iterator[Feed]) -> Tensor:
        """Batches -> (N, D)."""
        return torch.from_numpy(np.concatenate([self(feed) for feed in feeds]))


def image_feeds(pixels: np.ndarray, batch: int) -> Iterator[Feed]:
    """(N, 3, S, S) uint8, in batches."""
    return ({"pixels": pixels[start : start + batch]} for start in range(0, len(pixels), batch))


def text_feeds(student: Standalone, texts: list[str], batch: int) -> Iterator[Feed]:
    """Texts in batches, each padded to its longest text."""
    return (student.tokens(texts[start : start + batch]) for start in range(0, len(texts), batch))


@torch.inference_mode()
def in_torch(tower: nn.Module, feeds: Iterator[Feed]) -> Tensor:
    """What torch makes of the same batches, (N, D)."""
    return torch.cat([tower(*map(torch.from_numpy, feed.values())) for feed in feeds])


def agreement(name: str, made: Tensor, wanted: Tensor, least: float = AGREE) -> dict:
    """How far (N, D) embeddings are from the wanted ones. Raises ExportError if a cosine is below ``least``."""
    cosines = F.cosine_similarity(made.double(), wanted.double())
    found = {
        "count": len(cosines),
        "cosine_min": cosines.min().item(),
        "cosine_mean": cosines.mean().item(),
        "difference_max": (made - wanted).abs().max().item(),
    }
    if not found["cosine_min"] >= least:  # a NaN is no agreement
        raise ExportError(
            f"{name} does not compute what the student does: of {found['count']} embeddings the worst has cosine "
            f"{found['cosine_min']:.6f} with torch's, and {least} is asked for. Nothing was exported. Other versions "
            "of torch, onnx and onnxruntime may agree; please report it with the student's configuration."
        )
    return found


def embed(exam: Exam, student: Standalone, files: dict[str, File], texts: dict[str, list[str]]) -> dict:
    """Split -> embeddings as :class:`~kdlib.evaluate.exam.Exam` scores them, by the exported files alone.

    ``texts``: 'text' the captions of the scored split in the order of its images, 'prompt' the zero-shot prompts.
    """
    embedded = {
        name: {"image": files["image"].all(image_feeds(exam.splits[name].pixels["pixels"], BATCHES[-1]))}
        for name in exam.needed
    }
    for kind, lines in texts.items():
        embedded[exam.on][kind] = files["text"].all(text_feeds(student, lines, BATCHES[-1]))
    return embedded


def row(scores: Scores) -> dict:
    """A row of the record: every score with its 95 % interval over the scored images."""
    return {
        "scores": scores.values,
        "intervals": {name: list(interval(values)) for name, values in scores.replicates.items()},
    }


def comparison(name: str, against: str, scores: dict[str, Scores], headline: str) -> dict:
    """The paired comparison of two rows by the headline, and whether the first lies in the second's interval."""
    first, second = scores[name], scores[against]
    (found,) = compare(
        [
            (
                name,
                against,
                [first.values[headline]],
                first.replicates[headline][None],
                [second.values[headline]],
                second.replicates[headline][None],
            )
        ]
    )
    low, high = interval(second.replicates[headline])
    return {
        "row": name,
        "against": against,
        "score": headline,
        "difference": found.difference,
        "interval": [found.low, found.high],
        "p": found.p,
        "verdict": found.verdict,
        "within_interval": bool(low <= first.values[headline] <= high),
    }


def cost(path: Path, tower: nn.Module, feeds: dict[int, Feed], calls: int) -> dict:
    """Bytes, multiply-accumulates of one input, milliseconds from pixels or ids to embeddings by threads and batch.

    ``feeds``: size of batch -> its inputs. ``tower``: the network that the file was written from. Batches of more than
    one are called a tenth as often.
    """
    one = [torch.from_numpy(values) for values in feeds[1].values()]
    with torch.inference_mode():
        record = {"file": path.name, "bytes": path.stat().st_size, "macs": multiply_accumulates(lambda: tower(*one))}
    for name, threads in THREADS.items():
        file = File(path, threads)
        record[name] = {
            f"batch_{size}": latency(
                call_times(partial(file, feed), torch.device("cpu"), calls if size == 1 else max(5, calls // 10))
            )
            for size, feed in feeds.items()
        }
    return record | {"cores": os.cpu_count()}
