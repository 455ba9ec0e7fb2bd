"""The parts of a study's report that open under their questions, and those of the pages claims and ablations.

One function each, for the notebooks summary, claims, ablations and methods; :mod:`kdlib.report.first_screen` has what
stands above them.
"""

import html

import pandas as pd

from kdlib.evaluate.uncertainty import BETTER, OPEN, OVERRULED, WORSE
from kdlib.report import display, learning, listing, provenance, study_figures
from kdlib.report.findings import at_the_end
from kdlib.report.one_study import Study, claimed
from kdlib.report.paper import SAME
from kdlib.report.paper import threeway as threeway_of
from kdlib.report.scores import line_name, of_the_paper, printed_table, score_table, summary_of
from kdlib.report.style import dataset_name, score_name, teacher_name
from kdlib.report.tuning import TuningError, ranking
from kdlib.report.verdicts import QUESTIONS

OTHER_SCORES = {
    "coco": ("i2t_r@1", "t2i_r@1", "zeroshot_map", "similarity_cosine", "neighbour_agreement", "similarity_kl", "cka"),
    "tinyimagenet": (
        "knn@20_top5", "linear_top1", "ridge_top1", "similarity_cosine", "neighbour_agreement", "similarity_kl", "cka",
    ),
}  # fmt: skip


# ---------------------------------------------------------------- behind their questions


def distilled(study: Study) -> None:
    """The verdicts, in a fold whose line says how many students beat their controls."""
    if study.verdicts.empty:
        return
    counts = {question: part.verdict.eq(BETTER).sum() for question, part in study.verdicts.groupby("question")}
    totals = study.verdicts.question.value_counts()
    against = {"untrained": "itself untrained", "pca": "PCA", "no teacher": "its network without a teacher"}
    said = ", ".join(f"{words} {counts[name]} of {totals[name]}" for name, words in against.items() if name in totals)
    with display.fold(f"Is it distillation? Better than {said}" if said else "Which students differ?"):
        verdicts(study)


def verdicts(study: Study, questions: tuple[str, ...] = tuple(QUESTIONS)) -> None:
    """How often each verdict was reached, and a fold with the comparisons of each question."""
    found = study.verdicts[study.verdicts.question.isin(questions)]
    if found.empty:
        display.words("There is nothing to compare yet.")
        return
    names = [BETTER, OPEN, OVERRULED, WORSE]
    counts = pd.crosstab(found.question, found.verdict).reindex(columns=names, fill_value=0)
    counts = counts.reindex([name for name in questions if name in counts.index])
    counts.index = [_sentence(QUESTIONS[name]) for name in counts.index]
    counts.columns.name = "question, at every number of epochs"
    every = questions == tuple(QUESTIONS)
    name = "verdicts" if every else f"verdicts-of-{len(questions)}-questions"
    caption = (
        "Comparisons by verdict on the first named: a paired bootstrap on the same images, Holm-corrected within a "
        "question and a teacher. 'Not distinguishable' does not say that the two are equal"
    )
    display.table(counts, caption, name=name)
    for question in questions:
        part = found[found.question == question]
        if part.empty:
            continue
        shown = part[["teacher", "dataset", "a", "b"]].copy()
        shown["a − b"] = [_difference(row) for row in part.itertuples()]
        shown["p, Holm"] = [f"{value:.3f}" for value in part.p_holm]
        shown["verdict on a"] = part.verdict
        said = _sentence(QUESTIONS[question])
        with display.fold(f"{said}: all {len(part)}"):
            display.table(shown, said, False, name=f"verdicts-{question.replace(' ', '_')}", kind="prose")


def _difference(row) -> str:
    return f"{row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


def claims_in_short(study: Study) -> None:
    """The paper's claims and what was judged of them, with a link to the page that says why."""
    if not claimed(study):
        return
    with display.fold(f"What became of the paper's claims? {_counted(study)}"):
        display.table(study.claims[["claim", "judgement"]], "The paper's claims", False, kind="prose")
        display.markup('<p><a href="claims.html">What would show each claim, and what was found</a></p>')


def claims(study: Study) -> None:
    """The paper's claims with what would show each, and what was found."""
    if not claimed(study):
        display.words("This study has none of the paper's teachers on its data, so its claims are not judged here.")
        return
    display.words(f"{len(study.claims)} claims: {_counted(study)}.")
    display.table(study.claims, "The paper's claims and what became of them", False, name="claims", kind="prose")


def _counted(study: Study) -> str:
    return ", ".join(f"{count} {name}" for name, count in study.claims.judgement.value_counts().items())


def more_training(study: Study) -> None:
    """Where there are several numbers of epochs: scores, images seen, and which cooled-down student has converged."""
    points = study_figures.training_points(study.rows)
    budgets = sorted(points.epochs.unique())
    if len(budgets) < 2:
        return
    with display.fold(f"What does more training bring? Scores after {' and '.join(map(str, budgets))} epochs"):
        last = points[points.epochs == budgets[-1]]
        best = last.loc[last.groupby(["teacher", "dataset"], sort=False).score.idxmax()]
        said = "; ".join(
            f"{p.teacher} {p.method} {p.score:.3f}, teacher {p.teacher_score:.3f}" for p in best.itertuples()
        )
        display.figure(
            lambda narrow: study_figures.training(points, narrow),
            f"Score at each number of epochs, a panel a teacher, a line a method. Highest at the end: {said}.",
            "Score at each number of epochs, the teacher dashed, the same networks without a teacher hollow",
            "training",
            points,
        )
        for dataset in study.good.dataset.unique():
            headline = score_name(study.good[study.good.dataset == dataset].headline.iloc[0])
            caption = f"{dataset_name(dataset)}: {headline} after every number of epochs, and of all controls"
            display.table(score_table(study.rows, dataset), caption, name=f"{dataset}-headline")
        learning.images_seen(study)
        learning.converged(study)


def other_scores(study: Study) -> None:
    """Recall, zero-shot, probes, likeness to the teacher, after the most epochs."""
    own = at_the_end(study.rows)
    own = own[own.variant == ""] if len(own) else own
    with display.fold("What do other scores say? Recall at 1, zero-shot, probes, likeness to the teacher"):
        for dataset, part in own.groupby("dataset", sort=False):
            known = OTHER_SCORES.get(dataset) or [name for names in OTHER_SCORES.values() for name in names]
            for score in dict.fromkeys(known):
                if f"student {score}" in part and part[f"student {score}"].notna().any():
                    name = f"{dataset}-{score.replace('@', '_at_')}"
                    display.table(score_table(part, dataset, score), f"{dataset_name(dataset)}: {score}", name=name)


def as_in_the_paper(study: Study) -> None:
    """The paper's tables, ours by its definition, and why they differ."""
    part = of_the_paper(study.rows)
    if part[part.outcome == "ok"].empty:
        return
    with display.fold("How do the paper's two tables compare? Printed, by its definition, by a sound one"):
        display.words(
            f"{SAME} is the paper's accuracy, freed of the drawing of its batches: the probability that an image's "
            "match beats 63 random others. On Tiny ImageNet it is an identity, since each image looks for itself: an "
            "untrained student has it too."
        )
        for dataset, own in part.groupby("dataset", sort=False):
            name = dataset_name(dataset)
            display.table(
                printed_table(dataset), f"{name}, as the paper prints it (accuracy)", name=f"{dataset}-printed"
            )
            if any(SAME in str(names).split() for names in own.degenerate):
                display.words(
                    f"On {name} every student of ours has {SAME} = 1, trained or not: it is not repeated here."
                )
            else:
                display.table(score_table(own, dataset, SAME), f"{name}, {SAME}", name=f"{dataset}-in_batch")
        frame = threeway_of(part)
        caption = "Each number that the paper prints, ours by its definition, ours by a sound one, and why they differ"
        display.table(frame, caption, False, name="threeway", kind="prose")


def experiments(study: Study) -> None:
    """Every experiment, with a link to its page."""
    with display.fold(f"Where is each experiment? All {len(study.rows)}, with their pages", "fold experiments-list"):
        listing.experiments(study.rows)


def again(study: Study) -> None:
    """How to make these numbers again: commit, versions, command, study file, and the hardware they were made on."""
    record = provenance.read(study.folder)
    if not record["versions"]:
        return
    first = record["versions"][0]
    commit = first["commit"].removesuffix("-dirty")
    lines = [
        f"git checkout {commit}" if commit else f"# kdlib {first['kdlib']}, of no commit",
        f"python -m pip install --editable . --requirement {provenance.LOCK}",
        f"kdlib run {provenance.STUDY}",
    ]
    with display.fold(f"How is it made again? Commit {commit[:10] or 'unknown'}, versions, hardware, study file"):
        display.markup(f"<pre>{html.escape(chr(10).join(lines))}</pre>")
        if len(record["versions"]) > 1:
            display.notice(f"Made with {len(record['versions'])} sets of versions or commits; see the table.")
        for name, said in ((provenance.STUDY, "study file, as it was run"), (provenance.LOCK, "versions, for pip")):
            with display.fold(said):
                display.markup(f'<p><a href="{name}">{name}</a></p>')
                display.markup(f"<pre>{html.escape((study.folder / name).read_text())}</pre>")
        for kind in ("versions", "hardware"):
            frame = pd.DataFrame(record[kind])
            display.table(frame, f"{_sentence(kind)} of the experiments", False, name=kind, kind="prose")
        display.words(f"The experiments finished between {record['from']} and {record['to']}.")


def cite(study: Study) -> None:
    """How to cite the study: with the digest of the file that holds every number."""
    if study.good.empty:
        return
    record = provenance.read(study.folder)
    first = (record["versions"] or [{"kdlib": "", "commit": ""}])[0]
    title = record["study"].get("title", study.name)
    key = f"kdlib-{study.name}-{study.digest[:8]}"
    lines = [
        f"@misc{{{key},",
        f"  title = {{{title}}},",
        f"  howpublished = {{kdlib {first['kdlib']}, commit {first['commit'][:10] or 'none'}, study {study.name}}},",
        f"  note = {{results.csv, SHA-256 {study.digest}}},",
        f"  year = {{{record['to'][:4]}}},",
        "}",
    ]
    display.markup(f'<h2>Cite</h2><pre class="cite">{html.escape(chr(10).join(lines))}</pre>')


# ---------------------------------------------------------------- variants of a training


def variants(study: Study) -> None:
    """Each variant of a method's training beside the method's own, with the verdict; a table a teacher."""
    found = study.verdicts
    for (teacher, dataset), part in study.good.groupby(["teacher", "dataset"], sort=False):
        lines = []
        for (method, variant, epochs), group in part.groupby(["method", "variant", "epochs"], sort=False):
            names = [line_name(method, name, epochs) for name in ("", variant)]
            match = found[(found.teacher == teacher) & (found.dataset == dataset) & (found.a == names[0])
                          & (found.b == names[1])]  # fmt: skip
            row = next(match.itertuples(), None) if variant else None
            lines.append({
                "method": method,
                "training": variant.replace("_", " ") or "the method's own",
                "losses": group.objective.iloc[0],
                "epochs": epochs,
                "score": summary_of(group).text(3),
                "own − variant": _difference(row) if row else "",
                "verdict on the own": row.verdict if row else "",
            })  # fmt: skip
        caption = f"{teacher_name(teacher)} on {dataset_name(dataset)}, {score_name(part.headline.iloc[0])}"
        file = f"variants-{teacher}-{dataset}".replace(":", ".")
        display.table(pd.DataFrame(lines), caption, False, name=file, kind="prose")


def best_on_dev(study: Study) -> None:
    """The best variants, where the scores may choose: on dev."""
    try:
        frame = ranking(study.rows)
    except TuningError:
        display.words("Scored on test, to be reported: nothing may be chosen by these numbers, so there is no ranking.")
        return
    caption = "Share of the teacher's score on dev, best first: what the defaults follow"
    display.table(frame, caption, False, name="ranking")
