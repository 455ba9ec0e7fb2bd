"""The one table of a study: its students beside their controls, for each teacher, after the most epochs."""

import numpy as np
import pandas as pd

from kdlib.evaluate.uncertainty import OPEN
from kdlib.report.display import Strong
from kdlib.report.findings import as_methods, at_the_end, teacher_mb
from kdlib.report.scores import line_name, methods_of, number
from kdlib.report.style import EXPORTED, dataset_name, short_name, teacher_name
from kdlib.report.verdicts import NO_TEACHER

SCORE, UNTRAINED, ALONE, SIZE = "score", "untrained", "no teacher", "MB"
LIKE = " ≈"  # not distinguishable from the best
CAPTION = (
    "Students after the most epochs, beside their controls. Bold: the best of a teacher's students; ≈: not "
    "distinguishable from it (paired bootstrap, Holm-corrected). Untrained: the same student before training; no "
    "teacher: the same network trained on labels or captions alone; PCA: of the teacher's features at the student's "
    "width, which nobody trained; MB: all that inference needs"
)


def main_table(rows: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """Methods by teachers; columns (teacher on data: score name, one of score, untrained, no teacher, MB)."""
    last = as_methods(at_the_end(rows))
    if last.empty:
        return pd.DataFrame()
    methods = methods_of(last[last.variant == ""])
    columns: dict[tuple[str, str], dict[str, object]] = {}
    for (teacher, dataset, headline), part in last.groupby(["teacher", "dataset", "headline"], sort=False):
        head = f"{teacher_name(teacher)}, {dataset_name(dataset)}: {short_name(headline)}"
        own = dict(iter(part[part.variant == ""].groupby("method", sort=False)))
        if not own:
            continue
        columns |= {(head, name): column for name, column in _columns(part, own, verdicts).items() if column}
    controls = ["teacher itself", "PCA"]
    exported = [name for name in dict.fromkeys(name for column in columns.values() for name in column)
                if name not in (*controls, *methods)]  # fmt: skip
    frame = pd.DataFrame(columns, index=[*controls, *methods, *exported], dtype=object)
    return frame.fillna("")


def _columns(part: pd.DataFrame, own: dict[str, pd.DataFrame], verdicts: pd.DataFrame) -> dict[str, dict[str, object]]:
    any_of = next(iter(own.values()))
    scores: dict[str, object] = {"teacher itself": number(any_of, "teacher"), "PCA": number(any_of, "pca")}
    means = {method: group.student.mean() for method, group in own.items()}
    best = max(means, key=means.get)
    alike = like(part, best, verdicts)
    for method, group in own.items():
        text = number(group)
        scores[method] = (
            Strong(text) if method == best else text.replace(" [", f"{LIKE} [", 1) if method in alike else text
        )
    alone = part[(part.variant == NO_TEACHER) & (part.epochs == any_of.epochs.iloc[0])]
    sizes: dict[str, object] = {method: f"{group.deployed_mb.mean():.1f}" for method, group in own.items()}
    megabytes = teacher_mb(part)
    if np.isfinite(megabytes):
        sizes |= {"teacher itself": f"{megabytes:.1f}", "PCA": f"{megabytes:.1f}"}
    for who, words in EXPORTED.items():
        for row in part[part[who].notna()].itertuples() if who in part else ():
            name = f"{line_name(row.method, row.variant)}, exported {words}"
            low, high = getattr(row, f"{who}_low"), getattr(row, f"{who}_high")
            scores[name] = f"{getattr(row, who):.3f} [{low:.3f}, {high:.3f}]"
            sizes[name] = f"{getattr(row, f'{who}_mb'):.1f}"
    return {
        SCORE: scores,
        UNTRAINED: {method: _mean(group.untrained) for method, group in own.items()},
        ALONE: {method: _mean(group.student) for method, group in alone.groupby("method", sort=False)},
        SIZE: sizes,
    }


def like(part: pd.DataFrame, best: str, verdicts: pd.DataFrame) -> set[str]:
    """The methods of one teacher that are not distinguishable from its best."""
    first = part.iloc[0]
    names = {line_name(row.method, "", row.epochs): row.method for row in part[part.variant == ""].itertuples()}
    found = verdicts[
        (verdicts.question == "technique")
        & (verdicts.teacher == first.teacher)
        & (verdicts.dataset == first.dataset)
        & (verdicts.verdict == OPEN)
    ]
    pairs = [(names.get(row.a), names.get(row.b)) for row in found.itertuples()]
    return {one for pair in pairs for one in pair if best in pair and one not in (best, None)}


def _mean(values: pd.Series) -> str:
    return f"{values.mean():.3f}"
