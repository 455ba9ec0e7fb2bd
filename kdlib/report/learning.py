"""Learning curves: scores against the training images seen, and whether each student has converged."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from kdlib.evaluate.convergence import convergence
from kdlib.report import display, style
from kdlib.report.one_study import Study
from kdlib.report.scores import line_name, seeds_of, summary_of
from kdlib.report.study_figures import images_axis
from kdlib.report.style import GREY, colour, dataset_name, teacher_name

STYLES = ("-", "--", ":", "-.")


def images_seen_points(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a student and number of epochs: images seen, and the score with its interval as shares of the teacher's."""
    good = rows[(rows.outcome == "ok") & rows.images_seen.notna() & (rows.teacher_score > 0)]
    good = good[~good.untrained_teacher.astype(bool)]  # a share of a teacher at chance says nothing
    key = ["teacher", "dataset", "method", "variant", "epochs"]
    lines = []
    for values, group in good.groupby(key, sort=False):
        score, whole = summary_of(group), group.teacher_score.mean()
        shares = {name: getattr(score, name) / whole for name in ("mean", "low", "high")}
        lines.append(dict(zip(key, values, strict=True)) | {"images_seen": group.images_seen.mean()} | shares)
    return pd.DataFrame(lines, columns=[*key, "images_seen", "mean", "low", "high"])


def images_seen_drawn(points: pd.DataFrame, narrow: bool) -> Figure:
    """A panel a teacher, a line a student, images on a logarithmic axis."""
    teachers, lines, looks = list(points.groupby(["teacher", "dataset"], sort=False)), {}, _looks(points)
    drawn, panels = style.panels(len(teachers), narrow, 2, (6.5, 3.4), 2.0 if narrow else 0.9)
    for axes, ((teacher, dataset), part) in zip(panels, teachers, strict=True):
        for (method, variant), line in part.groupby(["method", "variant"], sort=False):
            bars = np.clip([line["mean"] - line.low, line.high - line["mean"]], 0, None)
            lines[line_name(method, variant)] = axes.errorbar(
                line.images_seen, line["mean"], yerr=bars, marker="o", ms=4, lw=1.2, elinewidth=0.8,
                **looks[method, variant],
            )  # fmt: skip
        lines["teacher"] = axes.axhline(1, color=GREY, ls="--", lw=1)
        axes.set(ylabel="of the teacher's score", ylim=(0, None))
        images_axis(axes, part.images_seen)
        axes.set_title(f"{teacher_name(teacher)} on {dataset_name(dataset)}")
    style.legend(drawn, lines, narrow, 3)
    return drawn


def _looks(points: pd.DataFrame) -> dict[tuple[str, str], dict]:
    """Colour and dashes of each (method, variant): the method's colour; of one method alone, a colour for each line."""
    lines = points.drop_duplicates(["method", "variant"])
    places, alone = lines.groupby("method").cumcount(), lines.method.nunique() == 1
    colours = sns.color_palette("colorblind")
    looks = {}
    for method, variant, place in zip(lines.method, lines.variant, places, strict=True):
        dashes, own = divmod(place, len(colours)) if alone else (place, None)
        shown = colour(method) if own is None else colours[own]
        looks[method, variant] = {"color": shown, "ls": STYLES[dashes % len(STYLES)]}
    return looks


def images_seen(study: Study, name: str = "images-seen") -> None:
    """The figure of every student of a study, and its numbers, in files of this name."""
    points = images_seen_points(study.rows)
    if len(points):
        caption = "Score as a share of the teacher's against the training images seen, a panel a teacher"
        display.figure(lambda narrow: images_seen_drawn(points, narrow), caption, caption, name, points)


def convergences(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per student that was cooled down at E and at 2E epochs: the gain on dev, and the verdict."""
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
                names = {"teacher": teacher_name(teacher), "data": dataset_name(dataset), "student": student}
                line = names | {"epochs": f"{early}, {2 * early}"}
                lines.append(line | {"what twice the epochs bring on dev": str(found)})
    return pd.DataFrame(lines)


def converged(study: Study, name: str = "convergence") -> None:
    """Whether each student has converged, in a table with files of this name."""
    found = convergences(study.rows)
    if found.empty:
        display.words("No student was cooled down at E and at 2E epochs, so that none can be said to have converged.")
        return
    caption = "The student after 2E epochs and a cooldown against the same after E epochs and a cooldown, paired on dev"
    display.table(found, caption, False, name=name, kind="prose")
