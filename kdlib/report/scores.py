"""Scores with intervals from the rows of a study, and tables in the layout of the paper's Figures 1 and 2."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from kdlib.evaluate.uncertainty import Summary, summarise
from kdlib.files import runs_root
from kdlib.study.file import METHODS

PAPER = Path(__file__).parent / "paper_results.csv"
CONTROLS = {
    "teacher": "teacher itself",
    "pca": "PCA",
    "shuffled": "pairs shuffled",
    "random": "random features",
    "constant": "constant encoder",
}


def paper() -> pd.DataFrame:
    """The paper's printed results: teacher, dataset, method, epochs, size_mb, accuracy (share), outcome."""
    return pd.read_csv(PAPER)


# ---------------------------------------------------------------- numbers with their intervals


def _arrays(path: Path, name: str) -> np.ndarray:
    return _read_array(path, name, path.stat().st_mtime_ns)


@lru_cache(maxsize=4096)
def _read_array(path: Path, name: str, written: int) -> np.ndarray:
    with np.load(path) as arrays:
        return arrays[name]


def replicates(row, who: str, score: str) -> np.ndarray:
    """(R,) a score of an experiment on each resample of the scored images. ``who``: student, untrained, teacher, ...

    'dev': the student's on resamples of dev, where it was cooled down.
    """
    run = runs_root() / row.run
    own = run / f"scores-{row.epochs:04d}.npz"
    path = {"student": own, "dev": own, "untrained": run / "untrained.npz"}.get(who, run.parents[1] / row.controls)
    return _arrays(path, f"{who}/replicates/{score}").astype(np.float64)


def seeds_of(experiments: pd.DataFrame, who: str, score: str) -> tuple[list[float], np.ndarray]:
    """A score of experiments that differ in the seed alone: (S,) values and (S, R) replicates; controls have one."""
    good = experiments[experiments.outcome == "ok"]
    if who not in ("student", "dev", "untrained"):
        good = good.head(1)
    if who == "untrained":
        good = good.drop_duplicates("seed")
    headline = good.headline.iloc[0]
    column = {"teacher": "teacher_score"}.get(who, who) if score in ("", headline) else f"{who} {score}"
    places = good[["run", "epochs", "controls"]]  # a row of all columns takes milliseconds to make
    lines = [replicates(row, who, score or headline) for row in places.itertuples()]
    return good[column].tolist(), np.stack(lines)


def same_images(*sides: pd.DataFrame) -> bool:
    """Whether all experiments were scored on the same images: nothing else can be compared in pairs."""
    return len({key for side in sides for key in side[side.outcome == "ok"].images_key}) == 1


def summary_of(experiments: pd.DataFrame, who: str = "student", score: str = "") -> Summary:
    """Mean over seeds, their standard deviation, and the interval over test images. ``score``: the headline if ''."""
    return summarise(*seeds_of(experiments, who, score))


def methods_of(frame: pd.DataFrame) -> list[str]:
    """The paper's methods in its order, then others."""
    present = list(dict.fromkeys(frame.method))
    return [name for name in METHODS if name in present] + [name for name in present if name not in METHODS]


def line_name(teacher: str, variant: str, epochs: int | None = None) -> str:
    """'clip', 'blip, untrained heads', 'dino, no teacher, 5 epochs'."""
    parts = [teacher, variant.replace("_", " "), f"{epochs} epochs" if epochs else ""]
    return ", ".join(part for part in parts if part)


def score_table(frame: pd.DataFrame, dataset: str, score: str = "", digits: int = 3) -> pd.DataFrame:
    """One score in the layout of the paper's tables: a row per teacher and epochs, a column per method.

    ``score``: the headline if ''. Numbers are '0.72 ± 0.01 [0.70, 0.74]': mean over seeds, standard deviation over
    seeds where there are several, 95 % interval over test images. An entry without a number says why. The last columns
    are the controls that do not depend on the method, once per teacher; the untrained students are a row.
    """
    part = frame[frame.dataset == dataset]
    methods = methods_of(part)
    lines: dict[str, dict[str, str]] = {}
    for teacher, of_teacher in part.groupby("teacher", sort=False):
        shown: set = set()
        for (variant, epochs), group in of_teacher.groupby(["variant", "epochs"], sort=False):
            good = group[group.outcome == "ok"]
            if len(good) and good.exam_key.iloc[0] not in shown:
                shown.add(good.exam_key.iloc[0])
                name = f"{line_name(teacher, variant)}, untrained"
                by_method = good.groupby("method", sort=False)
                lines[name] = {method: number(one, "untrained", score, digits) for method, one in by_method}
                lines[name] |= {words: number(good, who, score, digits) for who, words in CONTROLS.items()}
            lines[line_name(teacher, variant, epochs)] = {
                method: _text(group[group.method == method], score, digits) for method in methods
            }
    frame = pd.DataFrame.from_dict(lines, orient="index", columns=[*methods, *CONTROLS.values()]).fillna("")
    return frame.rename_axis(columns="teacher and student")


def number(experiments: pd.DataFrame, who: str = "student", score: str = "", digits: int = 3) -> str:
    """A score of experiments that differ in the seed alone, as text; '–' where it was not taken."""
    try:
        return summary_of(experiments, who, score).text(digits)
    except KeyError:  # CKA has no resamples; in_batch@256 of 159 images is not there at all
        values = experiments.drop_duplicates("seed").get(f"{who} {score}", pd.Series(dtype=float)).dropna()
        if values.empty:
            return "–"
        return f"{values.mean():.{digits}f}" + (f" ± {values.std():.{digits}f}" if len(values) > 1 else "")


def _text(experiments: pd.DataFrame, score: str, digits: int) -> str:
    if experiments.empty:
        return ""
    if not (experiments.outcome == "ok").any():
        return str(experiments.outcome.iloc[0]).replace("_", " ")
    good, all_of_them = experiments[experiments.outcome == "ok"], len(experiments)
    missing = f" ({len(good)} of {all_of_them} seeds)" if len(good) < all_of_them else ""
    return number(good, "student", score, digits) + missing


def printed_table(dataset: str, value: str = "accuracy", digits: int = 4) -> pd.DataFrame:
    """The paper's printed table, in the same layout."""
    part = paper()
    part = part[part.dataset == dataset]
    lines: dict[str, dict[str, str]] = {}
    for row in part.itertuples():
        number = getattr(row, value)
        text = f"{number:.{digits}f}" if pd.notna(number) else row.outcome.replace("_", " ")
        lines.setdefault(line_name(row.teacher, "", row.epochs), {})[row.method] = text
    methods = [name for name in METHODS if name in set(part.method)]
    printed = pd.DataFrame.from_dict(lines, orient="index", columns=methods).fillna("not printed")
    return printed.rename_axis(columns="teacher and student")


def of_the_paper(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows whose teacher and data set are the paper's; its claims say nothing about others."""
    pairs = set(map(tuple, paper()[["teacher", "dataset"]].drop_duplicates().to_numpy()))
    return frame[np.array([pair in pairs for pair in zip(frame.teacher, frame.dataset, strict=True)], dtype=bool)]
