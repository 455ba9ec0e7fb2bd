"""k-NN and retrieval against the bare matrix product that they contain."""

import numpy as np
import torch

from kdlib.bench.measure import Row, Setting, in_turns
from kdlib.evaluate import knn, retrieval
from kdlib.evaluate.metrics import unit_rows

WIDTH, CLASSES, CAPTIONS = 256, 200, 5


def run(setting: Setting) -> list[Row]:
    """k-NN at Tiny ImageNet's size and retrieval at COCO's."""
    random = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn(count, WIDTH, generator=random) for count in (100_000, 10_000))
    labels = [np.arange(len(rows)) % CLASSES for rows in (bank, queries)]
    images = torch.randn(5_000, WIDTH, generator=random)
    texts = torch.randn(CAPTIONS * len(images), WIDTH, generator=random)
    owner = np.arange(len(texts)) // CAPTIONS
    return [
        _row(
            "k-NN of 10,000 queries on 100,000 x 256",
            lambda: knn.credits(bank, labels[0], queries, labels[1]),
            (queries, bank, knn.CHUNK),
            rounds=1,
        ),
        _row(
            "retrieval both ways, 5,000 x 25,000 x 256",
            lambda: retrieval.credits(images, texts, owner),
            (images, texts, retrieval.CHUNK),
            rounds=3,
        ),
    ]


def _row(what: str, whole, product: tuple, rounds: int) -> Row:
    first, second, chunk = unit_rows(product[0]), unit_rows(product[1]), product[2]

    def bare():
        for rows in first.split(chunk):
            rows @ second.T

    slow, quick = in_turns(whole, bare, rounds)
    return Row(what, "the matrix product alone, float64", slow / quick, 2.0, slow, quick, "s", at_most=True)
