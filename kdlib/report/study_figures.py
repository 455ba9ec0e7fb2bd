"""Figures of a whole study, each with the numbers that it draws.

``..._points`` gives the numbers, the function of the same name without it the figure. Methods look as in
:mod:`kdlib.report.style`, everywhere.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from kdlib.report.scores import methods_of, summary_of
from kdlib.report.style import GREY, MARKERS, colour
from kdlib.report.verdicts import NO_TEACHER

SIZES = {"student_mb": "student alone", "deployed_mb": "all that inference needs"}
SHORT = {"mean_recall": "mean recall", "knn@20_top1": "k-NN top-1"}
ROOM = 1.15  # above the highest score


def front(sizes, scores) -> np.ndarray:
    """(N,) whether nothing is as small and as good, and better in one of the two: the Pareto front."""
    sizes, scores = np.asarray(sizes, dtype=float), np.asarray(scores, dtype=float)
    no_worse = (sizes <= sizes[:, None]) & (scores >= scores[:, None])
    better = (sizes < sizes[:, None]) | (scores > scores[:, None])
    return ~(no_worse & better).any(axis=1)


def score_by_epochs_points(frame: pd.DataFrame) -> pd.DataFrame:
    """Headline score at each number of epochs: mean, deviation over seeds and 95 % interval, and the teacher's."""
    good = frame[(frame.outcome == "ok") & frame.variant.isin(("", NO_TEACHER))]
    key = ["teacher", "dataset", "method", "variant", "epochs"]
    lines = []
    for values, experiments in good.groupby(key, sort=False):
        score = summary_of(experiments)
        numbers = {"score": score.mean, "deviation": score.deviation, "low": score.low, "high": score.high}
        facts = {
            "seeds": score.seeds,
            "teacher_score": experiments.teacher_score.mean(),
            "headline": experiments.headline.iloc[0],
        }
        lines.append(dict(zip(key, values, strict=True)) | numbers | facts)
    names = [*key, "score", "deviation", "low", "high", "seeds", "teacher_score", "headline"]
    return pd.DataFrame(lines, columns=names)


def score_by_epochs(points: pd.DataFrame) -> Figure:
    """A panel a teacher, a line a method; dashed and hollow: the same network without a teacher."""
    pairs = _pairs(points)
    rows = -(-len(pairs) // 2)
    figure, grid = plt.subplots(rows, 2, figsize=(9.5, 3.0 * rows + 0.6), layout="constrained", squeeze=False)
    lines = {}
    for axes, (teacher, dataset) in zip(grid.flat, pairs, strict=False):
        part = points[(points.teacher == teacher) & (points.dataset == dataset)]
        own = list(part.groupby(["method", "variant"], sort=False))
        budgets = sorted(part.epochs.unique())
        step = 0.02 * max(budgets[-1] - budgets[0], 1)  # side by side, so that every interval can be seen
        for place, ((method, variant), line) in enumerate(own):
            name = f"{method}, no teacher" if variant else method
            lines[name] = axes.errorbar(
                line.epochs + step * (place - (len(own) - 1) / 2),
                line.score,
                yerr=_bars(line),
                marker=MARKERS.get(method, "o"),
                color=colour(method),
                ls="--" if variant else "-",
                markerfacecolor="white" if variant else None,
                lw=1.2,
                elinewidth=0.9,
                ms=5,
            )
        lines["teacher"] = axes.axhline(part.teacher_score.mean(), color=GREY, ls="--", lw=1)
        axes.set(xlabel="epochs", xticks=budgets, ylim=(0, ROOM * part[["high", "teacher_score"]].max(axis=None)))
        axes.set_ylabel(SHORT.get(part.headline.iloc[0], part.headline.iloc[0]))
        axes.set_title(f"{teacher} on {dataset}", fontsize=10)
    for axes in grid.flat[len(pairs) :]:
        axes.remove()
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=5, fontsize=9)
    return figure


def size_against_score_points(frame: pd.DataFrame) -> pd.DataFrame:
    """Each student at the most epochs: MB alone and deployed, score with its interval, and whether on which front."""
    own = frame[(frame.outcome == "ok") & (frame.variant == "")]
    own = own[own.epochs == own.epochs.max()]
    key = ["teacher", "dataset", "method"]
    points = score_by_epochs_points(own).merge(own.groupby(key, sort=False)[list(SIZES)].mean().reset_index(), on=key)
    for size in SIZES:
        points[f"front_{size}"] = False
        for _, part in points.groupby(key[:2]):
            points.loc[part.index, f"front_{size}"] = front(part[size], part.score)
    return points.drop(columns="variant")


def size_against_score(points: pd.DataFrame) -> Figure:
    """A line of panels a teacher: left the student alone, right all that runs. Filled: on the Pareto front."""
    pairs = _pairs(points)
    figure, grid = plt.subplots(
        len(pairs), 2, figsize=(9.5, 3.0 * len(pairs) + 0.6), layout="constrained", squeeze=False, sharey="row"
    )
    for line, (teacher, dataset) in enumerate(pairs):
        part = points[(points.teacher == teacher) & (points.dataset == dataset)]
        for axes, (size, words) in zip(grid[line], SIZES.items(), strict=True):
            best = part[part[f"front_{size}"]].sort_values(size)
            for point in part.itertuples():
                on_it = getattr(point, f"front_{size}")
                axes.errorbar(
                    getattr(point, size),
                    point.score,
                    yerr=[[max(0, point.score - point.low)], [max(0, point.high - point.score)]],
                    marker=MARKERS.get(point.method, "o"),
                    color=colour(point.method),
                    markerfacecolor=colour(point.method) if on_it else "white",
                    markeredgewidth=1.5,
                    elinewidth=0.9,
                    ms=8,
                    ls="none",
                    zorder=3,
                )
            largest = part[size].max()
            axes.step([*best[size], largest], [*best.score, best.score.max()], where="post", color="black", lw=1)
            axes.axhline(part.teacher_score.mean(), color=GREY, ls="--", lw=1)
            axes.set(xscale="log", xlabel=f"MB (log), {words}", xlim=(part[size].min() / 1.5, largest * 1.5))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_title(f"{teacher} on {dataset}\nfront: {', '.join(best.method)}", fontsize=10)
        grid[line, 0].set_ylim(0, ROOM * part[["high", "teacher_score"]].max(axis=None))
        grid[line, 0].set_ylabel(SHORT.get(part.headline.iloc[0], part.headline.iloc[0]))
    marks = _marks(points) | {
        "Pareto front": Line2D([], [], color="black", lw=1),
        "not on it": _mark(GREY, "o", "white"),
        "teacher": Line2D([], [], color=GREY, ls="--", lw=1),
    }
    figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=5, fontsize=9)
    return figure


def seconds_per_epoch_points(frame: pd.DataFrame) -> pd.DataFrame:
    """Training seconds an epoch of each student, teacher cached: mean, least and most over its experiments."""
    own = frame[(frame.outcome == "ok") & (frame.variant == "")]
    seconds = own.groupby(["teacher", "dataset", "method"], sort=False).seconds_per_epoch
    return seconds.agg(["mean", "min", "max", "count"]).reset_index().rename(columns={"count": "experiments"})


def seconds_per_epoch(points: pd.DataFrame) -> Figure:
    """A panel a teacher, a line a method, seconds on a logarithmic axis; bars reach from the least to the most."""
    pairs, methods = _pairs(points), methods_of(points)
    rows = -(-len(pairs) // 2)
    figure, grid = plt.subplots(
        rows, 2, figsize=(9.5, 2.4 * rows + 0.4), layout="constrained", squeeze=False, sharex=True, sharey=True
    )
    for axes, (teacher, dataset) in zip(grid.flat, pairs, strict=False):
        part = points[(points.teacher == teacher) & (points.dataset == dataset)]
        for point in part.itertuples():
            axes.errorbar(
                point.mean,
                methods.index(point.method),
                xerr=[[point.mean - point.min], [point.max - point.mean]],
                marker=MARKERS.get(point.method, "o"),
                color=colour(point.method),
                ms=7,
            )
            axes.annotate(f"{point.mean:.2g}", (point.max, methods.index(point.method)), xytext=(6, -3),
                          textcoords="offset points", fontsize=8)  # fmt: skip
        axes.set(xscale="log", yticks=range(len(methods)), yticklabels=methods, ylim=(len(methods) - 0.5, -0.5))
        axes.set_title(f"{teacher} on {dataset}", fontsize=10)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.margins(x=0.15)
    for axes in grid.flat[len(pairs) :]:
        axes.remove()
    for axes in figure.axes:
        axes.set_xlabel("seconds an epoch (log), teacher cached", fontsize=10)
        axes.tick_params(labelbottom=True)
    return figure


def _pairs(points: pd.DataFrame) -> list[tuple[str, str]]:
    return list(dict.fromkeys(zip(points.teacher, points.dataset, strict=True)))


def _bars(points: pd.DataFrame) -> np.ndarray:
    """(2, N) lengths of the interval below and above; a mean that lies outside has none on that side."""
    return np.clip([points.score - points.low, points.high - points.score], 0, None)


def one_against_other(points: pd.DataFrame) -> Figure:
    """Scores of study B against those of A, of :func:`kdlib.report.two_studies.compare`; filled: moved."""
    pairs = _pairs(points)
    rows = -(-len(pairs) // 2)
    figure, grid = plt.subplots(rows, 2, figsize=(9.5, 3.6 * rows + 0.6), layout="constrained", squeeze=False)
    for axes, (teacher, dataset) in zip(grid.flat, pairs, strict=False):
        part = points[(points.teacher == teacher) & (points.dataset == dataset)]
        for point in part.itertuples():
            axes.errorbar(
                point.a,
                point.b,
                xerr=_reach(point.a, point.a_low, point.a_high),
                yerr=_reach(point.b, point.b_low, point.b_high),
                marker=MARKERS.get(point.method, "o"),
                color=colour(point.method),
                markerfacecolor=colour(point.method) if point.moved in ("up", "down") else "white",
                elinewidth=0.9,
                ms=6,
                ls="none",
            )
        most = ROOM * part[["a", "b", "a_high", "b_high"]].max(axis=None)
        axes.axline((0, 0), slope=1, color=GREY, ls="--", lw=1)
        axes.set(xlim=(0, most), ylim=(0, most), xlabel="score in A", ylabel="score in B", aspect="equal")
        axes.set_title(f"{teacher} on {dataset}", fontsize=10)
    for axes in grid.flat[len(pairs) :]:
        axes.remove()
    marks = _marks(points) | {
        "moved": _mark(GREY, "o", GREY),
        "not moved": _mark(GREY, "o", "white"),
        "the same in both": Line2D([], [], color=GREY, ls="--", lw=1),
    }
    figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=5, fontsize=9)
    return figure


def _marks(points: pd.DataFrame) -> dict[str, Line2D]:
    """For a legend: each method as it looks when filled."""
    return {name: _mark(colour(name), MARKERS.get(name, "o"), colour(name)) for name in methods_of(points)}


def _mark(edge, marker: str, inside) -> Line2D:
    return Line2D([], [], color=edge, marker=marker, markerfacecolor=inside, markeredgewidth=1.5, ls="none", ms=7)


def _reach(score: float, low: float, high: float) -> list[list[float]]:
    """Lengths of an interval below and above; none where it is not known."""
    return [[np.nan_to_num(max(0.0, score - low))], [np.nan_to_num(max(0.0, high - score))]]
