"""Whether threads decode as fast as processes would: the decoder lets go of the interpreter while it works."""

import multiprocessing
from collections.abc import Iterable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np

from kdlib.bench import fullsize
from kdlib.bench.measure import Row, Setting, in_turns
from kdlib.features.encoders import pixel_encoder

IMAGES, PART, SIZE = 2048, 64, 64


def run(setting: Setting) -> list[Row]:
    """Images/s from files to arrays of ``SIZE`` pixels, in as many threads and in as many processes as cores."""
    _Images.all, _Images.prepare = fullsize.photos(setting, IMAGES).images, pixel_encoder(SIZE).prepare
    parts = [range(start, start + PART) for start in range(0, IMAGES, PART)]
    forked = multiprocessing.get_context("fork")  # a worker has the images, and starts as fast as can be
    with ThreadPoolExecutor(setting.threads) as threads, ProcessPoolExecutor(setting.threads, forked) as processes:
        ours, theirs = in_turns(lambda: _all(threads, parts), lambda: _all(processes, parts), rounds=3)
    return [
        Row(
            f"decoding to {SIZE} pixels in {setting.threads} threads",
            f"in {setting.threads} processes, which send back what they decoded",
            theirs / ours,
            None,
            IMAGES / ours,
            IMAGES / theirs,
            "images/s",
        )
    ]


class _Images:
    """What forked workers find without being sent it."""

    all = prepare = None


def _part(rows: Iterable[int]) -> np.ndarray:
    return np.stack([_Images.prepare(_Images.all.at_least(row, 2 * SIZE), "") for row in rows])


def _all(pool: Executor, parts: list) -> int:
    return sum(len(made) for made in pool.map(_part, parts))
