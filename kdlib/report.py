"""Executes a study's report notebooks, exports executed notebooks as pages, writes tables and what made them."""

import contextlib
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import nbformat
import pandas as pd
import papermill
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError

from kdlib.comparisons import QUESTIONS, compare
from kdlib.tables import results, runs
from kdlib.utils import project_root, read_json, reports_root, runs_root, write_atomic

MATH = re.compile(r"\$\$(.+?)\$\$|(?<![\\\w])\$(?! )([^$\n]+?)\$(?!\w)", re.S)
BLANK = re.compile(r'<th class="blank[^>]*>(?:&nbsp;|\xa0)</th>')  # pandas's empty heads, which screen readers announce


def page_of(run: str | Path) -> Path:
    """The page of a run's notebook: reports/<study>/<teacher>_<dataset>/<method>-seed<k>-<key8>.html."""
    study, teacher, method, seed = Path(run).parts[-4:]
    return reports_root() / study / teacher / f"{method}-{seed}.html"


def page(notebook: Path, target: Path, links: dict[str, str] | None = None) -> None:
    """Export an executed notebook as one HTML file without script or request; equations become MathML.

    ``links``: name -> address of other pages; by default of the index above a run's page.
    """
    book, folder = nbformat.read(notebook, 4), project_root() / "notebooks"
    book.cells = [cell for cell in book.cells if "papermill-error-cell-tag" not in cell.metadata.setdefault("tags", [])]
    for cell in book.cells:
        if cell.cell_type == "markdown":  # code keeps its dollars
            parts = re.split(r"(```.*?```|`[^`]*`)", cell.source, flags=re.S)
            cell.source = "".join(part if place % 2 else MATH.sub(_mathml, part) for place, part in enumerate(parts))
    heading = next((cell.source.split("\n")[0] for cell in book.cells if cell.source.startswith("# ")), "# Report")
    exporter = HTMLExporter(template_name="template", extra_template_basedirs=[str(folder)])
    resources = {"title": f"{heading[2:]}, {target.parent.name}, {target.stem}",
                 "css": (folder / "template" / "page.css").read_text(encoding="utf-8"),
                 "links": {"All runs of this study": "../index.html"} if links is None else links}  # fmt: skip
    write_atomic(target, BLANK.sub("<td></td>", exporter.from_notebook_node(book, resources)[0]))


def _mathml(found: re.Match) -> str:
    return convert(found[1] or found[2], display="block" if found[1] else "inline")


def report(study: str, notebooks=("report", "claims"), out=None) -> Path:
    """Make the pages of a study in reports/<study>/ (or ``out``), the first notebook's as index.html; returns that.

    Beside them: executed notebooks, tables, requirements.txt, the study file; a page of ablations if there are any. A
    cell that fails is an error when all is written.
    """
    folder, root = Path(out or reports_root() / study), runs_root()
    table = runs(study)
    tests = pd.concat({name: compare(table, name) for name in QUESTIONS}, names=["question"]).reset_index("question")
    # Paths are from the study's folder; the scores' key leads to the run, and to its path.
    places = table.assign(path=table.path.str.removeprefix(f"{root / study}{os.sep}"))
    scores = results(study).drop(columns="path")
    for name, frame in {"runs": places, "results": scores, "comparisons": tests}.items():
        write_atomic(folder / f"{name}.csv", frame.to_csv(index=False, float_format="%.6g"))
    installed = sorted((one.name.lower(), one.version) for one in metadata.distributions() if one.name != "kdlib")
    write_atomic(folder / "requirements.txt", "".join(f"{name}=={version}\n" for name, version in installed))
    file = project_root() / (read_json(root / study / "index.json") or {}).get("file", "")
    if file.is_file():
        write_atomic(folder / "study.yaml", file.read_bytes())
    names = [*notebooks, *(["ablations"] if "ablation" in set(table.role) else [])]
    pages = {name: "index.html" if name == names[0] else f"{name}.html" for name in names}
    beside = {name: file.parent / f"{name}.ipynb" for name in names}  # a study's own notebooks
    sources = [path if path.is_file() else project_root() / "notebooks" / path.name for path in beside.values()]
    links = [{one.capitalize(): at for one, at in pages.items() if one != name} for name in names]
    given, targets = [{"study": study, "path": str(root)}] * len(names), [folder / page for page in pages.values()]
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(execute, sources, targets, given, links))
    if failed := [error for _, error in made if error]:
        raise RuntimeError("; ".join(failed))
    return folder / "index.html"


def execute(source: Path, target: Path, parameters: dict, links: dict) -> tuple:
    """Execute a notebook and export it as the page ``target``, both in its folder; returns it, and a cell's error."""
    os.environ["JUPYTER_PATH"] = f"{sys.prefix}/share/jupyter"  # our 'python3', whatever is registered by that name
    made = target.with_name(source.name)
    made.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(PapermillExecutionError):  # of the last cell that failed
        papermill.execute_notebook(
            source, made, parameters, kernel_name="python3", progress_bar=False, cwd=source.parent, allow_errors=True,
            shutdown_kernel="immediate", extra_arguments=["--IPKernelApp.log_level=40"],
        )  # fmt: skip
    page(made, target, links)
    book = nbformat.read(made, 4)
    outputs = [output for cell in book.cells for output in cell.get("outputs", ()) if output.output_type == "error"]
    why = [f"{target} shows the error of a cell: {one.ename}: {one.evalue}" for one in outputs[:1]]
    return book, "".join(why)
