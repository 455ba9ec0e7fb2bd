"""What a study found, part by part, as the notebooks summary, claims and ablations show it."""

import html

import pandas as pd

from kdlib.evaluate.uncertainty import BETTER, OPEN, WORSE, interval
from kdlib.files import reports_root
from kdlib.report import display, exhibits, experiment_page, listing, provenance, study_figures, style
from kdlib.report import rows as results
from kdlib.report import scores as tables_of
from kdlib.report.paper import SAME
from kdlib.report.paper import threeway as threeway_of
from kdlib.report.verdicts import QUESTIONS

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
    return results.read(reports_root() / study)


def head(rows: pd.DataFrame) -> None:
    """What ran and what did not, and what a reader must know before any number."""
    good = rows[rows.outcome == "ok"]
    counts = rows.outcome.value_counts().to_dict()
    listed = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
    display.words(f"{len(rows)} experiments of the study '{rows.study.iloc[0]}': {listed}")
    listing.failures(rows)
    if not len(good):
        display.notice("No experiment has finished yet.")
        return
    if (good.score_on == "dev").any():
        display.notice("Scored on dev: these numbers may choose parameters, and none of them is a result.")
    standins = sorted(good[good.teacher_source == "stand-in"].teacher.unique())
    if standins:
        display.notice(
            f"Stand-in teachers for {', '.join(name.upper() for name in standins)}: small models that this project "
            "trained on drawn shapes. Their numbers say nothing about the published checkpoints."
        )
    for name, source in good.groupby("teacher", sort=False).teacher_source.first().items():
        experiment_page.given_by_hand(name, source)
    at_chance(good)
    if (good[good.method.isin(("resnet", "densenet"))].convnet == "narrow").any():
        display.notice("ResNet and DenseNet are narrow ones here, so that the study ends in minutes.")
    if good.untrained_teacher.any():
        names = ", ".join(
            sorted(
                tables_of.line_name(row.teacher, row.variant)
                for row in good[good.untrained_teacher].drop_duplicates(["teacher", "variant"]).itertuples()
            )
        )
        display.notice(f"Teachers with untrained weights, allowed by name: {names}.")
    if good.skipped_images.any():
        display.notice(f"Up to {int(good.skipped_images.max())} unreadable images were left out.")
    copies(good)
    for line in results.references(reports_root() / good.study.iloc[0]):
        (display.words if ": Meets" in line else display.notice)(line)
    if good.seed.nunique() == 1:
        display.notice(
            "One seed: the verdicts carry the noise of the test images, not that of initial weights and order."
        )
    exposure(good)
    display.words(HOW_TO_READ)


def copies(good: pd.DataFrame) -> None:
    """Images that are in two splits and left training, and those that are twice in one."""
    for dataset, row in good.sort_values("left_out_images").groupby("dataset", sort=False).last().iterrows():
        if row.left_out_images:
            display.notice(
                f"{dataset}: {int(row.left_out_images)} images are also in another split by their content, and were "
                f"left out of training: {row.left_out}. Each result names them all (data, left_out)."
            )
    for dataset, count in good.groupby("dataset", sort=False).duplicate_images.max().items():
        if count:
            display.words(f"{dataset}: {int(count)} images are copies of another of the same split; all are used.")


def at_chance(good: pd.DataFrame) -> None:
    """Name the teachers whose own score cannot be told from that of a constant encoder."""
    names = []
    for row in good.drop_duplicates(["teacher", "dataset", "variant"]).itertuples():
        if interval(tables_of.replicates(row, "teacher", row.headline))[0] <= row.constant:
            names.append(tables_of.line_name(row.teacher, row.variant if row.untrained_teacher else ""))
    if names:
        display.notice(
            f"The teacher itself is at chance: {'; '.join(sorted(set(names)))}. What its students score says nothing "
            "of distillation."
        )


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
        display.words(line) if level == "none" else display.notice(line)


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
        display.words(f"Better than {words}: {len(part) - len(missing)} of {len(part)} students.")
        if len(missing):
            worse = (missing.verdict == "worse").sum()
            display.notice(f"Not better than {words}: {len(missing)} of {len(part)} students, {worse} of them worse.")
            shown = missing[["teacher", "a", "verdict"]].rename(columns={"a": "student"})
            shown["difference"] = [
                f"{row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}]" for row in missing.itertuples()
            ]
            display.table(shown, f"Not better than {words}", False, folded="which ones", prose=True)


def tables(rows: pd.DataFrame, dataset: str, heading: str) -> None:
    """The study's table, ours by its definition, ours by the sound one, with the controls as rows."""
    part = rows[rows.dataset == dataset]
    if part.empty:
        return
    display.markup(f"<h3>{html.escape(heading)}</h3>")
    report = exhibits.report_of(rows)
    caption = "The study prints (accuracy as a fraction)"
    exhibits.table(_headed(tables_of.paper_figure(dataset)), caption, report, f"{dataset}-printed")
    good = part[part.outcome == "ok"]
    if good.empty:
        print(f"No finished experiment on {dataset}.")
        return
    headline = style.score_name(good.headline.iloc[0])
    degenerate = any(SAME in str(names).split() for names in good.degenerate)
    note = ": degenerate, an untrained student has it too" if degenerate else ""
    caption = f"Ours by the study's definition, {SAME}{note}"
    exhibits.table(_headed(tables_of.figure(part, dataset, SAME)), caption, report, f"{dataset}-in_batch")
    exhibits.table(_headed(tables_of.figure(part, dataset)), f"Ours, {headline}", report, f"{dataset}-headline")
    last = part[(part.epochs == part.epochs.max()) & (part.variant == "")]
    for score in OTHER_SCORES.get(dataset, ()):
        if f"student {score}" in last and last[f"student {score}"].notna().any():
            caption = f"{score} after {part.epochs.max()} epochs"
            name = f"{dataset}-{score.replace('@', '_at_')}"
            exhibits.table(_headed(tables_of.figure(last, dataset, score)), caption, report, name, folded=caption)


def _headed(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.rename_axis(columns="teacher and student")


def threeway(rows: pd.DataFrame) -> None:
    """Each printed cell beside ours by both definitions, and why they differ."""
    display.markup("<h3>Printed, ours, and why they differ</h3>")
    caption = "Printed, by the study's definition, by a sound one"
    frame = threeway_of(rows)
    words = f"all {len(frame)} experiments that the study prints"
    report = exhibits.report_of(rows)
    exhibits.table(frame, caption, report, "threeway", index=False, prose=True, folded=words)


def verdict_table(study: str) -> pd.DataFrame | None:
    """The comparisons of a study, None where there are none yet."""
    path = reports_root() / study / "verdicts.csv"
    return pd.read_csv(path) if path.exists() else None


def verdicts(rows: pd.DataFrame, questions: tuple[str, ...] = tuple(QUESTIONS)) -> None:
    """How often each verdict was reached, and the comparisons, question by question."""
    found = verdict_table(rows.study.iloc[0])
    if found is None or found.empty:
        print("There is nothing to compare yet.")
        return
    report = exhibits.report_of(rows)
    found = found[found.question.isin(questions)]
    counts = pd.crosstab(found.question, found.verdict).reindex(columns=[BETTER, OPEN, WORSE], fill_value=0)
    counts = counts.reindex([name for name in questions if name in counts.index])
    counts.index = [_sentence(QUESTIONS[name]) for name in counts.index]
    counts.columns.name = "question"
    name = "verdicts" if questions == tuple(QUESTIONS) else f"verdicts-of-{len(questions)}-questions"
    exhibits.table(counts, "Comparisons by verdict on the first named", report, name)
    for question in questions:
        part = found[found.question == question]
        if part.empty:
            continue
        shown = part[["teacher", "dataset", "a", "b"]].copy()
        shown["a − b"] = [f"{row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}]" for row in part.itertuples()]
        shown["p, Holm"] = [f"{value:.3f}" for value in part.p_holm]
        shown["verdict on a"] = part.verdict
        caption = _sentence(QUESTIONS[question])
        words = f"{caption}: all {len(part)}"
        name = f"verdicts-{question.replace(' ', '_')}"
        exhibits.table(shown, caption, report, name, index=False, prose=True, folded=words)


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}"


def judged(rows: pd.DataFrame) -> pd.DataFrame:
    """The study's claims as ``kdlib report`` judged them."""
    return pd.read_csv(exhibits.report_of(rows) / "claims.csv")


def claims(rows: pd.DataFrame) -> None:
    """The study's claims with what would show each, and what was found."""
    frame = judged(rows)
    _count_claims(frame)
    caption = "The study's claims and what became of them"
    exhibits.table(frame, caption, exhibits.report_of(rows), "claims", index=False, prose=True)


def claims_in_short(rows: pd.DataFrame) -> None:
    """The study's claims and their verdicts, with a link to the page that says why."""
    frame = judged(rows)
    _count_claims(frame)
    display.table(frame[["claim", "verdict"]], "The study's claims", index=False, prose=True)
    display.markup('<p><a href="claims.html">What would show each claim, and what was found</a></p>')


def _count_claims(frame: pd.DataFrame) -> None:
    counts = frame.verdict.value_counts().to_dict()
    display.words(f"{len(frame)} claims: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


def epochs(rows: pd.DataFrame) -> None:
    """Score by budget."""
    if not (rows.outcome == "ok").any():
        return
    points = study_figures.score_by_epochs_points(rows)
    last = points[points.epochs == points.epochs.max()]
    best = last.loc[last.groupby(["teacher", "dataset"], sort=False).score.idxmax()]
    alt = "Score at each number of epochs with 95 % intervals, a panel a teacher, a line a method. Highest at the end: "
    alt += "; ".join(f"{p.teacher} {p.method} {p.score:.3f}, teacher {p.teacher_score:.3f}" for p in best.itertuples())
    exhibits.figure(
        study_figures.score_by_epochs(points), f"{alt}.", points, exhibits.report_of(rows), "score_by_epochs"
    )


def pages(study: str) -> None:
    """Links to the study's other pages and its files."""
    names = {"claims.html": "the study's claims", "results.csv": "all rows", "verdicts.csv": "all comparisons",
             "threeway.csv": "printed beside ours", "study.yaml": "study file"}  # fmt: skip
    links = [f'<a href="{name}">{words}</a>' for name, words in names.items()
             if (reports_root() / study / name).exists() or name == "claims.html"]  # fmt: skip
    display.markup(f"<p>{' · '.join(links)}</p>")


def again(rows: pd.DataFrame) -> None:
    """How to make these numbers again: commit, versions, command, study file, and the hardware they were made on."""
    folder = exhibits.report_of(rows)
    record = provenance.read(folder)
    if not record["versions"]:
        print("No experiment has finished yet.")
        return
    first = record["versions"][0]
    commit = first["commit"].removesuffix("-dirty")
    lines = [
        f"git checkout {commit}" if commit else f"# kdlib {first['kdlib']}, of no commit",
        f"python -m pip install --editable . --requirement {provenance.LOCK}",
        f"kdlib run {provenance.STUDY}",
    ]
    display.markup(f"<pre>{html.escape(chr(10).join(lines))}</pre>")
    if any(versions["commit"].endswith("-dirty") for versions in record["versions"]):
        display.notice(
            "Made from a checkout with changes that are not in the commit ('-dirty'): the keys in each result say "
            "whether the code that made a number is the code at hand; 'kdlib status' compares them."
        )
    if len(record["versions"]) > 1:
        display.notice(
            f"The experiments were made with {len(record['versions'])} sets of versions or commits; see the table."
        )
    for name, words in ((provenance.STUDY, "study file, as it was run"), (provenance.LOCK, "versions, for pip")):
        text = html.escape((folder / name).read_text())
        link = f'<p><a href="{name}">{name}</a></p>'
        display.markup(f"<details><summary>{words}</summary>{link}<pre>{text}</pre></details>")
    for kind in ("versions", "hardware"):
        frame = pd.DataFrame(record[kind])
        exhibits.table(frame, f"{_sentence(kind)} of the experiments", folder, kind, index=False, prose=True)
    display.words(f"The experiments finished between {record['from']} and {record['to']}.")
