"""The parts of a report about cost: size and time of the students, and what the study itself took."""

import pandas as pd

from kdlib.report import display, study_figures
from kdlib.report.one_study import Study
from kdlib.report.scores import line_name, of_the_paper, paper
from kdlib.report.spent import COLUMNS, spent
from kdlib.report.style import EXPORTED
from kdlib.study import forecast

FILES = {"teacher": "float32"} | EXPORTED
WHY_SIZES_DIFFER = (
    "Pixel students of vision-language teachers also train a text head that the paper's sizes leave out; 'image "
    "side' is what compares with its column. Its COCO ResNet (43.39) has a further 256 x 256 layer, and its Tiny "
    "ResNet 200 outputs where ours has the embedding's 256."
)


def costs(study: Study) -> None:
    """Sizes, training time and latency of the students."""
    if study.good.empty:
        return
    with display.fold("What does a student cost? Sizes, training time, latency"):
        time(study)
        sizes(study)
        exported(study)


def time(study: Study) -> None:
    """Seconds per epoch, and those of the paper."""
    points = study_figures.seconds_points(study.rows)
    said = "; ".join(f"{p.method} of {p.teacher} {p.mean:.2g} s" for p in points.itertuples())
    display.figure(
        lambda narrow: study_figures.seconds(points, narrow),
        f"Training seconds an epoch by method, a panel a teacher: {said}.",
        "Training seconds an epoch, the teacher's features cached; bars reach from the fastest to the slowest epoch",
        "seconds_per_epoch",
        points,
    )
    if len(of_the_paper(study.rows)):
        display.words(
            "The paper, with the teacher in the loop: CLIP 15-18 min, BLIP over 50, DINO 6-10, BEiT 11-30 an epoch."
        )


def sizes(study: Study) -> None:
    """Sizes in MB beside the paper's, operations, and what a student costs in time."""
    good = study.good[study.good.variant == ""]
    if good.empty:
        return
    printed = paper().groupby(["dataset", "method"]).size_mb.first()
    key = ["dataset", "method", "teacher"]
    groups = good.groupby(key, sort=False)
    ours = groups[["student_mb", "image_mb", "deployed_mb", "safetensors_bytes", "deployed_image_macs"]].mean()
    ours["safetensors_bytes"] /= 2**20
    ours["deployed_image_macs"] /= 1e6
    frame = ours.reset_index()
    frame.insert(3, "printed", [printed.get((row.dataset, row.method)) for row in frame.itertuples()])
    frame.columns = [
        "dataset", "method", "teacher", "paper prints MB", "student MB", "image side MB", "deployed MB",
        "safetensors MB", "million multiply-accumulates from pixels",
    ]  # fmt: skip
    caption = "Sizes (float32 parameters, MB of 2^20 bytes) and operations"
    if frame["paper prints MB"].isna().all():
        frame = frame.drop(columns="paper prints MB")
    else:
        display.words(WHY_SIZES_DIFFER)
    display.table(frame, caption, False, 2, "sizes")
    last = good[good.epochs == good.epochs.max()].groupby(key, sort=False)
    names = {
        "first_epoch_seconds": "first epoch, s", "seconds_per_epoch": "an epoch, s", "data_share": "waiting for data",
        "minutes_from_nothing": f"minutes from nothing, {good.epochs.max()} epochs",
        "image_batch_1_p10_ms": "p10", "image_batch_1_p50_ms": "p50", "image_batch_1_p90_ms": "p90, ms, 1 image",
        "image_batch_32_p10_ms": "p10 ", "image_batch_32_p50_ms": "p50 ", "image_batch_32_p90_ms": "p90, ms, 32 images",
        "image_per_second": "images/s",
    }  # fmt: skip
    display.table(
        last[list(names)].mean().rename(columns=names).reset_index(),
        "Time, teacher cached; inference from pixels to embedding with the backbone where the student needs it",
        False,
        2,
        "times",
    )
    if "text_batch_1_p50_ms" in good and good.text_batch_1_p50_ms.notna().any():
        names = {"text_batch_1_p50_ms": "p50, ms, 1 text", "text_batch_32_p50_ms": "p50, ms, 32 texts",
                 "text_per_second": "texts/s"}  # fmt: skip
        frame = last[list(names)].mean().dropna().rename(columns=names).reset_index()
        display.table(frame, "From text to embedding", False, 2, "text_times")


def exported(study: Study) -> None:
    """MB, operations and milliseconds of exported files and of their teachers, exported by the same code."""
    lines = []
    for row in study.good.to_dict("records"):
        for file, words in FILES.items():
            for side in ("image", "text"):
                part = f"exported_{file}_{side}"
                if pd.notna(row.get(f"{part}_mb")):
                    lines.append(_exported_line(row, part, f"exported_teacher_{side}", words, side))
    if lines:
        display.table(
            pd.DataFrame(lines).drop_duplicates(["teacher", "student", "file", "side"]),
            "Exported files in ONNX Runtime: ms are the median [tenth and ninetieth percentile]",
            False,
            2,
            "exported",
        )


def _exported_line(row: dict, part: str, teacher: str, words: str, side: str) -> dict:
    """A file's line: whose it is and what it costs, beside the teacher's file of the same side."""

    def ms(threads: str, batch: str) -> str:
        low, middle, high = (row[f"{part}_{threads}_{batch}_{name}_ms"] for name in ("p10", "p50", "p90"))
        return f"{middle:.3g} [{low:.3g}, {high:.3g}]"

    clock = "one_thread_batch_1_p50_ms"
    student = f"{line_name(row['method'], row['variant'], row['epochs'])}, seed {row['seed']}"
    return {
        "teacher": row["teacher"],
        "student": "the teacher itself" if part == teacher else student,
        "file": words,
        "side": side,
        "MB": row[f"{part}_mb"],
        "million multiply-accumulates": row[f"{part}_macs"] / 1e6,
        "1 input, 1 thread, ms": ms("one_thread", "batch_1"),
        "times as fast as the teacher": row[f"{teacher}_{clock}"] / row[f"{part}_{clock}"],
        "32 inputs, 1 thread, ms": ms("one_thread", "batch_32"),
        "1 input, all threads, ms": ms("all_threads", "batch_1"),
        "32 inputs, all threads, ms": ms("all_threads", "batch_32"),
    }


def bill(study: Study) -> None:
    """Minutes and gigabytes of the whole study, by teacher, and how good the prediction of them was."""
    if study.good.empty:
        return
    frame = spent(study.rows)
    whole = frame.iloc[-1]
    frame["experiments"] = ["" if pd.isna(count) else str(count) for count in frame.experiments]
    with display.fold(f"What did the study cost? {whole.minutes:.0f} minutes of computing"):
        caption = "What the study cost: minutes of computing, GB of 10^9 bytes"
        display.table(frame.rename(columns=COLUMNS), caption, False, 2, "spent")
        display.words(
            "Features are computed once for all methods, seeds and epochs. 'Evaluation and the rest' is what the "
            "executed notebooks took beyond training: scores, timing of inference, figures, the start of each kernel. "
            "Attempts that failed or were repeated are not counted; – is not known on this machine."
        )
        foretold(study)


def foretold(study: Study) -> None:
    """How good the prediction of ``kdlib run --plan`` was, where one was made before the run."""
    found = forecast.goodness(study.name)
    if found is None:
        display.words("Nothing was predicted: 'kdlib run STUDY.yaml --plan' before a run does.")
        return
    whole = found.iloc[-1]
    display.words(
        f"'kdlib run --plan' predicted {whole.predicted / 60:.1f} minutes of one worker for {whole.jobs} jobs, "
        f"{whole.taken / 60:.1f} were taken: a ratio of {whole.ratio:.2f}. "
        f"{whole['within 30 %']} of the {whole.jobs} were predicted within 30 %."
    )
    display.table(found, "Predicted and taken seconds of one worker, by method", False, 2)
