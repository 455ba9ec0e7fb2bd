"""The parts of a study's report, called one by one from notebooks/summary.ipynb."""

import html

import pandas as pd
from IPython.display import HTML, display

from kdlib import plots, show
from kdlib import table as tables_of
from kdlib.runs import reports_root

WHY_SIZES_DIFFER = (
    "Pixel students of vision-language teachers also train a text head that the study's sizes leave out; 'image "
    "side' is what compares with its column. Its COCO ResNet (43.39) has a further 256 x 256 layer, and its Tiny "
    "ResNet 200 outputs where ours has the embedding's 256."
)


def read(study: str) -> pd.DataFrame:
    """The rows of a study's results.csv."""
    return tables_of.read(reports_root() / study)


def head(rows: pd.DataFrame, study: str, title: str) -> None:
    """Title, what ran and what did not, and what a reader must know before any number."""
    display(HTML(f"<p><strong>{html.escape(title or study)}</strong></p>"))
    good = rows[rows.outcome == "ok"]
    counts = rows.outcome.value_counts().to_dict()
    print(f"{len(rows)} cells: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))
    if not len(good):
        show.notice("No cell has finished yet.")
        return
    standins = sorted(good[good.teacher_source == "stand-in"].teacher.unique())
    if standins:
        show.notice(
            f"Stand-in teachers for {', '.join(name.upper() for name in standins)}: small models that this project "
            "trained on drawn shapes. Their numbers say nothing about the published checkpoints."
        )
    if (good[good.method.isin(("resnet", "densenet"))].convnet == "narrow").any():
        show.notice("ResNet and DenseNet are narrow ones here, so that the study ends in minutes.")
    if good.untrained_teacher.any():
        names = ", ".join(sorted(good[good.untrained_teacher].teacher.unique()))
        show.notice(f"Teachers with untrained weights, allowed by name: {names}.")
    if good.skipped_images.any():
        show.notice(f"Up to {int(good.skipped_images.max())} unreadable images were left out.")
    worse = good[good.student <= good.untrained]
    if len(worse):
        listed = [
            f"{row.teacher} {row.method} {row.epochs} epochs ({row.student:.3f}, untrained {row.untrained:.3f})"
            for row in worse.itertuples()
        ]
        show.notice(
            f"Not better than the same student untrained, {len(worse)} of {len(good)} cells: {'; '.join(listed)}."
        )


def tables(rows: pd.DataFrame, dataset: str) -> None:
    """The study's table, ours by its definition, ours by the sound one, and the controls."""
    part = rows[rows.dataset == dataset]
    good = part[part.outcome == "ok"]
    if good.empty:
        print(f"No finished cell on {dataset}.")
        return
    headline = plots.score_name(good.headline.iloc[0])
    show.table(tables_of.paper_figure(dataset), "The study prints (accuracy as a fraction)")
    degenerate = dataset == "tinyimagenet"
    note = ": degenerate, each image looks for itself" if degenerate else ""
    show.table(
        tables_of.figure(part, dataset, "student in_batch@64"),
        f"Ours by the study's definition, in_batch@64{note}",
    )
    show.table(tables_of.figure(part, dataset, "student"), f"Ours, {headline}")
    controls = good.groupby(["teacher", "method"], sort=False)[
        ["teacher_score", "untrained", "teacher in_batch@64", "untrained in_batch@64"]
    ].mean()
    controls.columns = [
        f"teacher, {headline}",
        f"untrained student, {headline}",
        "teacher in_batch@64",
        "untrained in_batch@64",
    ]
    show.table(
        controls.reset_index(),
        "Controls: the teacher as its own student, and the student untrained",
        index=False,
    )


def size(rows: pd.DataFrame) -> None:
    """Size against score."""
    if (rows.outcome == "ok").any():
        show.figure(
            plots.size_against_score(rows),
            "Score against size, the student alone and all that inference needs.",
        )


def epochs(rows: pd.DataFrame) -> None:
    """Score by budget."""
    if (rows.outcome == "ok").any():
        show.figure(plots.score_by_epochs(rows), "Score at each number of epochs, a panel a teacher, a line a method.")


def time(rows: pd.DataFrame) -> None:
    """Seconds per epoch, and what the study paid."""
    if (rows.outcome == "ok").any():
        show.figure(plots.seconds_per_epoch(rows), "Training seconds an epoch by method and teacher.")
        good = rows[rows.outcome == "ok"].groupby(["teacher", "dataset"], sort=False)["store_seconds"].max()
        good = good.rename("seconds").reset_index()
        show.table(good, "Building a teacher's features, once for all its cells", False, 1)
        print("The study, with the teacher in the loop: CLIP 15-18 min, BLIP over 50, DINO 6-10, BEiT 11-30 an epoch.")


def sizes(rows: pd.DataFrame) -> None:
    """Sizes in MB beside the study's."""
    good = rows[rows.outcome == "ok"]
    if good.empty:
        return
    printed = tables_of.paper().groupby(["dataset", "method"]).size_mb.first()
    ours = good.groupby(["dataset", "method", "teacher"], sort=False)[
        ["student_mb", "image_mb", "deployed_mb", "seconds_per_epoch", "inference_ms"]
    ].mean()
    frame = ours.reset_index()
    frame.insert(3, "study prints MB", [printed.get((row.dataset, row.method)) for row in frame.itertuples()])
    frame.columns = [
        "dataset", "method", "teacher", "study prints MB", "student MB", "image side MB", "deployed MB",
        "s an epoch", "ms from pixels, 1 image",
    ]  # fmt: skip
    show.table(frame, "Sizes (float32 parameters, MB of 2^20 bytes), time an epoch, and inference", False, 2)
    print(WHY_SIZES_DIFFER)


def cells(rows: pd.DataFrame) -> None:
    """Every cell with its outcome and a link to its page."""
    names = ["teacher", "dataset", "method", "epochs", "seed", "outcome"]
    frame = rows[[*names, *(name for name in ("student", "final_loss", "error") if name in rows)]].copy()
    frame["page"] = [
        f'<a href="{html.escape(page)}">open</a>' if isinstance(page, str) and page else "" for page in rows.page
    ]
    display(
        HTML(frame.to_html(index=False, border=0, escape=False, float_format=lambda value: f"{value:.3f}", na_rep=""))
    )
