"""How far students have come: their score against the images that they have seen, and whether more would help."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from kdlib.evaluate.convergence import convergence
from kdlib.report import display, exhibits
from kdlib.report.scores import line_name, seeds_of, summary_of
from kdlib.report.style import GREY, colour

STYLES = ("-", "--", ":", "-.")


def images_seen_points(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a student and number of epochs: images seen, and the score with its interval as shares of the teacher's."""
    good = rows[(rows.outcome == "ok") & rows.images_seen.notna()]
    key = ["teacher", "dataset", "method", "variant", "epochs"]
    lines = []
    for values, group in good.groupby(key, sort=False):
        score, whole = summary_of(group), group.teacher_score.mean()
        shares = {name: getattr(score, name) / whole for name in ("mean", "low", "high")}
        lines.append(dict(zip(key, values, strict=True)) | {"images_seen": group.images_seen.mean()} | shares)
    return pd.DataFrame(lines, columns=[*key, "images_seen", "mean", "low", "high"])


def images_seen_drawn(points: pd.DataFrame) -> Figure:
    """A panel a teacher, a line a student, images on a logarithmic axis."""
    teachers = list(points.groupby(["teacher", "dataset"], sort=False))
    rows = -(-len(teachers) // 2)
    drawn, grid = plt.subplots(rows, 2, figsize=(9.5, 3.4 * rows + 0.6), layout="constrained", squeeze=False)
    lines = {}
    for axes, ((teacher, dataset), part) in zip(grid.flat, teachers, strict=False):
        for place, ((method, variant), line) in enumerate(part.groupby(["method", "variant"], sort=False)):
            bars = [line["mean"] - line.low, line.high - line["mean"]]
            name = line_name(method, variant)
            lines[name] = axes.errorbar(
                line.images_seen, line["mean"], yerr=bars, marker="o", ms=4, lw=1.2, elinewidth=0.8,
                color=colour(method), ls=STYLES[place % len(STYLES)],
            )  # fmt: skip
        lines["teacher"] = axes.axhline(1, color=GREY, ls="--", lw=1)
        axes.set(
            xscale="log", xlabel="training images seen (log)", ylabel="share of the teacher's score", ylim=(0, None)
        )
        axes.set_title(f"{teacher} on {dataset}", fontsize=10)
    for axes in grid.flat[len(teachers) :]:
        axes.remove()
    drawn.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=3, fontsize=8)
    return drawn


def images_seen(rows: pd.DataFrame) -> None:
    """The figure of every student of a study, and its numbers."""
    points = images_seen_points(rows)
    if len(points):
        alt = "Score as a share of the teacher's against the training images seen, a panel a teacher."
        exhibits.figure(images_seen_drawn(points), alt, points, exhibits.report_of(rows), "images-seen")


def convergences(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a student that was cooled down at E and at 2E epochs: what the second brought on dev, and the verdict."""
    good = rows[(rows.outcome == "ok")]
    good = good[good.dev.notna()] if "dev" in good else good.head(0)
    lines = []
    for (teacher, dataset, method, variant), part in good.groupby(
        ["teacher", "dataset", "method", "variant"], sort=False
    ):
        budgets = sorted(part.epochs.unique())
        for early in budgets:
            if 2 * early in budgets:
                sides = [seeds_of(part[part.epochs == epochs], "dev", "") for epochs in (early, 2 * early)]
                found = convergence(*sides[0], *sides[1])
                student = line_name(method, variant)
                line = {"teacher": teacher, "dataset": dataset, "student": student, "epochs": f"{early}, {2 * early}"}
                lines.append(line | {"what twice the epochs bring on dev": str(found)})
    return pd.DataFrame(lines)


def converged(rows: pd.DataFrame) -> None:
    """Whether each student has converged, in a table."""
    found = convergences(rows)
    if found.empty:
        display.words("No student was cooled down at E and at 2E epochs, so that none can be said to have converged.")
        return
    caption = "The cooled-down student at 2E epochs against that at E, paired on dev: [95 % interval]"
    exhibits.table(found, caption, exhibits.report_of(rows), "convergence", index=False, prose=True)
