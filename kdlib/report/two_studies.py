"""Compares two studies, or one on two machines, student by student: which scores moved, and what else differs.

It reads only the folders of the reports (results.csv, replicates.npz, provenance.json), also from another machine.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kdlib.evaluate.uncertainty import Pair, summarise
from kdlib.evaluate.uncertainty import compare as judge
from kdlib.files import write_arrays
from kdlib.report import provenance
from kdlib.report import rows as results
from kdlib.report.scores import replicates

KEY = ["teacher", "dataset", "method", "variant", "epochs"]  # students with the same values are compared
REPLICATES = "replicates.npz"
PAIRED, UNPAIRED = "paired", "unpaired"
NO_INTERVAL, OTHER_SCORE = "no replicates", "another score"
UP, DOWN, STAYED = "up", "down", "no"
NUMBERS = ["a", "a_low", "a_high", "a_seeds", "b", "b_low", "b_high", "b_seeds"]
RESULT = ["difference", "low", "high", "p_holm", "moved", "interval"]


@dataclass(frozen=True)
class Side:
    """One of the two studies: its report's name, its rows, their replicates, and what they were made with."""

    name: str
    rows: pd.DataFrame
    replicates: dict[str, np.ndarray]
    provenance: dict

    def experiments(self) -> dict[tuple, pd.DataFrame]:
        """KEY -> the seeds that have a result, in the order of the seeds."""
        good = self.rows[self.rows.outcome == "ok"].sort_values("seed", kind="stable")
        return dict(iter(good.groupby(KEY, sort=False)))

    def scores(self, experiments: pd.DataFrame) -> tuple[list[float], np.ndarray | None]:
        """Headline scores (S,) of experiments of several seeds, and their replicates (S, R); None where any lacks."""
        found = [self.replicates.get(_name(row)) for row in experiments[["run", "epochs"]].itertuples()]
        known = all(line is not None for line in found) and len({len(line) for line in found}) == 1
        return experiments.student.tolist(), np.stack(found).astype(np.float64) if known else None


def _name(row) -> str:
    return f"{row.run}/{row.epochs}"


def keep(frame: pd.DataFrame, folder: Path) -> None:
    """replicates.npz: the student's headline score on each resample, for each finished experiment of a study."""
    good = frame[frame.outcome == "ok"]
    arrays = {_name(row): replicates(row, "student", row.headline).astype(np.float32) for row in good.itertuples()}
    write_arrays(folder / REPLICATES, arrays)


def read(folder: Path) -> Side:
    """The report in ``folder``. Raises FileNotFoundError when it holds no results."""
    folder = Path(folder)
    arrays = {}
    if (folder / REPLICATES).exists():
        with np.load(folder / REPLICATES) as stored:
            arrays = dict(stored)
    return Side(folder.resolve().name, results.read(folder), arrays, provenance.read(folder))


def compare(first: Side, second: Side) -> pd.DataFrame:
    """A line for each student that both have a score of, those that moved first, by the size of the difference.

    Columns: KEY, the score of A and of B with their intervals and seeds, ``difference`` B - A with its interval,
    ``p_holm`` corrected within a teacher and data set, ``moved`` (up, down, no; empty if there is no interval): whether
    the interval leaves out 0, and ``interval``: 'paired' over the same test images, 'unpaired' over different ones,
    else why there is none.
    """
    a_experiments, b_experiments = first.experiments(), second.experiments()
    lines, families = [], {}
    for key in (key for key in a_experiments if key in b_experiments):
        a, b = a_experiments[key], b_experiments[key]
        (a_values, a_lines), (b_values, b_lines) = first.scores(a), second.scores(b)
        line = dict(zip(KEY, key, strict=True)) | {"difference": np.mean(b_values) - np.mean(a_values), "moved": ""}
        line |= _summary("a", a_values, a_lines) | _summary("b", b_values, b_lines)
        line["interval"] = _kind(a, b, a_lines, b_lines)
        if line["interval"] == OTHER_SCORE:
            line["difference"] = np.nan
        elif line["interval"] != NO_INTERVAL:
            if line["interval"] == UNPAIRED:
                # Shuffled, so that the replicates of A and B are independent.
                b_lines = b_lines[:, np.random.default_rng(0).permutation(b_lines.shape[1])]
            pair: Pair = ("B", "A", b_values, b_lines, a_values, a_lines)
            families.setdefault(key[:2], []).append((line, pair))
        lines.append(line)
    for family in families.values():
        for (line, _), found in zip(family, judge([pair for _, pair in family]), strict=True):
            line |= {"low": found.low, "high": found.high, "p_holm": found.p_holm}
            line["moved"] = UP if found.low > 0 else DOWN if found.high < 0 else STAYED
    frame = pd.DataFrame(lines, columns=[*KEY, *NUMBERS, *RESULT])
    order = pd.DataFrame({"stayed": ~frame.moved.isin((UP, DOWN)), "by": -frame.difference.abs().astype(float)})
    return frame.loc[order.sort_values(["stayed", "by"], kind="stable").index].reset_index(drop=True)


def _summary(side: str, values: list[float], lines: np.ndarray | None) -> dict:
    record = {side: float(np.mean(values)), f"{side}_seeds": len(values)}
    if lines is None:
        return record
    score = summarise(values, lines)
    return record | {f"{side}_low": score.low, f"{side}_high": score.high}


def _kind(a: pd.DataFrame, b: pd.DataFrame, a_lines, b_lines) -> str:
    if set(a.headline) != set(b.headline):
        return OTHER_SCORE
    if a_lines is None or b_lines is None or a_lines.shape[1] != b_lines.shape[1]:
        return NO_INTERVAL
    images = [set(experiments.get("ids_sha256", pd.Series(dtype=str)).dropna()) for experiments in (a, b)]
    return PAIRED if len(images[0]) == 1 and images[0] == images[1] else UNPAIRED


def unmatched(first: Side, second: Side) -> pd.DataFrame:
    """Students that only one side has a score of: KEY, 'only in', and the outcome on the other side."""
    lines = []
    for here, there, name in ((first, second, "A"), (second, first, "B")):
        others = dict(iter(there.rows.groupby(KEY, sort=False)))
        for key in here.experiments().keys() - there.experiments().keys():
            outcome = others[key].outcome.iloc[0] if key in others else "not in the study"
            lines.append(dict(zip(KEY, key, strict=True)) | {"only in": name, "on the other side": outcome})
    return pd.DataFrame(lines, columns=[*KEY, "only in", "on the other side"]).sort_values(["only in", *KEY])


def differences(first: Side, second: Side) -> pd.DataFrame:
    """What differs beside the scores: 'kind', 'what', 'A', 'B', 'students' (of how many trainings, where counted)."""
    a, b = first.provenance, second.provenance
    lines = []
    for name in dict.fromkeys((*a["study"], *b["study"])):
        if name not in ("study", "title", "reports"):
            lines.append(("study file", name, _text(a["study"].get(name)), _text(b["study"].get(name)), ""))
    lines += _parameters(a["configs"], b["configs"])
    for kind in ("versions", "hardware"):
        for name in dict.fromkeys(name for record in (*a[kind], *b[kind]) for name in record if name != "experiments"):
            values = [_listed(record.get(name, "") for record in side[kind]) for side in (a, b)]
            lines.append((kind, name, *values, ""))
    for name, words in (("ids_sha256", "scored images"), ("fingerprints", "content of the data")):
        for dataset in dict.fromkeys((*first.rows.dataset, *second.rows.dataset)):
            values = [_listed(_column(side.rows[side.rows.dataset == dataset], name)) for side in (first, second)]
            lines.append(("data", f"{words} of {dataset}", *values, ""))
    frame = pd.DataFrame(lines, columns=["kind", "what", "A", "B", "students"])
    return frame[frame.A != frame.B].reset_index(drop=True)


def _parameters(a: list[dict], b: list[dict]) -> list[tuple]:
    """A line for each parameter and pair of values that differ, with the number of trainings."""
    sides = [{tuple(entry[name] for name in KEY[:4]): entry["config"] for entry in side} for side in (a, b)]
    counts: dict[tuple[str, str, str], int] = {}
    for key in (key for key in sides[0] if key in sides[1]):
        ours, theirs = sides[0][key], sides[1][key]
        for name in dict.fromkeys((*ours, *theirs)):
            if ours.get(name) != theirs.get(name):
                pair = (name, _text(ours.get(name)), _text(theirs.get(name)))
                counts[pair] = counts.get(pair, 0) + 1
    return [("parameter", *pair, count) for pair, count in counts.items()]


def _column(rows: pd.DataFrame, name: str) -> Iterable[str]:
    """The values of a column, shortened where they are digests."""
    values = rows[name].dropna() if name in rows else []
    return sorted({" ".join(part[:12] for part in str(value).split()) for value in values})


def _listed(values: Iterable) -> str:
    return ", ".join(sorted({str(value) for value in values}))


def _text(value) -> str:
    return "" if value is None else str(value)
