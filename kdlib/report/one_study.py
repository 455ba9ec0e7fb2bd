"""A study as its report finds it: its rows, its verdicts, and what every caption says of it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from kdlib.files import file_digest, reports_root
from kdlib.report import display
from kdlib.report import rows as results
from kdlib.report.scores import of_the_paper
from kdlib.report.style import dataset_name
from kdlib.report.verdicts import COLUMNS

BRACKETS = "[ ]: 95 % interval over test images (1,000 bootstrap resamples)"


@dataclass(frozen=True, eq=False)
class Study:
    """A study as ``kdlib report`` left it: its rows, one an experiment, its verdicts, and the folder they lie in."""

    name: str
    folder: Path
    rows: pd.DataFrame

    @property
    def good(self) -> pd.DataFrame:
        """The experiments that have a result."""
        return self.rows[self.rows.outcome == "ok"]

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """The comparisons; empty where there are none yet."""
        path = self.folder / "verdicts.csv"
        return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=COLUMNS)

    @cached_property
    def claims(self) -> pd.DataFrame:
        """The paper's claims as ``kdlib report`` judged them."""
        return pd.read_csv(self.folder / "claims.csv")

    @property
    def digest(self) -> str:
        """The SHA-256 of results.csv, which holds every number; the citation names it."""
        return file_digest(self.folder / "results.csv")


def read(name: str) -> Study:
    """Read the study of a report, and begin a page about it."""
    folder = reports_root() / name
    study = Study(name, folder, results.read(folder))
    display.begin(folder, facts(study))
    return study


def facts(study: Study) -> str:
    """What every caption ends with: study, data, images, seeds, stand-ins, and what the brackets are."""
    good = study.good
    if good.empty:
        return f"Study '{study.name}'."
    drawn = " (drawn shapes)" if (good.data_root == "shapes").any() else ""
    images = good.groupby("dataset", sort=False).images.max() if "images" in good else {}
    counted = ", ".join(f"{dataset_name(name)} {int(count):,}" for name, count in dict(images).items())
    seeds = good.seed.nunique()
    standins = "; stand-in teachers" if (good.teacher_source == "stand-in").any() else ""
    spread = "±: deviation over seeds; " if seeds > 1 else ""
    on = f"{good.score_on.iloc[0]} images" if "score_on" in good else "images"
    told = f"Study '{study.name}'{drawn}: {counted} {on}; {seeds} seed{'s' if seeds > 1 else ''}{standins}"
    return f"{told}. {spread}{BRACKETS}."


def claimed(study: Study) -> bool:
    """Whether the study has one of the paper's teachers on its data set, so that claims can be judged."""
    return len(of_the_paper(study.rows)) > 0
