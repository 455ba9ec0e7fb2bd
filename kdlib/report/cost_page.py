"""What the students of a study cost, in size and in time, and what the study itself cost, as its report shows it."""

import pandas as pd

from kdlib.report import display, exhibits, study_figures
from kdlib.report import scores as tables_of
from kdlib.report.spent import COLUMNS, spent
from kdlib.study import forecast

WHY_SIZES_DIFFER = (
    "Pixel students of vision-language teachers also train a text head that the study's sizes leave out; 'image "
    "side' is what compares with its column. Its COCO ResNet (43.39) has a further 256 x 256 layer, and its Tiny "
    "ResNet 200 outputs where ours has the embedding's 256."
)


def size(rows: pd.DataFrame) -> None:
    """Size against score."""
    if (rows.outcome == "ok").any():
        points = study_figures.size_against_score_points(rows)
        fronts = "; ".join(
            f"{teacher} on {dataset}, {words}: {', '.join(part[part[f'front_{name}']].sort_values(name).method)}"
            for (teacher, dataset), part in points.groupby(["teacher", "dataset"], sort=False)
            for name, words in study_figures.SIZES.items()
        )
        exhibits.figure(
            study_figures.size_against_score(points),
            f"Score against size in MB, the student alone and all that inference needs. On the Pareto front: {fronts}.",
            points,
            exhibits.report_of(rows),
            "size_against_score",
        )
        display.words(
            "A student is on the front when no other of its teacher is as small and as good, by the means over seeds: "
            "neighbours whose intervals overlap may change places with other test images."
        )


def time(rows: pd.DataFrame) -> None:
    """Seconds per epoch, and what the study paid."""
    if not (rows.outcome == "ok").any():
        return
    points = study_figures.seconds_per_epoch_points(rows)
    exhibits.figure(
        study_figures.seconds_per_epoch(points),
        "Training seconds an epoch by method, a panel a teacher: "
        + "; ".join(f"{p.method} of {p.teacher} {p.mean:.2g} s" for p in points.itertuples())
        + ".",
        points,
        exhibits.report_of(rows),
        "seconds_per_epoch",
    )
    display.words(
        "The study, with the teacher in the loop: CLIP 15-18 min, BLIP over 50, DINO 6-10, BEiT 11-30 an epoch."
    )


def sizes(rows: pd.DataFrame) -> None:
    """Sizes in MB beside the study's, operations, and what a student costs in time."""
    good = rows[(rows.outcome == "ok") & (rows.variant == "")]
    if good.empty:
        return
    printed = tables_of.paper().groupby(["dataset", "method"]).size_mb.first()
    key = ["dataset", "method", "teacher"]
    groups = good.groupby(key, sort=False)
    ours = groups[["student_mb", "image_mb", "deployed_mb", "safetensors_bytes", "deployed_image_macs"]].mean()
    ours["safetensors_bytes"] /= 2**20
    ours["deployed_image_macs"] /= 1e6
    frame = ours.reset_index()
    frame.insert(3, "printed", [printed.get((row.dataset, row.method)) for row in frame.itertuples()])
    frame.columns = [
        "dataset", "method", "teacher", "study prints MB", "student MB", "image side MB", "deployed MB",
        "safetensors MB", "million multiply-accumulates from pixels",
    ]  # fmt: skip
    caption = "Sizes (float32 parameters, MB of 2^20 bytes) and operations"
    exhibits.table(frame, caption, exhibits.report_of(rows), "sizes", False, 2)
    display.words(WHY_SIZES_DIFFER)
    last = good[good.epochs == good.epochs.max()].groupby(key, sort=False)
    names = {
        "first_epoch_seconds": "first epoch, s", "seconds_per_epoch": "an epoch, s", "data_share": "waiting for data",
        "minutes_from_nothing": f"minutes from nothing, {good.epochs.max()} epochs",
        "image_batch_1_p10_ms": "p10", "image_batch_1_p50_ms": "p50", "image_batch_1_p90_ms": "p90, ms, 1 image",
        "image_batch_32_p10_ms": "p10 ", "image_batch_32_p50_ms": "p50 ", "image_batch_32_p90_ms": "p90, ms, 32 images",
        "image_per_second": "images/s",
    }  # fmt: skip
    exhibits.table(
        last[list(names)].mean().rename(columns=names).reset_index(),
        "Time, teacher cached; inference from pixels to embedding with the backbone where the student needs it",
        exhibits.report_of(rows),
        "times",
        False,
        2,
    )
    if "text_batch_1_p50_ms" in good and good.text_batch_1_p50_ms.notna().any():
        names = {"text_batch_1_p50_ms": "p50, ms, 1 text", "text_batch_32_p50_ms": "p50, ms, 32 texts",
                 "text_per_second": "texts/s"}  # fmt: skip
        frame = last[list(names)].mean().dropna().rename(columns=names).reset_index()
        exhibits.table(frame, "From text to embedding", exhibits.report_of(rows), "text_times", False, 2)


def bill(rows: pd.DataFrame) -> None:
    """Minutes and gigabytes of the whole study, by teacher."""
    if not (rows.outcome == "ok").any():
        print("No experiment has finished yet.")
        return
    frame = spent(rows)
    frame["experiments"] = ["" if pd.isna(count) else str(count) for count in frame.experiments]
    frame = frame.rename(columns=COLUMNS)
    caption = "What the study cost: minutes of computing, GB of 10^9 bytes"
    exhibits.table(frame, caption, exhibits.report_of(rows), "spent", index=False, digits=2)
    display.words(
        "Features are computed once for all methods, seeds and epochs. 'Evaluation and the rest' is what the executed "
        "notebooks took beyond training: scores, timing of inference, figures, the start of each kernel. Attempts that "
        "failed or were repeated are not counted; – is not known on this machine."
    )


def foretold(rows: pd.DataFrame) -> None:
    """How good the prediction of ``kdlib run --plan`` was, where one was made before the run."""
    found = forecast.goodness(rows.study.iloc[0])
    if found is None:
        display.words("Nothing was predicted: 'kdlib run STUDY.yaml --plan' before a run does.")
        return
    whole = found.iloc[-1]
    display.words(
        f"'kdlib run --plan' predicted {whole.predicted / 60:.1f} minutes of one worker for {whole.jobs} jobs, "
        f"{whole.taken / 60:.1f} were taken: a ratio of {whole.ratio:.2f}. "
        f"{whole['within 30 %']} of the {whole.jobs} were predicted within 30 %."
    )
    display.table(found, "Predicted and taken seconds of one worker", index=False, digits=2, folded="by method")
