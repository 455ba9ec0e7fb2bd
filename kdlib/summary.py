"""The parts of a study's report, called one by one from the notebooks summary, claims and ablations."""

import html

import pandas as pd
from IPython.display import HTML, display

from kdlib import claims as claims_of
from kdlib import plots, show, tuning
from kdlib import table as tables_of
from kdlib.runs import reports_root
from kdlib.threeway import SAME
from kdlib.threeway import threeway as threeway_of
from kdlib.verdicts import QUESTIONS

WHY_SIZES_DIFFER = (
    "Pixel students of vision-language teachers also train a text head that the study's sizes leave out; 'image "
    "side' is what compares with its column. Its COCO ResNet (43.39) has a further 256 x 256 layer, and its Tiny "
    "ResNet 200 outputs where ours has the embedding's 256."
)
HOW_TO_READ = (
    "Numbers are mean ± standard deviation over seeds (where there are several) [95 % interval over the test images: "
    "1,000 bootstrap resamples, the captions of an image kept together]."
)
OTHER_SCORES = {
    "coco": ("i2t_r@1", "t2i_r@1", "zeroshot_map", "similarity_cosine", "neighbour_agreement", "similarity_kl", "cka"),
    "tinyimagenet": (
        "knn@20_top5", "linear_top1", "ridge_top1", "similarity_cosine", "neighbour_agreement", "similarity_kl", "cka",
    ),
}  # fmt: skip


def read(study: str) -> pd.DataFrame:
    """The rows of a study's results.csv."""
    return tables_of.read(reports_root() / study)


def head(rows: pd.DataFrame, study: str, title: str) -> None:
    """Title, what ran and what did not, and what a reader must know before any number."""
    display(HTML(f"<p><strong>{html.escape(title or study)}</strong></p>"))
    good = rows[rows.outcome == "ok"]
    counts = rows.outcome.value_counts().to_dict()
    listed = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
    show.words(f"{len(rows)} cells: {listed}")
    if not len(good):
        show.notice("No cell has finished yet.")
        return
    if (good.score_on == "dev").any():
        show.notice("Scored on dev: these numbers may choose parameters, and none of them is a result.")
    standins = sorted(good[good.teacher_source == "stand-in"].teacher.unique())
    if standins:
        show.notice(
            f"Stand-in teachers for {', '.join(name.upper() for name in standins)}: small models that this project "
            "trained on drawn shapes. Their numbers say nothing about the published checkpoints."
        )
    if (good[good.method.isin(("resnet", "densenet"))].convnet == "narrow").any():
        show.notice("ResNet and DenseNet are narrow ones here, so that the study ends in minutes.")
    if good.untrained_teacher.any():
        names = ", ".join(
            sorted(
                tables_of.line_name(row.teacher, row.variant)
                for row in good[good.untrained_teacher].drop_duplicates(["teacher", "variant"]).itertuples()
            )
        )
        show.notice(f"Teachers with untrained weights, allowed by name: {names}.")
    if good.skipped_images.any():
        show.notice(f"Up to {int(good.skipped_images.max())} unreadable images were left out.")
    if good.seed.nunique() == 1:
        show.notice("One seed: the verdicts carry the noise of the test images, not that of initial weights and order.")
    exposure(good)
    show.words(HOW_TO_READ)


def exposure(good: pd.DataFrame) -> None:
    """Whether teachers or initial weights have seen the test images or their labels."""
    seen = good.groupby(["teacher", "dataset", "method"], sort=False).exposure.first().reset_index()
    levels = {level: sorted({f"{row.teacher} on {row.dataset}" for row in part.itertuples()})
              for level, part in seen.groupby("exposure")}  # fmt: skip
    words = {
        "none": "have not seen the test images",
        "unknown": "may have seen the test images, nobody can say",
        "images": "have seen test images in training",
        "labels": "have seen test images or their classes with labels in training",
    }
    for level, names in levels.items():
        line = f"Exposure '{level}': {', '.join(names)} {words[level]}."
        show.words(line) if level == "none" else show.notice(line)


def controls(rows: pd.DataFrame) -> None:
    """Every student that is not better than itself untrained, than PCA or than its network without a teacher."""
    found = verdict_table(rows.study.iloc[0])
    if found is None:
        return
    against = {"untrained": "itself untrained", "pca": "PCA", "no teacher": "its network without a teacher"}
    for question, words in against.items():
        part = found[found.question == question]
        missing = part[part.verdict != "better"]
        if not len(part):
            continue
        show.words(f"Better than {words}: {len(part) - len(missing)} of {len(part)} students.")
        if len(missing):
            worse = (missing.verdict == "worse").sum()
            show.notice(f"Not better than {words}: {len(missing)} of {len(part)} students, {worse} of them worse.")
            shown = missing[["teacher", "a", "verdict"]].rename(columns={"a": "student"})
            shown["difference"] = [
                f"{row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}]" for row in missing.itertuples()
            ]
            show.table(shown, f"Not better than {words}", False, folded="which ones", prose=True)


def tables(rows: pd.DataFrame, dataset: str) -> None:
    """The study's table, ours by its definition, ours by the sound one, with the controls as rows."""
    part = rows[rows.dataset == dataset]
    good = part[part.outcome == "ok"]
    if good.empty:
        print(f"No finished cell on {dataset}.")
        return
    headline = plots.score_name(good.headline.iloc[0])
    show.table(tables_of.paper_figure(dataset), "The study prints (accuracy as a fraction)")
    degenerate = any(SAME in str(names).split() for names in good.degenerate)
    note = ": degenerate, an untrained student has it too" if degenerate else ""
    show.table(tables_of.figure(part, dataset, SAME), f"Ours by the study's definition, {SAME}{note}")
    show.table(tables_of.figure(part, dataset), f"Ours, {headline}")
    last = part[(part.epochs == part.epochs.max()) & (part.variant == "")]
    for score in OTHER_SCORES[dataset]:
        if f"student {score}" in last and last[f"student {score}"].notna().any():
            caption = f"{score} after {part.epochs.max()} epochs"
            show.table(tables_of.figure(last, dataset, score), caption, folded=caption)


def threeway(rows: pd.DataFrame) -> None:
    """Each printed cell beside ours by both definitions, and why they differ."""
    show.table(threeway_of(rows), "Printed, by the study's definition, by a sound one", index=False, prose=True)


def verdict_table(study: str) -> pd.DataFrame | None:
    """The comparisons of a study, None where there are none yet."""
    path = reports_root() / study / "verdicts.csv"
    return pd.read_csv(path) if path.exists() else None


def verdicts(rows: pd.DataFrame, questions: tuple[str, ...] = tuple(QUESTIONS)) -> None:
    """The comparisons, question by question."""
    found = verdict_table(rows.study.iloc[0])
    if found is None or found.empty:
        print("There is nothing to compare yet.")
        return
    for question in questions:
        part = found[found.question == question]
        if part.empty:
            continue
        shown = part[["teacher", "dataset", "a", "b"]].copy()
        shown["a − b"] = [f"{row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}]" for row in part.itertuples()]
        shown["p, Holm"] = [f"{value:.3f}" for value in part.p_holm]
        shown["verdict on a"] = part.verdict
        show.table(shown, f"{QUESTIONS[question][0].upper()}{QUESTIONS[question][1:]}", index=False, prose=True)


def claims(rows: pd.DataFrame) -> None:
    """The study's claims, judged."""
    judged = claims_of.judge(rows)
    counts = judged.verdict.value_counts().to_dict()
    show.words(f"{len(judged)} claims: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    show.table(judged, "The study's claims and what became of them", index=False, prose=True)


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
        show.figure(
            plots.score_by_epochs(rows),
            "Score at each number of epochs with 95 % intervals, a panel a teacher, a line a method.",
        )


def time(rows: pd.DataFrame) -> None:
    """Seconds per epoch, and what the study paid."""
    if (rows.outcome == "ok").any():
        show.figure(plots.seconds_per_epoch(rows), "Training seconds an epoch by method and teacher.")
        good = rows[rows.outcome == "ok"].groupby(["teacher", "variant", "dataset"], sort=False)
        good = good[["store_seconds", "store_bytes"]].max()
        good["store_bytes"] /= 1e6
        good.columns = ["seconds", "MB on disk"]
        show.table(good.reset_index(), "Building a teacher's features, once for all its cells", False, 1)
        show.words(
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
    show.table(frame, "Sizes (float32 parameters, MB of 2^20 bytes) and operations", False, 2)
    show.words(WHY_SIZES_DIFFER)
    last = good[good.epochs == good.epochs.max()].groupby(key, sort=False)
    names = {
        "first_epoch_seconds": "first epoch, s", "seconds_per_epoch": "an epoch, s", "data_share": "waiting for data",
        "minutes_from_nothing": f"minutes from nothing, {good.epochs.max()} epochs",
        "image_batch_1_p10_ms": "p10", "image_batch_1_p50_ms": "p50", "image_batch_1_p90_ms": "p90, ms, 1 image",
        "image_batch_32_p10_ms": "p10 ", "image_batch_32_p50_ms": "p50 ", "image_batch_32_p90_ms": "p90, ms, 32 images",
        "image_per_second": "images/s",
    }  # fmt: skip
    show.table(
        last[list(names)].mean().rename(columns=names).reset_index(),
        "Time, teacher cached; inference from pixels to embedding with the backbone where the student needs it",
        False,
        2,
    )
    if "text_batch_1_p50_ms" in good and good.text_batch_1_p50_ms.notna().any():
        names = {"text_batch_1_p50_ms": "p50, ms, 1 text", "text_batch_32_p50_ms": "p50, ms, 32 texts",
                 "text_per_second": "texts/s"}  # fmt: skip
        frame = last[list(names)].mean().dropna().rename(columns=names).reset_index()
        show.table(frame, "From text to embedding", False, 2)


def cells(rows: pd.DataFrame) -> None:
    """Every cell with its outcome, its exposure and a link to its page."""
    names = ["teacher", "dataset", "method", "variant", "epochs", "seed", "outcome", "exposure"]
    more = [name for name in ("student", "final_loss", "error") if name in rows]
    frame = rows[[*(name for name in names if name in rows), *more]].copy()
    frame["page"] = [
        f'<a href="{html.escape(page)}">open</a>' if isinstance(page, str) and page else "" for page in rows.page
    ]
    display(
        HTML(frame.to_html(index=False, border=0, escape=False, float_format=lambda value: f"{value:.3f}", na_rep=""))
    )


def pages(study: str) -> None:
    """Links to the study's other pages and its files."""
    names = {"claims.html": "the study's claims", "results.csv": "all rows", "verdicts.csv": "all comparisons",
             "threeway.csv": "printed beside ours"}  # fmt: skip
    links = [f'<a href="{name}">{words}</a>' for name, words in names.items()
             if (reports_root() / study / name).exists() or name == "claims.html"]  # fmt: skip
    display(HTML(f"<p>{' · '.join(links)}</p>"))


# ---------------------------------------------------------------- variants: ablations and tuning


def ranking(rows: pd.DataFrame) -> None:
    """The best variants, where the scores may choose: on dev."""
    try:
        frame = tuning.ranking(rows)
    except tuning.TuningError:
        print("Scored on test, to be reported: nothing may be chosen by these numbers, so there is no ranking.")
        return
    show.table(frame, "Share of the teacher's score on dev, best first: what the defaults follow", index=False)


def variants(rows: pd.DataFrame) -> None:
    """Each variant of a method's training beside the method's own, with the verdict; a table a teacher."""
    found = verdict_table(rows.study.iloc[0])
    good = rows[rows.outcome == "ok"]
    for (teacher, dataset), part in good.groupby(["teacher", "dataset"], sort=False):
        lines = []
        for (method, variant, epochs), cells_ in part.groupby(["method", "variant", "epochs"], sort=False):
            own = part[(part.method == method) & (part.variant == "") & (part.epochs == epochs)]
            line = {
                "method": method,
                "training": variant.replace("_", " ") or "the method's own",
                "losses": cells_.objective.iloc[0],
                "epochs": epochs,
                "score": tables_of.summary_of(cells_).text(3),
                "own − variant": "",
                "verdict on the own": "",
            }
            if variant and len(own) and found is not None:
                names = [tables_of.line_name(method, name, epochs) for name in ("", variant)]
                match = found[(found.teacher == teacher) & (found.a == names[0]) & (found.b == names[1])]
                if len(match):
                    row = match.iloc[0]
                    line["own − variant"] = f"{row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
                    line["verdict on the own"] = row.verdict
            lines.append(line)
        name = plots.score_name(part.headline.iloc[0])
        show.table(pd.DataFrame(lines), f"{teacher} on {dataset}, {name}", index=False, prose=True)
