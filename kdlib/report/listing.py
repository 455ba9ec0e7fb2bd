"""A table of every experiment of a study, with links to their pages, and one of those that failed."""

import html

import pandas as pd

from kdlib.report import display
from kdlib.report.scores import summary_of

FAILED = ("error", "kernel_died", "out_of_memory", "damaged")
# Column of the rows -> heading, unit included.
COLUMNS = {
    "page": "page",
    "method": "method",
    "student": "score",
    "teacher": "teacher",
    "epochs": "epochs",
    "variant": "variant",
    "seed": "seed",
    "dataset": "dataset",
    "outcome": "outcome",
    "interval": "95 % interval",
    "teacher_score": "teacher's score",
    "student_mb": "student MB",
    "deployed_mb": "deployed MB",
    "seconds_per_epoch": "s an epoch",
    "final_loss": "final loss",
    "exposure": "exposure",
}
DIGITS = {"student": 3, "teacher_score": 3, "student_mb": 2, "deployed_mb": 2, "seconds_per_epoch": 2, "final_loss": 3}


def experiments(rows: pd.DataFrame) -> None:
    """Every experiment with its outcome, numbers and a link to its page; to sort and filter where scripts may run."""
    frame = pd.DataFrame(index=rows.index)
    for name, heading in COLUMNS.items():
        if name == "interval":
            frame[heading] = [interval_text(rows.loc[[place]]) for place in rows.index]
        elif name == "page":
            frame[heading] = [link(row) for row in rows.to_dict("records")]
        elif name in rows:
            frame[heading] = [_text(value, DIGITS.get(name)) for value in rows[name]]
    display.table(frame, f"{len(rows)} experiments; 'score' is the student's headline score", False, kind="experiments")


def failures(rows: pd.DataFrame) -> None:
    """The experiments that ended without a result, each with its error and how far it came; nothing without any."""
    bad = rows[rows.outcome.isin(FAILED)]
    if bad.empty:
        return
    names = ["teacher", "dataset", "method", "variant", "epochs", "seed", "outcome"]
    frame = bad[names].map(_text)
    frame["error"] = [_text(value) for value in bad.get("error", pd.Series("", index=bad.index))]
    frame["page"] = [link(row) for row in bad.to_dict("records")]
    said = f"{len(bad)} of {len(rows)} experiments have no result; 'kdlib run' tries them again"
    with display.fold(said, "failures"):
        display.table(frame, "Without a number in tables and verdicts", False, kind="prose")


def interval_text(experiment: pd.DataFrame) -> str:
    """'[0.551, 0.593]' of one experiment; '' where it has no result."""
    if experiment.outcome.iloc[0] != "ok":
        return ""
    score = summary_of(experiment)
    return f"[{score.low:.3f}, {score.high:.3f}]"


def link(row: dict) -> display.Markup:
    """A link to an experiment's page, with its name for screen readers; '' if there is no page."""
    page = row.get("page")
    if not isinstance(page, str) or not page:
        return display.Markup("")
    names = [str(row[name]) for name in ("teacher", "dataset", "method", "variant") if row[name]]
    words = " ".join([*names, f"{row['epochs']} epochs, seed {row['seed']}"])
    return display.Markup(f'<a href="{html.escape(page)}" aria-label="open {html.escape(words)}">open</a>')


def _text(value, digits: int | None = None) -> str:
    if pd.isna(value):
        return ""
    if digits is not None:
        return f"{value:.{digits}f}"
    return str(value).replace("_", " ") if value in FAILED else str(value)
