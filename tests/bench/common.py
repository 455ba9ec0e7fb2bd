"""What the measures share: calls timed in turns; teacher, photographs and features of full size, of random values."""

import atexit
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from kdlib import RunConfig, data, teachers
from kdlib.data.base import Dataset
from kdlib.features import Features
from kdlib.machine import cores
from kdlib.utils import runs_root

QUICK, THREADS = "--quick" in sys.argv, cores()
SCRATCH = runs_root() / f"bench-{os.getpid()}"
SCRATCH.mkdir(parents=True)
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)


def size(full: int, quick: int) -> int:
    return quick if QUICK else full


def row(what: str, against: str, ratio: float, bar: str, ours: float, theirs: float, unit: str) -> dict:
    return {"what": what, "against": against, "ratio": ratio, "bar": bar, "ours": ours, "theirs": theirs, "unit": unit}


def seconds(call: Callable) -> float:
    """What one call takes, unless it returns the seconds that count."""
    started = time.perf_counter()
    own = call()
    return own if isinstance(own, float) else time.perf_counter() - started


def compared(what: str, against: str, ours: Callable, theirs: Callable, bar: str, rounds=5, each=1) -> dict:
    """A row: medians in ms of one of ``each`` in a call, and of the ratios of pairs of calls.

    '≥ 3' asks how many times quicker ours is, '≤ 2' how many times as long it takes.
    """
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(size(rounds + 1, 1))][size(1, 0) :]
    ratio = statistics.median(b / a if bar.startswith("≥") else a / b for a, b in pairs)
    first, second = (statistics.median(side) * 1000 / each for side in zip(*pairs, strict=True))
    return row(what, against, ratio, bar, first, second, "ms")


def config(method: str, **fields) -> RunConfig:
    """The configuration of a method at the paper's size, on CLIP and COCO unless told otherwise."""
    full = {"teacher": "clip", "dataset": "coco", "width": 256, "bottleneck": 128, "convnet": "full", "epochs": 2}
    return RunConfig(**full | {"study": "bench", "method": method, "device": "cpu", "threads": THREADS} | fields)


def clip(**fields) -> tuple[RunConfig, teachers.Teacher]:
    """CLIP's ViT-B/32 with the toy teacher's vocabulary, and the configuration that loads it."""
    import transformers

    folder, toy = SCRATCH / "clip", Path(teachers.__file__).parent / "toy" / "clip"
    if not folder.exists():
        tokens = transformers.CLIPConfig.from_pretrained(toy).text_config.to_dict()
        tokens = {name: tokens[name] for name in ("vocab_size", "eos_token_id", "bos_token_id")}
        transformers.CLIPModel(transformers.CLIPConfig(text_config=tokens)).save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(toy).save_pretrained(folder)
        transformers.CLIPImageProcessor().save_pretrained(folder)
    given = config("projection", checkpoint=str(folder), **fields)
    return given, teachers.load(given)


def photos(count: int, side: tuple[int, int] = (640, 480)) -> Dataset:
    """Synthetic images as JPEGs, by default of the size of COCO's, with a label and five captions each."""
    drawn, folder = data.load("coco", "shapes", "fit"), SCRATCH / f"photos-{side[0]}"
    paths = [folder / f"{number % 20:02d}" / f"{number:05d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            drawn.images[number % len(drawn)].resize(side, Image.Resampling.BICUBIC).save(path, quality=90)
    captions = [(drawn.captions[number % len(drawn)] * 5)[:5] for number in range(count)]
    names, files = zip(*((path.name, str(path)) for path in paths), strict=True)
    return Dataset("photos", "fit", names, files, np.arange(count) % 20, captions=captions)


def random_features(count: int, width: int, tokens: int = 1, texts: int = 0) -> Features:
    """Memory-mapped features of :func:`photos`, with so many tokens an image and, if any, in its only caption."""
    random, folder = np.random.default_rng(0), SCRATCH / f"random-{width}"
    shapes = {"image_pooled": (count, width), "image_attention": (count, tokens)}
    shapes["image_tokens"] = count, tokens, width
    of_text = {"text_pooled": (count, width), "text_attention": (count * texts,), "text_tokens": (count * texts, width)}
    folder.mkdir(exist_ok=True)
    arrays = {"text_length": np.full(count, texts), "caption_count": np.ones(count, dtype=int)} if texts else {}
    for name, shape in (shapes | (of_text if texts else {})).items():
        values = np.abs(random.standard_normal((64, *shape[1:]))).astype(np.float16)
        np.save(folder / f"{name}.npy", np.resize(values, shape))
        arrays[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
    facts = {"grid": [round(tokens**0.5)] * 2, "logit_scale": 100.0, "text": texts > 0}
    return Features(folder, arrays, [f"{n:05d}.jpg" for n in range(count)], np.arange(count), [], facts, 0.0)
