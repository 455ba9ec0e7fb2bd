"""Builds the pages and tables of a study, and of a comparison of two; only what is out of date is built again."""

import html
import json
import re
from pathlib import Path

import pandas as pd

from kdlib.files import digest, file_digest, read_json, reports_root, write_atomic, write_json
from kdlib.notebook.page import TEMPLATE, export_page
from kdlib.report import provenance, two_studies
from kdlib.report import rows as results
from kdlib.report.claims import judge
from kdlib.report.paper import threeway
from kdlib.report.scores import line_name
from kdlib.report.verdicts import verdicts
from kdlib.study.file import ExperimentSpec, StudyConfig, notebooks_folder
from kdlib.study.status import Inspector

SHOWN = ("untrained", "pca", "no teacher", "teacher", "variant")  # verdicts of a student's own page
PLACE = re.compile(r'<div class="verdicts">.*?</div>', re.DOTALL)


def missing_pages(experiments: list[ExperimentSpec], folder_of) -> list[tuple[Path, Path]]:
    """(notebook, page) of finished and failed experiments whose page is absent or older than notebook or template."""
    newest = max(path.stat().st_mtime for path in TEMPLATE.iterdir())
    pairs = []
    for spec in experiments:
        run, epochs = folder_of(spec.config), spec.config.epochs
        for failed, page in ((False, spec.page), (True, spec.failed_page)):
            notebook = run.notebook_path(epochs, failed)
            if not notebook.exists():
                continue
            if not page.exists() or page.stat().st_mtime < max(newest, notebook.stat().st_mtime):
                pairs.append((notebook, page))
    return pairs


def build(study: StudyConfig, experiments: list[ExperimentSpec], folder_of, inspector: Inspector | None = None) -> Path:
    """Tables, missing pages and index.html of a study; only what is out of date. Returns the index.

    ``folder_of(config)`` gives the run's folder; ``inspector`` may have opened the data sets before. Raises
    TripWireError when a check on the scores was tripped, and RuntimeError when a report notebook fails.
    """
    folder = reports_root() / study.study
    for notebook, page in missing_pages(experiments, folder_of):
        export_page(notebook, page)
    rows = results.collect(experiments, folder_of, folder, inspector)
    results.check(rows)
    record = provenance.collect(study, experiments, folder_of, rows)
    notebooks = [notebooks_folder() / f"{name}.ipynb" for name in study.reports]
    state = digest({"rows": json.loads(json.dumps(rows, default=str)), "made": record, "code": _code(notebooks)})
    index = folder / "index.html"
    if index.exists() and (read_json(folder / "index.json") or {}).get("state") == state:
        return index
    results.write(rows, folder)
    provenance.write(record, folder)
    frame = results.read(folder)
    two_studies.keep(frame, folder)
    write_atomic(folder / "verdicts.csv", verdicts(frame).to_csv(index=False))
    write_atomic(folder / "threeway.csv", threeway(frame).to_csv(index=False))
    write_atomic(folder / "claims.csv", judge(frame).to_csv(index=False))
    stamp(frame, folder)
    for place, notebook in enumerate(notebooks):
        page = folder / f"{notebook.stem}.html" if place else index
        executed = folder_of(experiments[0].config).path.parents[2] / notebook.name
        _render(notebook, {"study": study.study}, executed, page, study.title)
    write_json(folder / "index.json", {"state": state})
    return index


def stamp(frame: pd.DataFrame, folder: Path) -> None:
    """Write the study's verdicts on each student into its page, so that page and index agree."""
    found = pd.read_csv(folder / "verdicts.csv")
    for row in frame[(frame.outcome == "ok") & (frame.page.fillna("") != "")].itertuples():
        page = folder / row.page
        before = page.read_text()
        after = PLACE.sub(lambda _, row=row: verdicts_of(row, found), before, count=1)
        if after != before:
            write_atomic(page, after)


def verdicts_of(row, found: pd.DataFrame) -> str:
    """The verdicts on one student, as HTML."""
    name = line_name(row.method, row.variant, row.epochs)
    own = found[(found.teacher == row.teacher) & (found.dataset == row.dataset) & (found.a == name)]
    own = own[own.question.isin(SHOWN)]
    lines = "".join(
        f"<li>against {html.escape(one.b)}: <strong>{one.verdict}</strong></li>" for one in own.itertuples()
    )
    head = "Verdicts of the whole study, over all seeds and corrected for all comparisons of a question:"
    return f'<div class="verdicts">{f"<p>{head}</p><ul>{lines}</ul>" if lines else ""}</div>'


def build_bench() -> Path:
    """reports/bench/index.html from reports/bench/bench.json."""
    folder = reports_root() / "bench"
    _render(notebooks_folder() / "bench.ipynb", {}, folder / "bench.ipynb", folder / "index.html", "How fast it is")
    return folder / "index.html"


def build_comparison(first: Path, second: Path, out: str = "") -> Path:
    """index.html and compare.csv of two reports' folders, in reports/<out>. Returns the index.

    ``out``: by default '<first>-vs-<second>'. Raises FileNotFoundError when a folder holds no results, and
    RuntimeError when the notebook fails.
    """
    sides = [two_studies.read(folder) for folder in (first, second)]
    name = out or "-vs-".join(side.name for side in sides)
    folder = reports_root() / name
    if folder.resolve() in (first.resolve(), second.resolve()):
        raise ValueError(f"The comparison would overwrite the report {folder}; give it another name with --out.")
    write_atomic(folder / "compare.csv", two_studies.compare(*sides).to_csv(index=False))
    parameters = {"first": str(first.resolve()), "second": str(second.resolve()), "name": name}
    title = f"{sides[0].name} and {sides[1].name}"
    notebook = notebooks_folder() / "compare.ipynb"
    _render(notebook, parameters, folder / notebook.name, folder / "index.html", title)
    return folder / "index.html"


def _code(notebooks: list[Path]) -> list[str]:
    """Digests of the notebooks, code and templates that make a study's pages."""
    modules = sorted(Path(__file__).parent.glob("*.py"))
    return [file_digest(path) for path in (*notebooks, *modules, *sorted(TEMPLATE.iterdir()))]


def _render(notebook: Path, parameters: dict, executed: Path, page: Path, title: str) -> None:
    """Execute a notebook about whole studies and make its page, whose tables can be sorted."""
    from kdlib.notebook.execute import execute

    job = {
        "notebook": str(notebook),
        "parameters": parameters,
        "output": str(executed),
        "failed_output": str(executed.with_suffix(".failed.ipynb")),
    }
    answer = execute(job)
    if answer["outcome"] != "ok":
        raise RuntimeError(f"The notebook {notebook.name} failed: {answer['error']}. See {job['failed_output']}.")
    css, script = ((TEMPLATE / name).read_text() for name in ("study.css", "sort.js"))
    export_page(executed, page, title, css, script)
