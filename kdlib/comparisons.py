"""Questions about finished runs: paired comparisons with verdicts, means over seeds, retention, convergence."""

from itertools import combinations

import numpy as np
import pandas as pd

from kdlib import tables
from kdlib.evaluate import bootstrap

QUESTIONS = ("random_init", "pca", "teacher", "supervised", "epochs", "method", "variant")
MARKS = {bootstrap.OPEN: "≈≈", bootstrap.OVERRULED: ("(▼)", "(▲)")}  # below 0, above 0
STUDENTS = ("student", "self_contained")  # roles; the others are baselines and ablations
SHARED = ("teacher", "pca", "random", "constant", "shuffled")  # encoders that do not depend on the student's seed


def side(runs: pd.DataFrame, encoder: str = "student", metric: str = "") -> tuple[list, np.ndarray] | None:
    """(S,) values and (S, R) resamples of a score of runs that differ in the seed; None where it is not scored."""
    values, lines = [], []
    for run in (runs.head(1) if encoder in SHARED else runs).itertuples():
        result, name = tables.record(run.path), metric or run.primary
        scores = result["budgets"][str(run.epochs)]["scores"] | result["controls"]
        values.append(scores.get(encoder, {}).get(name, [None])[0])
        lines.append(tables.replicates(run.path, encoder, name, run.epochs))
    return None if any(line is None for line in lines) else (values, np.stack(lines))


def finished(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with a result; of several with the same key, as of other code, the last one."""
    return runs[runs.outcome == "ok"].sort_values("finished", kind="stable").drop_duplicates(tables.KEY, keep="last")


def compare(runs: pd.DataFrame, question: str, metric: str = "") -> pd.DataFrame:
    """Paired comparisons of a score (the primary metric), Holm-corrected in one family a question and teacher.

    Is a student better than ``random_init``, ``pca``, its ``teacher``, its ``supervised`` baseline; after more than
    after its fewest ``epochs``; than another ``method`` (after its most epochs); than a ``variant`` of its training?
    ``mark``: ▲ better, ▼ worse, ≈ not significant, (▲) (▼) not significant after correction.
    """
    if question not in (*QUESTIONS, "converged"):
        raise ValueError(f"There is no question '{question}'; the questions are {', '.join(QUESTIONS)}.")
    rows, own = [], "dev" if question == "converged" else "student"
    for _, part in finished(runs).groupby(["teacher", "dataset"], observed=True):
        groups = {key: group.sort_values("seed") for key, group in part.groupby(["student", "epochs"], observed=True)}
        images = {key: {tables.record(path)["keys"]["images"] for path in group.path} for key, group in groups.items()}
        first, family = {key: group.iloc[0] for key, group in groups.items()}, []
        for a, b, encoder in _pairs(first, question):
            sides = side(groups[a], own, metric), side(groups[b], encoder, metric)
            if None not in sides and len(images[a] | images[b]) == 1:  # others are not paired
                family.append((a, b, sides))
        tests = bootstrap.compare([(*left, *right) for _, _, (left, right) in family])
        for (a, b, _), test in zip(family, tests, strict=True):
            versus = {"epochs": f"{b[1]} epochs", "method": b[0], "variant": first[b].variant}.get(question, question)
            mark = MARKS.get(test.verdict, "▼▲")[test.difference > 0]
            rows.append(first[a].to_dict() | test._asdict() | {"versus": versus, "mark": mark})
    columns = "teacher dataset student method variant epochs versus difference low high p p_holm verdict mark"
    return tables.ordered(pd.DataFrame(rows, columns=columns.split()))


def _pairs(first: dict, question: str) -> list[tuple]:
    """(Key of a student, key of its rival, encoder of the rival); keys are (student, epochs), in order."""
    students = [key for key, run in first.items() if run.role in STUDENTS]
    if question == "method":
        return [(a, b, "student") for a, b in combinations(dict(students).items(), 2)]
    if question == "epochs":
        fewest = dict(reversed(first))
        return [(key, (key[0], fewest[key[0]]), "student") for key in first if key[1] > fewest[key[0]]]
    if question == "converged":
        return [((name, 2 * epochs), (name, epochs), "dev") for name, epochs in first if (name, 2 * epochs) in first]
    alike = [(a, b) for a in students for b in first if a != b and (first[a].method, a[1]) == (first[b].method, b[1])]
    if question == "supervised":
        return [(a, b, "student") for a, b in alike if first[b].role == "supervised"]
    if question == "variant":
        return [(a, b, "student") for a, b in alike if first[b].role != "supervised" and not first[a].variant]
    return [(key, key, question) for key in students]


def over_seeds(scores: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``results`` without seeds: mean, its interval over test images, and ``sd`` over seeds."""
    rows, key = [], [name for name in tables.KEY if name != "seed"] + ["encoder", "metric"]
    for name, group in scores.groupby(key, observed=True, sort=False):
        row = group.iloc[0].to_dict() | {"value": group.value.mean(), "sd": group.value.std()}
        if len(group) > 1:
            found = side(group, *name[-2:])
            row["low"], row["high"] = bootstrap.interval(found[1].mean(axis=0)) if found else (np.nan, np.nan)
        rows.append(row)
    return tables.ordered(pd.DataFrame(rows, columns=[*scores, "sd"]))


def retention(scores: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """A row a student after its most epochs: ``retention``, its share of the teacher's primary score, with interval;
    the share of each control; means over seeds of sizes and times."""
    key = ["teacher", "dataset", "student", "method", "variant", "role", "epochs"]
    last = scores.groupby(key[:3], observed=True).epochs.transform("max") == scores.epochs
    share = scores[scores.primary & last].pivot_table(index=key, columns="encoder", values="value", observed=True)
    share = share.reindex(columns=share.columns.union(["student", "teacher", "low", "high"], sort=False))
    share = share.div(share.pop("teacher"), axis=0).rename(columns={"student": "retention"})
    groups = finished(runs).groupby(key, observed=True)
    for name in share.index.intersection(list(groups.groups)):
        sides = [side(groups.get_group(name), encoder) for encoder in ("student", "teacher")]
        if None not in sides:
            own, teacher = (lines.mean(axis=0) for _, lines in sides)
            share.loc[name, ["low", "high"]] = bootstrap.interval(own / teacher)
    return share.drop(columns="dev", errors="ignore").join(groups[tables.NUMBERS].mean(), how="inner").reset_index()
