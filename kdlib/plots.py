"""Figures of runs and studies: one style, colours that work for the colour-blind, a method always the same."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from kdlib.study import METHODS
from kdlib.table import summary_of
from kdlib.verdicts import NO_TEACHER

PALETTE = dict(zip(METHODS, sns.color_palette("colorblind", len(METHODS)), strict=True))
MARKERS = dict(zip(METHODS, "osD^vP", strict=True))
GREY = "#6e7781"
NAMES = {"mean_recall": "mean recall of R@1, R@5, R@10 both ways", "knn@20_top1": "k-NN top-1 (k = 20)"}
sns.set_theme(style="whitegrid", context="notebook", rc={"figure.dpi": 100, "savefig.dpi": 100})


def colour(method: str):
    return PALETTE.get(method, GREY)


def score_name(headline: str) -> str:
    """The headline score in words, for an axis."""
    return NAMES.get(headline, headline)


# ---------------------------------------------------------------- a whole study


def size_against_score(frame: pd.DataFrame) -> Figure:
    """Size of the student alone, and of all that runs, against the headline score at the largest budget."""
    good = frame[(frame.outcome == "ok") & (frame.variant == "")]
    good = good[good.epochs == good.epochs.max()]
    pairs = list(dict.fromkeys(zip(good.teacher, good.dataset, strict=True)))
    figure, grid = plt.subplots(
        len(pairs), 2, figsize=(9.5, 2.7 * len(pairs)), layout="constrained", squeeze=False, sharey="row"
    )
    for line, (teacher, dataset) in enumerate(pairs):
        part = good[(good.teacher == teacher) & (good.dataset == dataset)]
        for axes, size, name in zip(grid[line], ("student_mb", "deployed_mb"), ("student", "deployed"), strict=True):
            for method, cells in part.groupby("method", sort=False):
                axes.scatter(
                    cells[size],
                    cells.student,
                    s=70,
                    color=colour(method),
                    marker=MARKERS.get(method, "o"),
                    label=method,
                )
            axes.axhline(part.teacher_score.mean(), color=GREY, ls="--", lw=1, label="teacher")
            axes.set(
                xscale="log", xlabel=f"MB, {name}", ylim=(0, 1.12 * max(part.student.max(), part.teacher_score.max()))
            )
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
            axes.set_title(f"{teacher} on {dataset}", fontsize=10)
        grid[line, 0].set_ylabel(_short(part.headline.iloc[0]))
    grid[0, 1].legend(fontsize=8, bbox_to_anchor=(1.02, 1), loc="upper left")
    return figure


def _short(headline: str) -> str:
    return {"mean_recall": "mean recall", "knn@20_top1": "k-NN top-1"}.get(headline, headline)


def score_by_epochs(frame: pd.DataFrame) -> Figure:
    """Headline score at each budget with its interval, a panel a teacher, a line a method.

    Dashed and hollow: the same network trained without a teacher. Dashed grey: the teacher.
    """
    good = frame[(frame.outcome == "ok") & frame.variant.isin(("", NO_TEACHER))]
    pairs = list(dict.fromkeys(zip(good.teacher, good.dataset, strict=True)))
    figure, row = plt.subplots(
        1, len(pairs), figsize=(2.7 * len(pairs) + 1.2, 3.2), layout="constrained", squeeze=False
    )
    for axes, (teacher, dataset) in zip(row[0], pairs, strict=True):
        part = good[(good.teacher == teacher) & (good.dataset == dataset)]
        lines = list(part.groupby(["method", "variant"], sort=False))
        for place, ((method, variant), cells) in enumerate(lines):
            points = {epochs: summary_of(group) for epochs, group in cells.groupby("epochs")}
            mean = np.array([point.mean for point in points.values()])
            bounds = np.array([[point.low, point.high] for point in points.values()]).T
            shift = 0.12 * (place - (len(lines) - 1) / 2)  # side by side, so that every interval can be seen
            axes.errorbar(
                np.array(list(points)) + shift,
                mean,
                yerr=np.abs(bounds - mean),
                marker=MARKERS.get(method, "o"),
                color=colour(method),
                label=f"{method}, no teacher" if variant else method,
                ls="--" if variant else "-",
                markerfacecolor="white" if variant else None,
                lw=1.2,
                elinewidth=0.9,
                ms=5,
            )
        axes.axhline(part.teacher_score.mean(), color=GREY, ls="--", lw=1, label="teacher")
        highest = max(part.student.max(), part.teacher_score.max())
        axes.set(xlabel="epochs", xticks=sorted(part.epochs.unique()), ylim=(0, 1.15 * highest))
        axes.set_ylabel(_short(part.headline.iloc[0]))
        axes.set_title(f"{teacher} on {dataset}", fontsize=10)
    row[0, -1].legend(fontsize=8, bbox_to_anchor=(1.02, 1), loc="upper left")
    return figure


def seconds_per_epoch(frame: pd.DataFrame) -> Figure:
    """Training seconds an epoch, by method and teacher; the teacher's features come from the store."""
    good = frame[(frame.outcome == "ok") & (frame.variant == "")]
    order = [method for method in METHODS if method in set(good.method)]
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    good = good.assign(name=good.teacher + " on " + good.dataset)
    sns.barplot(
        good,
        x="method",
        y="seconds_per_epoch",
        hue="name",
        order=order,
        ax=axes,
        palette="Greys_d",
        errorbar=None,
    )
    axes.set(xlabel="", ylabel="seconds an epoch (log)", yscale="log")
    axes.legend(fontsize=8, title="", bbox_to_anchor=(1.01, 1), loc="upper left")
    return figure
