"""Executed notebook -> one HTML page that needs nothing but itself; and the page of a whole study."""

import json
from pathlib import Path

from kdlib import table
from kdlib.claims import judge
from kdlib.runs import digest, file_digest, read_json, reports_root, write_atomic, write_json
from kdlib.study import CellSpec, StudyConfig, notebooks_folder
from kdlib.threeway import threeway
from kdlib.verdicts import verdicts

TEMPLATE = Path(__file__).parent / "report_template"


def export_cell(notebook: Path, page: Path, title: str = "") -> None:
    """Render an executed notebook; parameters are shown as a table, code is folded away.

    ``title`` of the page; the notebook's first heading where there is none.
    """
    import nbformat
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    settings = Config()
    settings.TagRemovePreprocessor.enabled = True
    settings.TagRemovePreprocessor.remove_cell_tags = {"remove-cell"}
    settings.TagRemovePreprocessor.remove_input_tags = {"remove-input", "parameters", "injected-parameters"}
    settings.CoalesceStreamsPreprocessor.enabled = True
    exporter = HTMLExporter(
        config=settings,
        template_name=TEMPLATE.name,
        extra_template_basedirs=[str(TEMPLATE.parent)],
    )
    book = nbformat.read(notebook, as_version=4)
    title = title or next(
        (line[2:] for cell in book.cells for line in cell.source.splitlines() if line.startswith("# ")), ""
    )
    book.metadata["title"] = title or notebook.stem
    resources = {"page_css": (TEMPLATE / "page.css").read_text(), "metadata": {"name": notebook.stem}}
    body, _ = exporter.from_notebook_node(book, resources=resources)
    write_atomic(page, body)


def missing_pages(cells: list[CellSpec], folder_of) -> list[tuple[Path, Path]]:
    """(notebook, page) of finished cells whose page is absent or older than the notebook or the template."""
    newest = max(path.stat().st_mtime for path in TEMPLATE.iterdir())
    pairs = []
    for spec in cells:
        notebook, page = folder_of(spec.config).notebook_path(spec.config.epochs), spec.page
        if not notebook.exists():
            continue
        if not page.exists() or page.stat().st_mtime < max(newest, notebook.stat().st_mtime):
            pairs.append((notebook, page))
    return pairs


def build(study: StudyConfig, cells: list[CellSpec], folder_of) -> Path:
    """Tables, missing pages and index.html of a study; only what is out of date. Returns the index.

    ``folder_of(config)`` gives the run's folder. Raises TripWireError when a check on the scores was tripped, and
    RuntimeError when a report notebook fails.
    """
    folder = reports_root() / study.study
    for notebook, page in missing_pages(cells, folder_of):
        export_cell(notebook, page)
    rows = table.collect(cells, folder_of, folder)
    table.check(rows)
    notebooks = [notebooks_folder() / f"{name}.ipynb" for name in study.reports]
    code = [
        file_digest(path) for path in (*notebooks, *sorted(Path(__file__).parent.glob("*.py")), *TEMPLATE.iterdir())
    ]
    state = digest({"rows": json.loads(json.dumps(rows, default=str)), "code": code})
    index = folder / "index.html"
    if index.exists() and (read_json(folder / "index.json") or {}).get("state") == state:
        return index
    table.write(rows, folder)
    frame = table.read(folder)
    write_atomic(folder / "verdicts.csv", verdicts(frame).to_csv(index=False))
    write_atomic(folder / "threeway.csv", threeway(frame).to_csv(index=False))
    write_atomic(folder / "claims.csv", judge(frame).to_csv(index=False))
    for place, notebook in enumerate(notebooks):
        page = folder / f"{notebook.stem}.html" if place else index
        executed = folder_of(cells[0].config).path.parents[2] / notebook.name
        _render(notebook, {"study": study.study, "title": study.title}, executed, page, study.title)
    write_json(folder / "index.json", {"state": state})
    return index


def build_bench() -> Path:
    """reports/bench/index.html from reports/bench/bench.json."""
    folder = reports_root() / "bench"
    _render(notebooks_folder() / "bench.ipynb", {}, folder / "bench.ipynb", folder / "index.html", "How fast it is")
    return folder / "index.html"


def _render(notebook: Path, parameters: dict, executed: Path, page: Path, title: str) -> None:
    """Execute a report notebook and make its page."""
    from kdlib.execute import execute

    job = {
        "notebook": str(notebook),
        "parameters": parameters,
        "output": str(executed),
        "failed_output": str(executed.with_suffix(".failed.ipynb")),
    }
    answer = execute(job)
    if answer["outcome"] != "ok":
        raise RuntimeError(f"The notebook {notebook.name} failed: {answer['error']}. See {job['failed_output']}.")
    export_cell(executed, page, title)
