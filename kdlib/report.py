"""Executed notebook -> one HTML page that needs nothing but itself; and the page of a whole study."""

import gc
import html
import json
from contextlib import contextmanager
from pathlib import Path

from kdlib import compare, provenance, results
from kdlib.claims import judge
from kdlib.runs import digest, file_digest, read_json, reports_root, write_atomic, write_json
from kdlib.study import CellSpec, StudyConfig, notebooks_folder
from kdlib.threeway import threeway
from kdlib.verdicts import verdicts

TEMPLATE = Path(__file__).parent / "report_template"


def export_cell(notebook: Path, page: Path, title: str = "", css: str = "", script: str = "") -> None:
    """Render an executed notebook; parameters are shown as a table, code is folded away.

    ``title`` goes behind the notebook's first heading; where none is given and the notebook is a cell's, its method,
    epochs and seed. ``css`` and ``script`` are put into the page beside the template's own.
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
    book.metadata["title"] = _headed(book, page, title) or notebook.stem
    resources = {"page_css": (TEMPLATE / "page.css").read_text() + css, "metadata": {"name": notebook.stem}}
    body, _ = exporter.from_notebook_node(book, resources=resources)
    if script:
        body = f"<script>\n{script}</script>\n</body>".join(body.rsplit("</body>", 1))
    write_atomic(page, body)


def _headed(book, page: Path, title: str) -> str:
    """Say in the notebook's first heading what the page is of, and link a cell's page to its study's; the heading."""
    given = book.metadata.get("papermill", {}).get("parameters", {})
    if not title and {"method", "epochs", "seed"} <= set(given):
        facts = (given["method"], given.get("variant", "").replace("_", " "), f"{given['epochs']} epochs")
        title = ", ".join(filter(None, (*facts, f"seed {given['seed']}")))
    first = next((cell for cell in book.cells if cell.source.startswith("# ")), None)
    if first is None:
        return title
    heading, _, rest = first.source.partition("\n")
    heading = f"{heading[2:]}: {title}" if title else heading[2:]
    if given.get("study") and page.parents[1] == reports_root() / given["study"]:
        rest = f"\n[All of this study](../index.html)\n{rest}"
    first.source = f"# {html.escape(heading)}\n{rest}"
    return heading


def missing_pages(cells: list[CellSpec], folder_of) -> list[tuple[Path, Path]]:
    """(notebook, page) of finished and of failed cells whose page is absent or older than notebook or template."""
    newest = max(path.stat().st_mtime for path in TEMPLATE.iterdir())
    pairs = []
    for spec in cells:
        run, epochs = folder_of(spec.config), spec.config.epochs
        for failed, page in ((False, spec.page), (True, spec.failed_page)):
            notebook = run.notebook_path(epochs, failed)
            if not notebook.exists():
                continue
            if not page.exists() or page.stat().st_mtime < max(newest, notebook.stat().st_mtime):
                pairs.append((notebook, page))
    return pairs


@contextmanager
def no_collecting():
    """Leaves what exists now out of garbage collection.

    statsmodels collects at each correction for multiple comparisons, which walks through all of torch each time.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def build(study: StudyConfig, cells: list[CellSpec], folder_of) -> Path:
    """Tables, missing pages and index.html of a study; only what is out of date. Returns the index.

    ``folder_of(config)`` gives the run's folder. Raises TripWireError when a check on the scores was tripped, and
    RuntimeError when a report notebook fails.
    """
    folder = reports_root() / study.study
    for notebook, page in missing_pages(cells, folder_of):
        export_cell(notebook, page)
    rows = results.collect(cells, folder_of, folder)
    results.check(rows)
    record = provenance.collect(study, cells, folder_of, rows)
    notebooks = [notebooks_folder() / f"{name}.ipynb" for name in study.reports]
    state = digest({"rows": json.loads(json.dumps(rows, default=str)), "made": record, "code": _code(notebooks)})
    index = folder / "index.html"
    if index.exists() and (read_json(folder / "index.json") or {}).get("state") == state:
        return index
    results.write(rows, folder)
    provenance.write(record, folder)
    frame = results.read(folder)
    compare.keep(frame, folder)
    with no_collecting():
        write_atomic(folder / "verdicts.csv", verdicts(frame).to_csv(index=False))
        write_atomic(folder / "threeway.csv", threeway(frame).to_csv(index=False))
        write_atomic(folder / "claims.csv", judge(frame).to_csv(index=False))
    for place, notebook in enumerate(notebooks):
        page = folder / f"{notebook.stem}.html" if place else index
        executed = folder_of(cells[0].config).path.parents[2] / notebook.name
        _render(notebook, {"study": study.study}, executed, page, study.title)
    write_json(folder / "index.json", {"state": state})
    return index


def build_bench() -> Path:
    """reports/bench/index.html from reports/bench/bench.json."""
    folder = reports_root() / "bench"
    _render(notebooks_folder() / "bench.ipynb", {}, folder / "bench.ipynb", folder / "index.html", "How fast it is")
    return folder / "index.html"


def build_comparison(first: Path, second: Path, out: str = "") -> Path:
    """index.html and compare.csv of two reports' folders, in reports/<out>. Returns the index.

    ``out``: '<first>-vs-<second>' where none is given. Raises FileNotFoundError when a folder holds no results, and
    RuntimeError when the notebook fails.
    """
    sides = [compare.read(folder) for folder in (first, second)]
    name = out or "-vs-".join(side.name for side in sides)
    folder = reports_root() / name
    if folder.resolve() in (first.resolve(), second.resolve()):
        raise ValueError(f"The comparison would overwrite the report {folder}; give it another name with --out.")
    with no_collecting():
        write_atomic(folder / "compare.csv", compare.compare(*sides).to_csv(index=False))
    parameters = {"first": str(first.resolve()), "second": str(second.resolve()), "name": name}
    title = f"{sides[0].name} and {sides[1].name}"
    notebook = notebooks_folder() / "compare.ipynb"
    _render(notebook, parameters, folder / notebook.name, folder / "index.html", title)
    return folder / "index.html"


def _code(notebooks: list[Path]) -> list[str]:
    """Digests of what a study's pages are made with."""
    modules = sorted(Path(__file__).parent.glob("*.py"))
    return [file_digest(path) for path in (*notebooks, *modules, *sorted(TEMPLATE.iterdir()))]


def _render(notebook: Path, parameters: dict, executed: Path, page: Path, title: str) -> None:
    """Execute a notebook about whole studies and make its page, whose tables can be sorted."""
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
    css, script = ((TEMPLATE / name).read_text() for name in ("study.css", "sort.js"))
    export_cell(executed, page, title, css, script)
