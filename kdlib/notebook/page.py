"""An executed notebook as one HTML page that needs nothing but itself."""

import html
import re
from pathlib import Path

from kdlib.files import file_digest, read_record, reports_root, write_atomic

TEMPLATE = Path(__file__).parent / "template"
MADE_FROM = "<!-- made from the notebook "


def export_page(notebook: Path, page: Path, title: str = "", css: str = "", script: str = "") -> None:
    """Render an executed notebook; parameters are shown as a table, code is folded away.

    ``title`` is put behind the notebook's first heading; by default, for an experiment, its method, epochs and seed.
    ``css`` and ``script`` are put into the page beside the template's own.
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
    book.metadata["title"] = _headed(notebook, book, page, title) or notebook.stem
    resources = {"page_css": (TEMPLATE / "page.css").read_text() + css, "metadata": {"name": notebook.stem}}
    body, _ = exporter.from_notebook_node(book, resources=resources)
    if script:
        body = f"<script>\n{script}</script>\n</body>".join(body.rsplit("</body>", 1))
    write_atomic(page, f"{body.rstrip()}\n{MADE_FROM}{file_digest(notebook)} -->\n")


def made_from(page: Path) -> str | None:
    """The digest of the notebook that a page shows; None where there is no page, or not a whole one."""
    try:
        with open(page, "rb") as file:
            file.seek(max(0, page.stat().st_size - 200))
            ending = file.read().decode(errors="replace")
    except FileNotFoundError:
        return None
    _, found, rest = ending.partition(MADE_FROM)
    return rest.removesuffix(" -->\n") if found and rest.endswith(" -->\n") else None


def _headed(notebook: Path, book, page: Path, title: str) -> str:
    """Complete the first heading, and link an experiment's page to its study's. Returns the heading."""
    given = book.metadata.get("papermill", {}).get("parameters", {})
    if not title and {"method", "epochs", "seed"} <= set(given):
        facts = (given["method"], given.get("variant", "").replace("_", " "), f"{given['epochs']} epochs")
        title = ", ".join(filter(None, (*facts, f"seed {given['seed']}")))
    first = next((cell for cell in book.cells if cell.source.startswith("# ")), None)
    if first is None:
        return title
    heading, _, rest = first.source.partition("\n")
    heading = _of_its_own(notebook, heading[2:])
    if given.get("study") and page.parents[1] == reports_root() / given["study"]:
        rest = f"\n[All of this study](../index.html)\n{rest}"
    first.source = f"# {html.escape(heading)}{': ' if title else ''}{as_text(title)}\n{rest}"
    return f"{heading}: {title}" if title else heading


def as_text(words: str) -> str:
    """Text as Markdown that shows it as it is: all markup and links are escaped."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(words.split()))


def _of_its_own(notebook: Path, heading: str) -> str:
    """The heading; if it names another teacher or data set, as in a copied notebook, the run's own."""
    config = (read_record(notebook.parent / "config.json") or {}).get("config", {})
    names = [config.get(name, "") for name in ("teacher", "dataset")]
    said = heading.lower().replace(" ", "")
    return heading if all(name.lower().replace(" ", "") in said for name in names) else " on ".join(names)
