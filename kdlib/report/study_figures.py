"""Figures of a whole study, each with the numbers that it draws.

``..._points`` gives the numbers, the function of the same name without it the figure, for a screen or for a phone
(``narrow``). Methods look as in :mod:`kdlib.report.style`, everywhere.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, PercentFormatter

from kdlib.report import style
from kdlib.report.findings import as_methods, at_the_end, teacher_mb
from kdlib.report.scores import methods_of, summary_of
from kdlib.report.style import EXPORTED, GREY, INK, colour, dataset_name, marker, short_name, teacher_name
from kdlib.report.verdicts import NO_TEACHER

ROOM = 1.12  # above the highest score
FILLS = ("full", "none", "left", "top", "right", "bottom")  # of markers: which teacher's student it is
KEY = ["teacher", "dataset", "method", "variant", "epochs"]


def front(sizes, scores) -> np.ndarray:
    """(N,) whether nothing is as small and as good, and better in one of the two: the Pareto front."""
    sizes, scores = np.asarray(sizes, dtype=float), np.asarray(scores, dtype=float)
    no_worse = (sizes <= sizes[:, None]) & (scores >= scores[:, None])
    better = (sizes < sizes[:, None]) | (scores > scores[:, None])
    return ~(no_worse & better).any(axis=1)


# ---------------------------------------------------------------- the one picture


def size_points(frame: pd.DataFrame) -> pd.DataFrame:
    """What could be deployed: students at the end, exported files, teachers; MB, score, interval, on the front or not.

    ``kind``: student, teacher, onnx or onnx_int8. The front is among all that is scored alike on a data set.
    """
    lines = []
    last = as_methods(at_the_end(frame))
    for (teacher, dataset, headline), part in last.groupby(["teacher", "dataset", "headline"], sort=False):
        facts = {"teacher": teacher, "dataset": dataset, "headline": headline}
        own = part[part.variant == ""]
        for method, group in own.groupby("method", sort=False):
            lines.append(facts | {"kind": "student", "method": method, "mb": group.deployed_mb.mean()} | _score(group))
        for who in EXPORTED:
            for row in part[part[who].notna()].itertuples() if who in part else ():
                numbers = {
                    "score": getattr(row, who),
                    "low": getattr(row, f"{who}_low"),
                    "high": getattr(row, f"{who}_high"),
                }
                lines.append(facts | {"kind": who, "method": row.method, "mb": getattr(row, f"{who}_mb")} | numbers)
        lines.append(facts | {"kind": "teacher", "method": "teacher", "mb": teacher_mb(part)} | _score(part, "teacher"))
    points = pd.DataFrame(
        lines, columns=["teacher", "dataset", "headline", "kind", "method", "mb", "score", "low", "high"]
    )
    points["front"] = False
    for _, part in points[points.mb.notna()].groupby(["dataset", "headline"]):
        told = [float(f"{size:.2g}") for size in part.mb]  # 1.68 and 1.70 MB are the same size
        points.loc[part.index, "front"] = front(told, part.score)
    return points


def _score(group: pd.DataFrame, who: str = "student") -> dict[str, float]:
    found = summary_of(group, who)
    return {"score": found.mean, "low": found.low, "high": found.high}


def training_points(frame: pd.DataFrame) -> pd.DataFrame:
    """Headline score at each number of epochs: mean, deviation over seeds, 95 % interval, share of the teacher's."""
    told = as_methods(frame[frame.outcome == "ok"])
    good = told[told.variant.isin(("", NO_TEACHER))]
    lines = []
    for values, experiments in good.groupby(KEY, sort=False):
        score, teacher = summary_of(experiments), experiments.teacher_score.mean()
        numbers = {"score": score.mean, "deviation": score.deviation, "low": score.low, "high": score.high}
        facts = {
            "seeds": score.seeds,
            "teacher_score": teacher,
            "share": score.mean / teacher if teacher > 0 else np.nan,
            "images_seen": _seen(experiments),
            "headline": experiments.headline.iloc[0],
        }
        lines.append(dict(zip(KEY, values, strict=True)) | numbers | facts)
    names = [*KEY, "score", "deviation", "low", "high", "seeds", "teacher_score", "share", "images_seen", "headline"]
    return pd.DataFrame(lines, columns=names)


def _seen(experiments: pd.DataFrame) -> float:
    """Training images that a student has seen: repeated ones count each time."""
    if "images_seen" in experiments and experiments.images_seen.notna().all():
        return experiments.images_seen.mean()
    return (experiments.epochs * experiments.train_images).mean()


def overview(sizes: pd.DataFrame, training: pd.DataFrame, narrow: bool) -> Figure:
    """For each data set quality against deployed MB; a second panel, if some trained longer, by images seen."""
    pairs = list(dict.fromkeys(zip(sizes.dataset, sizes.headline, strict=True)))
    own = training[training.variant == ""]
    longer = trained_longer(training)
    count = len(pairs) + sum(dataset in longer for dataset, _ in pairs)
    width = 13.4 / min(4, max(2, count))
    figure, axes = style.panels(count, narrow, 4, (width, 2.9 if narrow else 3.1), 1.3 if narrow else 0.4)
    methods = methods_of(sizes[sizes.kind == "student"])
    panels = iter(axes)
    for dataset, headline in pairs:
        part = sizes[(sizes.dataset == dataset) & (sizes.headline == headline)]
        teachers = list(dict.fromkeys(part.teacher))
        _sizes_panel(next(panels), part, teachers, methods)
        if dataset in longer:
            shown = own[(own.dataset == dataset) & (own.headline == headline)]
            _training_panel(next(panels), shown, teachers, methods)
    fills = _fills(sizes)
    handles = style.marks(methods) | {name: Line2D([], [], color=GREY, marker="o", fillstyle=fill, ls="none", ms=7)
                       for name, fill in fills.items()}  # fmt: skip
    if (sizes[sizes.front].groupby(["dataset", "headline"]).size() > 1).any():
        handles["Pareto front"] = Line2D([], [], color=INK, lw=1)
    if sizes.kind.isin(EXPORTED).any():
        handles["dark rim: exported"] = style.mark("o", INK, "white")
    style.legend(figure, handles, narrow, 12)
    return figure


def trained_longer(training: pd.DataFrame) -> set[str]:
    """Data sets in which a student was scored after more than one number of epochs, of :func:`training_points`."""
    own = training[training.variant == ""]
    budgets = own.groupby(["dataset", "teacher", "method"]).epochs.nunique()
    return set(budgets[budgets > 1].index.get_level_values("dataset"))


def _fills(sizes: pd.DataFrame) -> dict[str, str]:
    """How the students of each teacher are filled, 'of CLIP, DINO' -> 'full'."""
    names: dict[str, list[str]] = {}
    for _, part in sizes.groupby("dataset", sort=False):
        for fill, teacher in zip(FILLS, dict.fromkeys(part.teacher), strict=False):
            if teacher_name(teacher) not in names.setdefault(fill, []):
                names[fill].append(teacher_name(teacher))
    return {f"of {', '.join(teachers)}": fill for fill, teachers in names.items()} if len(names) > 1 else {}


def _sizes_panel(axes, part: pd.DataFrame, teachers: list[str], methods: list[str]) -> None:
    shown = part[part.mb.notna()]
    for point in shown.itertuples():
        fill = FILLS[teachers.index(point.teacher) % len(FILLS)]
        if point.kind == "teacher":
            look = {
                "marker": "|",
                "color": INK,
                "ms": 16,
                "mew": 2.5,
                "zorder": 5,
            }  # over its students, which lie there
            style.point(axes, point.mb, point.score, point.low, point.high, "", **look)
            axes.annotate(teacher_name(point.teacher), (point.mb, point.score), xytext=(14, 0), va="center",
                          textcoords="offset points", fontsize=9, color=INK, zorder=5)  # fmt: skip
            continue
        look = {"marker": marker(point.method, methods), "fillstyle": fill, "mew": 1.4}
        if point.kind in EXPORTED:
            look |= {"mec": INK}
        style.point(axes, point.mb, point.score, point.low, point.high, point.method, **look)
    best = shown[shown.front].sort_values("mb")
    smallest, largest = (shown.mb.min(), shown.mb.max()) if len(shown) else (1.0, 1.0)
    axes.step(best.mb, best.score, where="post", color=INK, lw=1)
    for point in part[(part.kind == "teacher") & part.mb.isna()].itertuples():
        axes.axhline(point.score, color=GREY, ls="--", lw=1)
        axes.annotate(teacher_name(point.teacher), (1, point.score), xycoords=("axes fraction", "data"), ha="right",
                      xytext=(-2, 3), textcoords="offset points", fontsize=9, color=INK)  # fmt: skip
    axes.set(xscale="log", xlabel="MB deployed (log)", xlim=(smallest / 1.3, largest * 2.6))
    axes.set(ylim=(0, ROOM * part[["high", "score"]].max(axis=None)), ylabel=short_name(part.headline.iloc[0]))
    axes.set_title(f"{dataset_name(part.dataset.iloc[0])}: quality and size")
    _logarithmic(axes)


def _training_panel(axes, part: pd.DataFrame, teachers: list[str], methods: list[str]) -> None:
    for (teacher, method), line in part.groupby(["teacher", "method"], sort=False):
        fill = FILLS[teachers.index(teacher) % len(FILLS)]
        line = line.sort_values("images_seen")
        axes.plot(line.images_seen, line.share, marker=marker(method, methods), color=colour(method), fillstyle=fill,
                  lw=1.1, ms=6, mew=1.3)  # fmt: skip
    axes.axhline(1, color=GREY, ls="--", lw=1)
    top = part.share.max() if part.share.notna().any() else 1.0
    axes.set(ylim=(0, max(1.05, min(ROOM * top, 2.0))))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(ylabel="of the teacher's score")
    axes.set_title(f"{dataset_name(part.dataset.iloc[0])}: more training")
    images_axis(axes, part.images_seen)


def images_axis(axes, images: pd.Series) -> None:
    """A logarithmic axis of images seen, with their own numbers where they are few."""
    axes.set(xscale="log", xlabel="images seen (log)")
    seen = sorted(images.round().unique())
    if 1 < len(seen) <= 4:
        axes.set_xlim(seen[0] / 1.3, seen[-1] * 1.3)
        axes.xaxis.set_major_locator(FixedLocator(apart(seen)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        _logarithmic(axes)


def apart(values: list[float], ratio: float = 1.5) -> list[float]:
    """Of ascending values those whose labels have room on a logarithmic axis: each ``ratio`` times the one before."""
    kept: list[float] = []
    for value in values:
        if not kept or value >= ratio * kept[-1]:
            kept.append(value)
    return kept


def _logarithmic(axes) -> None:
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=7))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}" if value < 1e6 else f"{value / 1e6:g}M")
    axes.xaxis.set_minor_locator(NullLocator())


# ---------------------------------------------------------------- the rest


def training(points: pd.DataFrame, narrow: bool) -> Figure:
    """A panel a teacher, a line a method; dashed and hollow: the same network without a teacher."""
    pairs = _pairs(points)
    figure, grid = style.panels(len(pairs), narrow, 4 if len(pairs) > 2 else 2, (3.3, 2.9), 1.4 if narrow else 0.7)
    lines = {}
    for axes, (teacher, dataset) in zip(grid, pairs, strict=True):
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
                marker=marker(method, methods_of(points)),
                color=colour(method),
                ls="--" if variant else "-",
                markerfacecolor="white" if variant else None,
                lw=1.2,
                elinewidth=0.9,
                ms=5,
            )
        lines["teacher"] = axes.axhline(part.teacher_score.mean(), color=GREY, ls="--", lw=1)
        axes.set(xlabel="epochs", xticks=budgets, ylim=(0, ROOM * part[["high", "teacher_score"]].max(axis=None)))
        axes.set(ylabel=short_name(part.headline.iloc[0]), title=f"{teacher_name(teacher)} on {dataset_name(dataset)}")
    style.legend(figure, lines, narrow, 5)
    return figure


def seconds_points(frame: pd.DataFrame) -> pd.DataFrame:
    """Training seconds an epoch of each student, teacher cached: mean, least and most over its timed epochs."""
    lines = []
    own = frame[(frame.outcome == "ok") & (frame.variant == "")]
    for (teacher, dataset, method), part in own.groupby(["teacher", "dataset", "method"], sort=False):
        timed = epoch_seconds(part)
        numbers = {"mean": timed.mean(), "min": timed.min(), "max": timed.max(), "epochs": len(timed)}
        lines.append({"teacher": teacher, "dataset": dataset, "method": method} | numbers)
    return pd.DataFrame(lines, columns=["teacher", "dataset", "method", "mean", "min", "max", "epochs"])


def epoch_seconds(part: pd.DataFrame) -> np.ndarray:
    """Seconds of each epoch that experiments were timed in; a longer training holds the epochs of a shorter one."""
    longest = part.loc[part.groupby(["variant", "seed"]).epochs.idxmax()]
    listed = longest.get("epoch_seconds", pd.Series("", index=longest.index)).fillna("").astype(str)
    found = [float(value) for text in listed for value in text.split()]
    return np.array(found) if found else part.seconds_per_epoch.to_numpy(dtype=float)


def seconds(points: pd.DataFrame, narrow: bool) -> Figure:
    """A panel a teacher, a line a method, seconds on a logarithmic axis; bars reach from the least to the most."""
    pairs, methods = _pairs(points), methods_of(points)
    figure, grid = style.panels(len(pairs), narrow, 2, (4.7, 0.9 + 0.27 * len(methods)), 0.2)
    for axes, (teacher, dataset) in zip(grid, pairs, strict=True):
        part = points[(points.teacher == teacher) & (points.dataset == dataset)]
        for point in part.itertuples():
            place = methods.index(point.method)
            reach = [[point.mean - point.min], [point.max - point.mean]]
            look = {"marker": marker(point.method, methods), "color": colour(point.method), "ms": 7}
            axes.errorbar(point.mean, place, xerr=reach, **look)
            axes.annotate(
                f"{point.mean:.2g}", (point.max, place), xytext=(6, -3), textcoords="offset points", fontsize=9
            )
        axes.set(xscale="log", yticks=range(len(methods)), yticklabels=methods, ylim=(len(methods) - 0.5, -0.5))
        axes.set(title=f"{teacher_name(teacher)} on {dataset_name(dataset)}", xlabel="seconds an epoch (log)")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.margins(x=0.15)
    return figure


def one_against_other(points: pd.DataFrame, narrow: bool) -> Figure:
    """Scores of study B against those of A, of :func:`kdlib.report.two_studies.compare`; filled: moved."""
    pairs = _pairs(points)
    figure, grid = style.panels(len(pairs), narrow, 4 if len(pairs) > 2 else 2, (3.3, 3.3), 1.2 if narrow else 0.6)
    for axes, (teacher, dataset) in zip(grid, pairs, strict=True):
        part = points[(points.teacher == teacher) & (points.dataset == dataset)]
        for point in part.itertuples():
            inside = colour(point.method) if point.moved in ("up", "down") else "white"
            across = np.nan_to_num([[max(0.0, point.a - point.a_low)], [max(0.0, point.a_high - point.a)]])
            look = {"markerfacecolor": inside, "xerr": across}
            style.point(axes, point.a, point.b, point.b_low, point.b_high, point.method, **look)
        most = ROOM * part[["a", "b", "a_high", "b_high"]].max(axis=None)
        axes.axline((0, 0), slope=1, color=GREY, ls="--", lw=1)
        axes.set(xlim=(0, most), ylim=(0, most), xlabel="score in A", ylabel="score in B", aspect="equal")
        axes.set_title(f"{teacher_name(teacher)} on {dataset_name(dataset)}")
    marks = style.marks(methods_of(points)) | {
        "moved": style.mark("o", GREY, GREY),
        "not moved": style.mark("o", GREY, "white"),
        "the same in both": Line2D([], [], color=GREY, ls="--", lw=1),
    }
    style.legend(figure, marks, narrow, 6)
    return figure


def _pairs(points: pd.DataFrame) -> list[tuple[str, str]]:
    return list(dict.fromkeys(zip(points.teacher, points.dataset, strict=True)))


def _bars(points: pd.DataFrame) -> np.ndarray:
    """(2, N) lengths of the interval below and above; a mean that lies outside has none on that side."""
    return np.clip([points.score - points.low, points.high - points.score], 0, None)
