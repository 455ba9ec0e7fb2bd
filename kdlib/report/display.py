"""Shows the parts of a page: numbered figures and tables with captions, paragraphs, notices, folded sections.

A notebook is one page. :func:`begin` says where the files of its figures and tables go and what each caption ends
with, and starts their numbers at 1. What has a ``name`` is also written to figures/ beside the page: a figure as SVG, a
table as LaTeX, both with their numbers as CSV.
"""

import base64
import html
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML, display
from matplotlib.figure import Figure
from PIL import Image

from kdlib.files import write_atomic
from kdlib.report import latex

FOLDER = "figures"
PHONE = 640  # pixels: a narrower window gets the figure that was drawn for it
SHARP = 1.6  # dots of a PNG to a pixel of the page
INTERVAL = re.compile(r"\[([^\s\[\],]+), ([^\s\[\],]+)\]")  # is not broken across lines
_page: dict = {"folder": None, "facts": "", "table": 0, "figure": 0}
_open: list[list[str]] = []  # what is in the folds that are being filled, innermost last


class Markup(str):
    """A table's entry that is HTML already."""


class Strong(str):
    """A table's entry that stands out."""


def begin(folder: Path | None = None, facts: str = "") -> None:
    """Begin a page. Its files go to ``folder`` (None: there are none); ``facts`` end every numbered caption."""
    _page.update(folder=folder, facts=facts, table=0, figure=0)
    _open.clear()


def markup(text: str) -> None:
    """Show HTML as it stands; what comes from data must have been escaped."""
    _open[-1].append(text) if _open else display(HTML(text))


def words(text: str) -> None:
    """Show a paragraph."""
    markup(f"<p>{html.escape(text)}</p>")


def sentences(found: Sequence[tuple[str, str]]) -> None:
    """Show a list of (what it is about, the sentence)."""
    lines = "".join(f"<li><b>{html.escape(name)}:</b> {html.escape(said)}</li>" for name, said in found)
    markup(f'<ul class="findings">{lines}</ul>')


def notice(text: str) -> None:
    """Show a warning that stays in the report."""
    # The page's own style sheet is not there in JupyterLab, so that the mark is on the paragraph itself.
    mark = "border-left: 4px solid #b7791f; padding: 0.4em 0.8em"
    markup(f'<p class="notice" style="{mark}">{html.escape(text)}</p>')


@contextmanager
def fold(question: str, kind: str = "fold") -> Iterator[None]:
    """Fold all that is shown inside behind the line ``question``; shows nothing if nothing is inside."""
    _open.append([])
    try:
        yield
    finally:
        if content := "".join(_open.pop()):
            markup(f'<details class="{kind}"><summary>{html.escape(question)}</summary>{content}</details>')


@contextmanager
def busy(doing: str) -> Iterator[None]:
    """Show what is being done while it takes long; the line is removed afterwards."""
    said = display(HTML(f"<p>{html.escape(doing)} ...</p>"), display_id=True)
    try:
        yield
    finally:
        if said is not None:  # no notebook, no handle
            said.update(HTML(""))


# ---------------------------------------------------------------- figures


def figure(
    draw: Callable[[bool], Figure], alt: str, caption: str = "", name: str = "", data: pd.DataFrame | None = None
) -> None:
    """Show a figure with alternative text, drawn twice: ``draw(False)`` for a screen, ``draw(True)`` for a phone.

    ``caption``: in a sentence, else the first sentence of ``alt``. ``data``: the numbers that it draws.
    """
    wide, narrow = draw(False), draw(True)
    if name and _page["folder"]:
        _write(f"{name}.svg", svg(wide))
        if data is not None:
            _write(f"{name}.csv", data.to_csv(index=False))
    links = _links(name, {"SVG": "svg"} | ({"CSV": "csv"} if data is not None else {}))
    width, height = (int(100 * inches) for inches in wide.get_size_inches())
    said = html.escape(alt)
    markup(
        f'<figure class="drawn"><picture><source media="(max-width: {PHONE}px)" srcset="{_png(narrow)}">'
        f'<img src="{_png(wide)}" alt="{said}" width="{width}" height="{height}"></picture>'
        f"<figcaption>{_caption('figure', caption or alt.split('. ')[0].rstrip('.'))}</figcaption>{links}</figure>"
    )


def pictures(parts: Iterable[str], caption: str) -> None:
    """Show photographs, lines of :mod:`kdlib.report.pictures`, as one numbered figure."""
    markup(
        f'<figure class="photographs">{"".join(parts)}<figcaption>{_caption("figure", caption)}</figcaption></figure>'
    )


def _png(drawn: Figure) -> str:
    """A figure as a data URI, in few colours; it is closed."""
    buffer, small = io.BytesIO(), io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=100 * SHARP, facecolor="white")
    plt.close(drawn)
    Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(small, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(small.getvalue()).decode()}"


def svg(drawn: Figure) -> bytes:
    """A figure as SVG, the same bytes for the same figure: no date, and ids that do not depend on chance."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "kdlib"}):
        drawn.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None})
    return buffer.getvalue()


# ---------------------------------------------------------------- tables


def table(
    frame: pd.DataFrame, caption: str, index: bool = True, digits: int = 3, name: str = "", kind: str = ""
) -> None:
    """Show a table with its caption; a wide one scrolls in its own box, with the keyboard too.

    Columns may have two levels. ``kind``: CSS classes; 'prose' for words, whose rows become cards on a phone,
    'experiments' for a table that sorts. Entries are text, numbers, :class:`Markup` or :class:`Strong`; a missing one
    is '–'. The name of the columns is the heading of the index.
    """
    if name and _page["folder"]:
        told = f"{caption}. {_page['facts']}" if _page["facts"] else caption
        _write(f"{name}.tex", latex.table(frame, told, name, index, digits))
        _write(f"{name}.csv", _flat(frame).to_csv(index=index, index_label=frame.columns.name))
    kind += " numbers" if "prose" not in kind else ""
    kind += " wide" if frame.shape[1] + index > 4 and "prose" not in kind else ""
    body = "".join(_row(frame, place, index, digits) for place in range(len(frame)))
    head = f"<caption>{_caption('table', caption)}</caption><thead>{_head(frame, index)}</thead>"
    said = html.escape(caption)
    markup(
        f'<div class="table{" wide" if "wide" in kind else ""}" tabindex="0" role="region" aria-label="{said}">'
        f'<table class="{kind.strip()}">{head}<tbody>{body}</tbody></table></div>'
        f"{_links(name, {'LaTeX': 'tex', 'CSV': 'csv'})}"
    )


def _head(frame: pd.DataFrame, index: bool) -> str:
    corner = html.escape(frame.columns.name or "") if frame.columns.nlevels == 1 else ""
    first = (f'<th scope="col">{corner}</th>' if corner else "<td></td>") if index else ""
    if frame.columns.nlevels == 1:
        names = "".join(f'<th scope="col">{html.escape(str(name))}</th>' for name in frame)
        return f"<tr>{first}{names}</tr>"
    groups: list[list] = []
    for upper, _ in frame.columns:
        if groups and groups[-1][0] == upper:
            groups[-1][1] += 1
        else:
            groups.append([upper, 1])
    above = "".join(f'<th scope="colgroup" colspan="{count}">{html.escape(str(upper))}</th>' for upper, count in groups)
    below = "".join(f'<th scope="col">{html.escape(str(lower))}</th>' for _, lower in frame.columns)
    return f"<tr>{first}{above}</tr><tr>{first}{below}</tr>"


def _row(frame: pd.DataFrame, place: int, index: bool, digits: int) -> str:
    label = f'<th scope="row">{entry(frame.index[place], digits)}</th>' if index else ""
    cells = "".join(
        f'<td data-label="{html.escape(_joined(name))}">{entry(frame.iat[place, column], digits)}</td>'
        for column, name in enumerate(frame.columns)
    )
    return f"<tr>{label}{cells}</tr>"


def entry(value, digits: int = 3) -> str:
    """One entry of a table as HTML."""
    if isinstance(value, Markup):
        return value
    text = html.escape(latex.plain(value, digits))
    text = INTERVAL.sub("[\\1,&nbsp;\\2]", text).replace(" ± ", "&nbsp;±&nbsp;").replace(" [", " <span>[")
    text = re.sub(r"(<span>\[[^\]]*\])", r"\1</span>", text)
    return f"<strong>{text}</strong>" if isinstance(value, Strong) else text


def _joined(name) -> str:
    return " ".join(filter(None, name)) if isinstance(name, tuple) else str(name)


def _flat(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with one level of columns."""
    return frame.set_axis([_joined(name) for name in frame.columns], axis=1) if frame.columns.nlevels > 1 else frame


# ---------------------------------------------------------------- both


def _caption(kind: str, text: str) -> str:
    _page[kind] += 1
    facts = f' <span class="facts">{html.escape(_page["facts"])}</span>' if _page["facts"] else ""
    return f"<b>{kind.capitalize()} {_page[kind]}.</b> {html.escape(text.rstrip('.'))}.{facts}"


def _write(file: str, content: str | bytes) -> None:
    write_atomic(_page["folder"] / FOLDER / file, content)


def _links(name: str, kinds: dict[str, str]) -> str:
    if not (name and _page["folder"]):
        return ""
    links = " · ".join(
        f'<a href="{FOLDER}/{html.escape(name)}.{suffix}" aria-label="{html.escape(name)} as {words}">{words}</a>'
        for words, suffix in kinds.items()
    )
    return f'<p class="files">{links}</p>'
