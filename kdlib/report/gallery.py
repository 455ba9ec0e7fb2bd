"""Chooses examples of what a student gets right and wrong among the scored images, by fixed rules.

It takes arrays and returns rows; no image is read here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import Tensor

from kdlib.evaluate import knn
from kdlib.evaluate.knn import nearest
from kdlib.evaluate.metrics import cosines, unit_rows

CAPTIONS = (0.1, 0.4, 0.6, 0.8, 0.95)  # quantiles of the student's rank at which captions are shown
IMAGES = (0.25, 0.75)  # likewise of the images
NEIGHBOURS = (0.05, 0.35, 0.65, 0.95)  # of the share of right neighbours
NEAR = 10  # a right candidate up to this rank, but not the first, is a near miss
MOST = 1000  # images whose neighbours are looked up: 100,000 candidates of 256 numbers each take seconds


@dataclass(frozen=True)
class Answer:
    """What the student found for one query, best first.

    ``query`` and ``found`` are rows of images or captions; ``right`` says which of the found ones are.
    """

    query: int
    found: list[int]
    right: list[bool]
    student_rank: float
    teacher_rank: float

    @property
    def outcome(self) -> str:
        """'hit', 'near miss' or 'failure', by the rank of the right one."""
        return outcome(self.student_rank)


def outcome(rank: float) -> str:
    """A rank (from 1) in words: 'hit' at 1, 'near miss' up to 10, else 'failure'."""
    return "hit" if rank <= 1 else "near miss" if rank <= NEAR else "failure"


def at_quantiles(values: np.ndarray, quantiles: Sequence[float]) -> list[int]:
    """The rows that stand at these quantiles when ``values`` (N,) are sorted; equal values keep their order.

    A row is given once, even where two quantiles fall on it.
    """
    order = np.argsort(values, kind="stable")
    places = [round(quantile * (len(order) - 1)) for quantile in quantiles]
    return list(dict.fromkeys(int(order[place]) for place in places))


def answers(
    queries: Tensor,
    candidates: Tensor,
    right: Callable[[int, int], bool],
    student: np.ndarray,
    teacher: np.ndarray,
    quantiles: Sequence[float],
    count: int = 5,
) -> list[Answer]:
    """Queries at ``quantiles`` of the student's rank of a right candidate, each with its ``count`` nearest candidates.

    ``queries`` (N, D) and ``candidates`` (M, D) of the student; ``right(query, candidate)`` of their rows; ``student``
    and ``teacher`` (N,): rank of the best right candidate, from 1.
    """
    rows, found = unit_rows(candidates), []
    for query in at_quantiles(student, quantiles):
        near, _ = nearest(unit_rows(queries[query][None])[0], rows, count)
        marks = [right(query, one) for one in near]
        found.append(Answer(query, near, marks, float(student[query]), float(teacher[query])))
    return found


# ---------------------------------------------------------------- classes


def by_class(labels: np.ndarray, student: np.ndarray, teacher: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """Accuracy of student and teacher in each class that has images, the student's worst first.

    ``labels`` (N,); ``student`` and ``teacher`` (N,): the credit of each image. Columns: label, class, images,
    student, teacher. Classes of equal accuracy keep the order of their labels.
    """
    frame = pd.DataFrame({"label": labels, "student": student, "teacher": teacher})
    means = frame.groupby("label")[["student", "teacher"]].mean()
    means.insert(0, "images", frame.groupby("label").size())
    means.insert(0, "class", [names[label] for label in means.index])
    return means.sort_values("student", kind="stable").reset_index()


@dataclass(frozen=True)
class Neighbours:
    """Of some scored images, ``rows`` (Q,) of class ``labels`` (Q,): the nearest of the bank ``index`` (Q, k), the
    class that k-NN predicts (Q,), and the share of the k that are of the right class (Q,).
    """

    rows: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    predicted: np.ndarray
    share: np.ndarray


def neighbours(
    bank: Tensor, bank_labels: np.ndarray, query: Tensor, labels: np.ndarray, most: int = MOST
) -> Neighbours:
    """The neighbours by which the score knn@20_top1 votes, of at most ``most`` evenly spaced queries.

    ``bank`` (M, D) with labels (M,), ``query`` (N, D) with labels (N,).
    """
    rows = np.linspace(0, len(query) - 1, min(most, len(query))).round().astype(int)
    bank, query = unit_rows(bank), unit_rows(query[rows])
    k = min(knn.HEADLINE, len(bank))
    predicted = knn.predict(bank, bank_labels, query)  # the rule of the score itself, ties and all
    index = np.concatenate([cosines(part, bank).topk(k, dim=1).indices.numpy() for part in query.split(knn.CHUNK)])
    share = (bank_labels[index] == labels[rows][:, None]).mean(axis=1)
    return Neighbours(rows, labels[rows], index, predicted, share)


@dataclass(frozen=True)
class Confusion:
    """``count`` of the ``of`` images of class ``label`` were taken for ``taken_for``; the first of them is ``row``."""

    label: int
    taken_for: int
    count: int
    of: int
    row: int


def confusions(found: Neighbours, count: int = 4) -> list[Confusion]:
    """The ``count`` most frequent wrong answers of k-NN, ties in the order of the labels."""
    own = found.labels
    wrong = pd.DataFrame({"label": own, "taken_for": found.predicted, "row": found.rows})[own != found.predicted]
    pairs = wrong.groupby(["label", "taken_for"]).row.agg(["size", "min"]).reset_index()
    pairs = pairs.sort_values("size", ascending=False, kind="stable").head(count)
    totals = pd.Series(own).value_counts()
    return [
        Confusion(int(pair.label), int(pair.taken_for), int(pair["size"]), int(totals[pair.label]), int(pair["min"]))
        for _, pair in pairs.iterrows()
    ]
