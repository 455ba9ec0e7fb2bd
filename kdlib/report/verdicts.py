"""Comparisons with a verdict, by a paired bootstrap with Holm's correction.

'Better' and 'worse' survive the correction; 'undecided after correction' is a difference whose own interval leaves
0 out and which the correction overrules; 'not distinguishable' is one whose interval holds 0.

A family, within which Holm corrects, is one question about one teacher: small enough for 1,000 resamples.
"""

from dataclasses import astuple
from itertools import combinations

import pandas as pd

from kdlib.evaluate.uncertainty import compare
from kdlib.report.scores import line_name, methods_of, same_images, seeds_of

QUESTIONS = {
    "epochs": "more epochs against fewer, the same student",
    "untrained": "the student against itself untrained",
    "pca": "the student against PCA of its teacher's features at the same width",
    "no teacher": "the student against the same network trained without a teacher",
    "other labels": "the student against its network without a teacher on other labels, each after its most epochs",
    "teacher": "the student against its teacher",
    "alone": "a student that stands alone against its teacher, and against its image network trained without one",
    "technique": "one technique against another, each at its most epochs",
    "variant": "the student against a variant of its training",
}
NO_TEACHER = "no_teacher"
COLUMNS = ["question", "teacher", "dataset", "a", "b", "difference", "low", "high", "p", "p_holm", "verdict"]
# Beginnings of the names of variants whose students need no teacher at inference. Pages list them as own students.
ALONE = ("standalone", "with_labels", "with_captions")


def stands_alone(variant: str) -> bool:
    """Whether a variant is one of those, by its name."""
    return variant.startswith(ALONE)


def verdicts(frame: pd.DataFrame) -> pd.DataFrame:
    """Every comparison of a study: question, teacher, dataset, a, b, difference a - b, interval, p, p_holm, verdict.

    The difference is in the headline score; the interval is of the difference; 'better' is a over b.
    """
    lines = []
    good = frame[frame.outcome == "ok"]
    for (teacher, dataset), part in good.groupby(["teacher", "dataset"], sort=False):
        for (question, _), pairs in families(part).items():
            sides = [(*_names(a, b), *seeds_of(*a), *seeds_of(*b)) for a, b in pairs]
            lines += [(question, teacher, dataset, *astuple(result)) for result in compare(sides)]
    return pd.DataFrame(lines, columns=COLUMNS)


Side = tuple[pd.DataFrame, str, str]  # experiments that differ in the seed alone, whose score, which score


def families(part: pd.DataFrame) -> dict[tuple[str, str], list[tuple[Side, Side]]]:
    """(Question, method where each method is a family of its own) -> pairs, for one teacher on one data set."""
    experiments = dict(iter(part.groupby(["variant", "method", "epochs"], sort=False)))
    budgets = sorted(part.epochs.unique())
    own = {key: group for key, group in experiments.items() if key[0] == ""}
    result: dict[tuple[str, str], list[tuple[Side, Side]]] = {(question, ""): [] for question in QUESTIONS}
    for (variant, method, epochs), group in experiments.items():
        student = (group, "student", "")
        if epochs != budgets[0] and (variant, method, budgets[0]) in experiments:
            result["epochs", ""].append((student, (experiments[variant, method, budgets[0]], "student", "")))
        if variant == "":
            result["untrained", ""].append((student, (group, "untrained", "")))
            result["pca", ""].append((student, (group, "pca", "")))
            result["teacher", ""].append((student, (group, "teacher", "")))
        if stands_alone(variant):
            result["alone", ""].append((student, (group, "teacher", "")))
            if (NO_TEACHER, method, epochs) in experiments:
                result["alone", ""].append((student, (experiments[NO_TEACHER, method, epochs], "student", "")))
        if variant.startswith(f"{NO_TEACHER}_"):
            longest = max((key for key in own if key[1] == method), key=lambda key: key[2], default=None)
            last = epochs == max(key[2] for key in experiments if key[:2] == (variant, method))
            result["other labels", ""] += [((own[longest], "student", ""), student)] if longest and last else []
        elif variant and ("", method, epochs) in own:
            question = ("no teacher", "") if variant == NO_TEACHER else ("variant", method)
            result.setdefault(question, []).append(((own["", method, epochs], "student", ""), student))
    told = part[part.variant.map(stands_alone) | (part.variant == "")]
    told = told[told.epochs == told.groupby("variant").epochs.transform("max")]
    rivals = [
        (group, "student", "")
        for method in methods_of(told)
        for _, group in told[told.method == method].groupby("variant")
    ]
    result["technique", ""] += combinations(rivals, 2)
    kept = {
        family: [pair for pair in pairs if same_images(*(side[0] for side in pair))] for family, pairs in result.items()
    }
    return {family: pairs for family, pairs in kept.items() if pairs}


def _names(a: Side, b: Side) -> tuple[str, str]:
    names = []
    for experiments, who, _ in (a, b):
        row = experiments.iloc[0]
        student = line_name(row.method, row.variant, row.epochs)
        names.append({"student": student, "pca": "PCA", "teacher": row.teacher}.get(who, f"{row.method}, {who}"))
    return names[0], names[1]
