"""Writes a table for a two-column paper, no wider than the page and in its type size.

The table takes one column of the page if it fits, else both. If that is too narrow, long texts are broken into lines
(tabularx); if it still is, the table is cut into parts, each of which repeats the first column. Widths are those of
Computer Modern at 10 points. The paper needs the packages booktabs and tabularx.
"""

import textwrap
from functools import cache
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.ft2font import FT2Font, LoadFlags

ONE, BOTH = 240.0, 500.0  # points: of a column and of the text, a little less than IEEE's and ACL's
SEPARATION = 12.0  # points between two columns
TALL = 46  # lines of a page
NARROWEST = 60.0  # points of a column of words
SPECIAL = str.maketrans({"\\": r"\textbackslash{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"},
                         "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "–": "--",
                         "×": r"$\times$", "≈": r"$\approx$", "·": r"$\cdot$", "†": r"$\dagger$", "“": "``", "”": "''",
                         "→": r"$\to$", "✓": r"$\surd$", "\u00a0": "~", "…": r"\dots{}", "<": "$<$", ">": "$>$",
                         "|": r"$|$"})  # fmt: skip


def plain(value, digits: int = 3) -> str:
    """A table's entry as text, numbers with ``digits`` decimals; '–' if it is missing."""
    if not isinstance(value, str) and pd.isna(value):
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def table(frame: pd.DataFrame, caption: str, name: str, index: bool = True, digits: int = 3) -> str:
    """The table's environments with booktabs, caption and the label tab:<name>."""
    heads = [" ".join(filter(None, column)) if isinstance(column, tuple) else str(column) for column in frame.columns]
    numeric = [pd.api.types.is_numeric_dtype(kind) for kind in frame.dtypes]
    columns = [[plain(value, digits) for value in frame.iloc[:, place]] for place in range(frame.shape[1])]
    strong = [[type(value).__name__ == "Strong" for value in frame.iloc[:, place]] for place in range(frame.shape[1])]
    if index:
        heads.insert(0, "" if frame.columns.nlevels > 1 else str(frame.columns.name or ""))
        columns.insert(0, [plain(value, digits) for value in frame.index])
        numeric.insert(0, False)
        strong.insert(0, [False] * len(frame))
    heads = [_broken(head, column) for head, column in zip(heads, columns, strict=True)]
    widths = [_natural(head, column) for head, column in zip(heads, columns, strict=True)]
    blocks, wraps = _blocks(widths, columns, numeric)
    parts = []
    for block in blocks:
        shares = _shares(block, widths, wraps)
        for rows in _pages(block, columns, shares):
            parts.append(_tabular(block, rows, heads, columns, strong, numeric, wraps))
    total = sum(widths[place] for place in blocks[0])
    star = "" if len(blocks) == 1 and not wraps and total <= ONE else "*"
    return "\n".join(_float(part, star, caption, name, place) for place, part in enumerate(parts))


def _broken(head: str, column: list[str]) -> list[str]:
    """A heading in lines no wider than what stands below it, or than its longest word."""
    room = max([len(text) for text in column] + [len(word) for word in head.split()] + [6])
    return textwrap.wrap(head, room) or [""]


def _natural(head: list[str], column: list[str]) -> float:
    return max(width(text) for text in (*head, *column)) + SEPARATION


def _blocks(widths, columns, numeric) -> tuple[list[list[int]], set[int]]:
    """Columns of each part of the table, and the columns of words that are broken into lines."""
    every = list(range(len(widths)))
    if sum(widths) <= BOTH:
        return [every], set()
    words = {
        place
        for place in every
        if not numeric[place] and widths[place] > NARROWEST + SEPARATION and any(" " in text for text in columns[place])
    }
    least = {place: _least(columns[place]) if place in words else widths[place] for place in every}
    if words and sum(least.values()) <= BOTH:
        wraps: set[int] = set()
        for place in sorted(words, key=lambda place: -widths[place]):  # the widest first, and no more than must
            wraps.add(place)
            rest = sum(widths[other] for other in every if other not in wraps)
            if (BOTH - rest) / len(wraps) >= max(least[other] for other in wraps):
                return [every], wraps
    first, blocks = every[0], [[every[0]]]
    for place in every[1:]:
        if sum(widths[other] for other in blocks[-1]) + widths[place] > BOTH and len(blocks[-1]) > 1:
            blocks.append([first])
        blocks[-1].append(place)
    wraps = {p for block in blocks if sum(widths[other] for other in block) > BOTH for p in block if p in words}
    return blocks, wraps


def _least(column: list[str]) -> float:
    longest = max((word for text in column for word in text.split()), key=width, default="")
    return max(width(longest) + SEPARATION, NARROWEST)


def _shares(block, widths, wraps) -> dict[int, float]:
    """Points that each column gets."""
    broken = [place for place in block if place in wraps]
    rest = sum(widths[place] for place in block if place not in wraps)
    return {place: (BOTH - rest) / len(broken) if place in broken else widths[place] for place in block}


def _pages(block, columns, shares) -> list[list[int]]:
    """Rows that fit on a page each."""
    pages: list[list[int]] = [[]]
    used = 0
    for row in range(len(columns[0])):
        lines = max(-(-width(columns[place][row]) * 1.1 // max(shares[place] - SEPARATION, 1)) for place in block)
        lines = max(lines, 1)
        if used + lines > TALL and pages[-1]:
            pages.append([])
            used = 0
        pages[-1].append(row)
        used += lines
    return pages


def _tabular(block, rows, heads, columns, strong, numeric, wraps) -> str:
    broken = any(place in wraps for place in block)
    kinds = {
        place: r">{\raggedright\arraybackslash}X" if place in wraps else "rl"[not numeric[place]] for place in block
    }
    begin = r"\begin{tabularx}{\textwidth}{" if broken else r"\begin{tabular}{"
    lines = [begin + "".join(kinds[place] for place in block) + "}", r"\toprule"]
    shown = [[line.translate(SPECIAL) for line in heads[place]] for place in block]
    depth = max(map(len, shown))
    shown = [[""] * (depth - len(head)) + head for head in shown]  # headings stand on the rule
    lines += [" & ".join(head[line] for head in shown) + r" \\" for line in range(depth)]
    lines.append(r"\midrule")
    for row in rows:
        texts = [columns[place][row].translate(SPECIAL) for place in block]
        bold = [rf"\textbf{{{text}}}" if strong[place][row] else text for place, text in zip(block, texts, strict=True)]
        lines.append(" & ".join(bold) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabularx}" if broken else r"\end{tabular}"])


def _float(tabular: str, star: str, caption: str, name: str, place: int) -> str:
    told = caption.translate(SPECIAL) if place == 0 else "(continued)"
    label = rf"\label{{tab:{name}}}" if place == 0 else rf"\label{{tab:{name}-{place + 1}}}"
    head = [rf"\begin{{table{star}}}", r"\centering", rf"\caption{{{told}}}", label]
    return "\n".join([*head, tabular, rf"\end{{table{star}}}"]) + "\n"


@cache
def _font() -> FT2Font:
    font = FT2Font(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "cmr10.ttf"))
    font.set_size(10, 72)
    return font


@cache
def width(text: str) -> float:
    """Points that a text takes in Computer Modern at 10 points; a sign that it lacks counts as one of the widest."""
    return sum(_advance(sign) for sign in text)


@cache
def _advance(sign: str) -> float:
    if not _font().get_char_index(ord(sign)):
        return 10.0
    return _font().load_char(ord(sign), flags=LoadFlags.NO_HINTING).linearHoriAdvance / 65536
