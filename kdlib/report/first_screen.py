"""The first screen of a study's report: findings, cautions, one picture, one table, and the links to the rest."""

import html

from kdlib.report import cautions as warnings
from kdlib.report import display, listing, provenance, study_figures
from kdlib.report import findings as sentences
from kdlib.report import main_table as tables
from kdlib.report import rows as results
from kdlib.report.one_study import Study, claimed
from kdlib.report.style import dataset_name, teacher_name


def findings(study: Study) -> None:
    """The findings, in at most five sentences; above them, the experiments that failed."""
    listing.failures(study.rows)
    found = sentences.findings(study.rows, study.verdicts)
    if not found:
        display.notice("No experiment has finished yet.")
        return
    display.sentences(found)


def cautions(study: Study) -> None:
    """The warnings of :mod:`kdlib.report.cautions` in one box: one line, which opens to sentences."""
    found = warnings.cautions(study.rows)
    if found:
        short = " · ".join(dict.fromkeys(name for name, _ in found))
        lines = "".join(f"<li><b>{html.escape(name)}.</b> {html.escape(said)}</li>" for name, said in found)
        display.markup(f'<details class="cautions"><summary><b>Careful:</b> {html.escape(short)}</summary>'
                       f"<ul>{lines}</ul></details>")  # fmt: skip


def picture(study: Study) -> None:
    """The score against the deployed size, and against the images seen if some students trained longer."""
    if study.good.empty:
        return
    sizes, training = study_figures.size_points(study.rows), study_figures.training_points(study.rows)
    if sizes.empty:
        return
    fronts = "; ".join(
        f"{dataset_name(dataset)}: {', '.join(f'{teacher_name(p.teacher)} {p.method}' for p in part.itertuples())}"
        for dataset, part in sizes[sizes.front].sort_values("mb").groupby("dataset", sort=False)
    )
    longer = study_figures.trained_longer(training)
    caption = (
        "The score against all the MB that inference needs, with the teachers (vertical marks, with names); the line "
        "joins what nothing else beats in both (Pareto front). Bars are 95 % intervals"
    )
    if longer:
        caption += ". More training: the share of the teacher's score (dashed) against the images seen in training"
    draw = lambda narrow: study_figures.overview(sizes, training, narrow)  # noqa: E731
    also = ", and what more training brings" if longer else ""
    alt = f"Quality against deployed size{also}. On the Pareto front, {fronts}."
    display.figure(draw, alt, caption, "overview", sizes)


def main_table(study: Study) -> None:
    """Methods by teachers with all controls."""
    frame = tables.main_table(study.rows, study.verdicts)
    if len(frame):
        display.table(frame, tables.CAPTION, name="main", kind="main")
    for line in results.references(study.good):
        display.words(line)


def pages(study: Study) -> None:
    """Links to the study's other pages and its files."""
    names = {"claims.html": "the paper's claims", "results.csv": "all rows", "verdicts.csv": "all comparisons",
             "threeway.csv": "the paper's numbers beside ours", "study.yaml": "study file"}  # fmt: skip
    links = [f'<a href="{name}">{said}</a>' for name, said in names.items()
             if (study.folder / name).exists() or (name == "claims.html" and claimed(study))]  # fmt: skip
    display.markup(f'<p class="files">{" · ".join([*links, *_verified(study)])}</p>')


def _verified(study: Study) -> list[str]:
    """When ``kdlib verify`` last looked at the study's files, and what it found."""
    found = provenance.read(study.folder).get("verified")
    if not found:
        return []
    said = f"{found['results']} results unaltered, {found['recomputed']} computed again"
    said = f"{len(found['problems'])} problems" if found["problems"] else said
    return [html.escape(f"verified {found['when']}: {said}")]
