"""Reference encoders that every student is compared with, and the trip-wires: sanity checks of the scores.

The encoders: the teacher as its own student; PCA of its features at the student's width, the best that a linear map
can do without training; random features, a constant encoder and shuffled pairs, which must score chance.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor

from kdlib.evaluate import knn, retrieval
from kdlib.evaluate.embed import embed
from kdlib.evaluate.exam import Exam, Scores
from kdlib.evaluate.metrics import in_batch_accuracy, recall_credit, top_class_credit
from kdlib.files import read_record, write_arrays, write_json
from kdlib.seeding import generator
from kdlib.students import Student, StudentSpec

ROWS = ("teacher", "pca", "random", "constant", "shuffled")
DRAWS = 20  # of an encoder that guesses; its scores are the means over them
NARROW = 16  # width of random features
SIGMAS = 3.0  # standard deviations by which a guess may miss chance
Embedded = dict[str, dict[str, Tensor]]


def ensure(folder: Path, key: str, exam: Exam, width: int) -> dict:
    """The controls of one teacher and data: computed once, then read from ``folder``.

    Returns {"scores": row -> name -> number, "facts": row -> what was chosen on dev, "wires": [...],
    "arrays": name of the .npz with replicates and queries}.
    """
    record_path = folder / f"controls-{key[:12]}.json"
    arrays_path = record_path.with_suffix(".npz")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{record_path}.lock"):
        record = read_record(record_path)
        if record is None or record.get("key") != key or not arrays_path.exists():
            scored = {row: score(exam, row, width) for row in ROWS}
            arrays = {name: values for row, scores in scored.items() for name, values in scores.arrays(row).items()}
            write_arrays(arrays_path, arrays)
            record = {
                "key": key,
                "scores": {row: scores.values for row, scores in scored.items()},
                "facts": {row: scores.facts for row, scores in scored.items()},
                "wires": wires(exam, scored),
            }
            write_json(record_path, record)
    return record | {"arrays": arrays_path.name}


def score(exam: Exam, row: str, width: int) -> Scores:
    """The scores of one control. Controls that only guess have no linear probe and no fidelity scores."""
    if row in GUESSES:
        return exam.chance([GUESSES[row](exam, width, draw) for draw in range(DRAWS)])
    return exam.counts(constant(exam, width)) if row == "constant" else exam.score(ENCODERS[row](exam, width))


# ---------------------------------------------------------------- the encoders


def teacher(exam: Exam, width: int) -> Embedded:
    """The teacher scored as if it were its own student."""
    return exam.teacher


def pca(exam: Exam, width: int) -> Embedded:
    """The teacher's features projected on the first ``width`` principal axes of fit, not centred.

    No linear map of this rank keeps cosines better. Image and text features share the axes and count half each. Where
    ``width`` is T or more, the scores are the teacher's.
    """
    fit = exam.splits["fit"].store
    moment = sum(second_moment(fit[f"{side}_pooled"]) for side in ("image", "text") if f"{side}_pooled" in fit)
    axes = torch.linalg.eigh(moment).eigenvectors[:, -width:]  # (T, width)
    return _mapped(exam.teacher, lambda features: (F.normalize(features.double(), dim=-1) @ axes).float())


def second_moment(features: np.ndarray, chunk: int = 8192) -> Tensor:
    """(T, T) mean of x x' over rows at length 1, float64; not centred, so that cosines are what is kept."""
    total = torch.zeros(features.shape[1], features.shape[1], dtype=torch.float64)
    for start in range(0, len(features), chunk):
        rows = F.normalize(torch.from_numpy(np.array(features[start : start + chunk])).double(), dim=-1)
        total += rows.T @ rows
    return total / len(features)


def random(exam: Exam, width: int, draw: int) -> Embedded:
    """Independent normal vectors, which say nothing of their inputs; at most NARROW wide, which saves time."""
    return {
        split: {
            side: torch.randn(
                len(values), min(width, NARROW), generator=generator(0, "random features", draw, split, side)
            )
            for side, values in sides.items()
        }
        for split, sides in exam.teacher.items()
    }


def constant(exam: Exam, width: int) -> Embedded:
    """The same vector for every input, so that all similarities tie."""
    return _mapped(exam.teacher, lambda features: torch.ones(len(features), width))


def shuffled(exam: Exam, width: int, draw: int) -> Embedded:
    """The teacher's features with the scored images permuted, so that pairs and labels are wrong."""
    order = torch.randperm(len(exam.scored), generator=generator(0, "shuffled pairs", draw))
    scored = exam.teacher[exam.on]
    return exam.teacher | {exam.on: scored | {"image": scored["image"][order]}}


def _mapped(embedded: Embedded, function) -> Embedded:
    return {split: {side: function(values) for side, values in sides.items()} for split, sides in embedded.items()}


ENCODERS = {"teacher": teacher, "pca": pca}
GUESSES = {"random": random, "shuffled": shuffled}


# ---------------------------------------------------------------- the trip-wires


def wires(exam: Exam, scored: dict[str, Scores]) -> list[dict]:
    """The sanity checks that must pass before a score is shown: [{"wire", "passed", "found"}]."""
    return [
        *_guessing_is_chance(exam, scored),
        *_constant_is_chance(exam, scored["constant"]),
        _student_path_is_the_teachers(exam),
        _order_changes_nothing(exam, scored["teacher"]),
    ]


def wire(name: str, passed: bool, found: str) -> dict:
    """The record of one check: its name, whether it held, and what was found, in words."""
    return {"wire": name, "passed": bool(passed), "found": found}


def _guessing_is_chance(exam: Exam, scored: dict[str, Scores]) -> list[dict]:
    found = []
    expected = chance(exam)
    if not exam.has_text and not _balanced(exam):
        return []  # a guess finds large classes more often, how much more depends on k: chance is no single number
    names = [exam.headline, "in_batch@64"] if exam.has_text else [exam.headline]
    for row in ("random", "shuffled"):
        for name in names:
            if name not in scored[row].values:  # fewer images than a batch
                continue
            score, limit = scored[row].values[name], SIGMAS * guessing_deviation(exam, name) / DRAWS**0.5
            found.append(
                wire(
                    f"{row} {'pairs' if row == 'shuffled' else 'features'} score chance in {name}",
                    abs(score - expected[name]) <= limit,
                    f"{score:.4f}, chance {expected[name]:.4f} ± {limit:.4f}",
                )
            )
    return found


def _balanced(exam: Exam) -> bool:
    """Whether k-NN's classes are of nearly equal size (a few unreadable images do not matter)."""
    counts = np.bincount(np.concatenate([exam.splits[name].labels for name in exam.bank]))
    return counts.max() <= 1.1 * counts.min()


def _constant_is_chance(exam: Exam, scores: Scores) -> list[dict]:
    return [
        wire(
            f"a constant encoder scores exactly chance in {name}",
            abs(scores.values[name] - value) < 1e-9,
            f"{scores.values[name]:.9f}, chance {value:.9f}",
        )
        for name, value in chance(exam).items()
        if not name.startswith("in_batch")  # counts a tie as lost
    ]


class _Identity(Student):
    """A student that is its teacher."""

    reads = "features"

    def see(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"image": batch["image"]}

    def read(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"text": batch["text"]}


def _student_path_is_the_teachers(exam: Exam) -> dict:
    """Embedding the stored features through :func:`embed` must give them back; then the scores are equal too."""
    student = _Identity(StudentSpec(exam.scored.store["image_pooled"].shape[1], text=exam.has_text))
    away = 0.0
    for name in exam.needed:
        made, own = embed(student, exam.splits[name], "cpu"), exam.teacher[name]
        away = max(away, *((made[side] - own[side]).abs().max().item() for side in own))
    return wire("the teacher scored as its own student equals the teacher", away < 1e-9, f"differs by {away:.1e}")


def _order_changes_nothing(exam: Exam, expected: Scores) -> dict:
    """Scores must not change with the order of the scored images, nor with that of k-NN's bank."""
    scored, split = exam.teacher[exam.on], exam.scored
    order = torch.randperm(len(split), generator=generator(0, "another order"))
    if exam.has_text:
        place = torch.argsort(order).numpy()  # image i is now at place[i]
        owner = place[split.owner]
        values = retrieval.evaluate(scored["image"][order], scored["text"], owner)
        # in_batch takes each image's first caption, which stays the first
    else:
        bank = torch.cat([exam.teacher[name]["image"] for name in exam.bank])
        labels = np.concatenate([exam.splits[name].labels for name in exam.bank])
        mixed = torch.randperm(len(bank), generator=generator(0, "another order of the bank"))
        values = knn.evaluate(bank[mixed], labels[mixed.numpy()], scored["image"][order], split.labels[order.numpy()])
    away = _largest_difference(values, {name: expected.values[name] for name in values})
    return wire("another order of the samples changes nothing", away < 1e-9, f"differs by {away:.1e}")


def _largest_difference(first: dict[str, float], second: dict[str, float]) -> float:
    return max(abs(first[name] - second[name]) for name in second)


def guessing_deviation(exam: Exam, name: str) -> float:
    """Standard deviation of a score of one encoder that guesses, computed from the counting rules alone.

    It takes the captions of an image as one query, and the two directions of recall as fully correlated, as they are
    for shuffled pairs. For random features it is therefore slightly too large.
    """
    images = len(exam.scored)
    expected = chance(exam)
    if not exam.has_text:
        share = expected[name]
        return (share * (1 - share) / images) ** 0.5
    if name.startswith("in_batch"):
        size = int(name.split("@")[1])
        ranks = in_batch_accuracy(np.arange(images), images, size)  # the match is at each rank equally often
        return float(ranks.std() / images**0.5)
    deviation = 0.0
    for way in ("i2t", "t2i"):
        shares = np.array([expected[f"{way}_r@{depth}"] for depth in retrieval.DEPTHS])
        # A query's value is the mean of nested hits: a hit at depth 1 is one at 5 and 10.
        square = np.minimum.outer(shares, shares).mean()
        deviation += ((square - shares.mean() ** 2) / images) ** 0.5 / 2
    return deviation


def chance(exam: Exam) -> dict[str, float]:
    """{score: its value for an encoder that cannot tell inputs apart}, computed from the counting rules alone."""
    split = exam.scored
    if not exam.has_text:
        bank = np.concatenate([exam.splits[name].labels for name in exam.bank])
        counts = np.bincount(bank, minlength=int(max(bank.max(), split.labels.max())) + 1).astype(float)
        scores = np.repeat(counts[None], len(split), axis=0)
        return {
            f"knn@{k}_top{n}": float(top_class_credit(scores, split.labels, n).mean())
            for k in knn.ks(len(bank))
            for n in (1, 5)
        }
    images, texts = len(split), len(split.owner)
    captions = np.bincount(split.owner, minlength=images)
    values = {}
    for depth in retrieval.DEPTHS:
        values[f"i2t_r@{depth}"] = float(recall_credit(0, texts - captions, captions, depth).mean())
        values[f"t2i_r@{depth}"] = min(1.0, depth / images)
    values[retrieval.HEADLINE] = float(np.mean(list(values.values())))
    if split.relevant is not None and split.relevant.any() and split.has_prompts:
        shares = split.relevant.mean(axis=0)
        values["zeroshot_map"] = float(shares[shares > 0].mean())
    return values | {f"in_batch@{size}": 1 / size for size in retrieval.BATCHES if size <= images}
