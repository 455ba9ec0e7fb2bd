"""Figures and tables of a report, each beside a link to it as files: SVG or LaTeX for a paper, CSV for the numbers.

The page holds its figures itself; the files lie in figures/ beside it, and only the links need them.
"""

import html
import io
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from kdlib.files import reports_root, write_atomic
from kdlib.report import display

FOLDER = "figures"
# What LaTeX does not read as it stands; a backslash first, since the others bring one.
SPECIAL = str.maketrans({"\\": r"\textbackslash{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"},
                         "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "–": "--",
                         "×": r"$\times$"})  # fmt: skip


def report_of(rows: pd.DataFrame) -> Path:
    """The folder of the report that rows of a study belong to."""
    return reports_root() / rows.study.iloc[0]


def figure(drawn: Figure, alt: str, data: pd.DataFrame, report: Path, name: str) -> None:
    """Show a figure, write figures/<name>.svg and the numbers that it draws to .csv, and link both."""
    write_atomic(report / FOLDER / f"{name}.svg", svg(drawn))
    write_atomic(report / FOLDER / f"{name}.csv", data.to_csv(index=False))
    display.figure(drawn, alt)
    _links(name, {"SVG": "svg", "CSV": "csv"})


def table(
    frame: pd.DataFrame, caption: str, report: Path, name: str, index: bool = True, digits: int = 3, **options
) -> None:
    """Show a table, write it to figures/<name>.tex (booktabs) and .csv, and link both. Options as in show.table.

    The name of the columns, where they have one, heads the index.
    """
    write_atomic(report / FOLDER / f"{name}.tex", latex(frame, caption, name, index, digits))
    write_atomic(report / FOLDER / f"{name}.csv", frame.to_csv(index=index, index_label=frame.columns.name))
    display.table(frame, caption, index, digits, **options)
    _links(name, {"LaTeX": "tex", "CSV": "csv"})


def svg(drawn: Figure) -> bytes:
    """A figure as SVG, the same bytes for the same figure: no date, and ids that do not depend on chance."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "kdlib"}):
        drawn.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None})
    return buffer.getvalue()


def latex(frame: pd.DataFrame, caption: str, name: str, index: bool = True, digits: int = 3) -> str:
    """A table environment for LaTeX with booktabs, its caption and the label tab:<name>."""
    numbers = [pd.api.types.is_numeric_dtype(kind) for kind in frame.dtypes]
    texts = pd.DataFrame(
        {place: [_text(value, digits) for value in frame.iloc[:, place]] for place in range(frame.shape[1])},
        index=[_text(value, digits) for value in frame.index],
    )
    texts.columns = [_text(column, digits) for column in frame.columns]
    texts.index = pd.RangeIndex(len(texts)) if not index else texts.index
    style = texts.reset_index(names=_text(frame.columns.name or "", digits)).style if index else texts.style
    columns = "l" * index + "".join("r" if number else "l" for number in numbers)
    return style.hide(axis="index").to_latex(
        hrules=True, column_format=columns, caption=caption.translate(SPECIAL), label=f"tab:{name}"
    )


def _text(value, digits: int) -> str:
    if pd.isna(value):
        return "--"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value).translate(SPECIAL)


def _links(name: str, kinds: dict[str, str]) -> None:
    links = " · ".join(
        f'<a href="{FOLDER}/{html.escape(name)}.{suffix}" aria-label="{html.escape(name)} as {words}">{words}</a>'
        for words, suffix in kinds.items()
    )
    display.markup(f'<p class="files">{links}</p>')
