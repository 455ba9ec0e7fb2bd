"""Tables for a two-column paper: they compile, and none is wider than the paper."""

import re
import shutil
import subprocess

import pandas as pd
import pytest

from kdlib.report import latex
from kdlib.report.display import Strong

PAPER = r"""\documentclass[10pt,twocolumn]{article}
\usepackage[textwidth=506pt,columnsep=20pt,textheight=660pt]{geometry}
\usepackage{booktabs,tabularx}
\begin{document}
%s
\end{document}
"""
WORDS = "a claim in many words that no column of a paper would hold in one line, as long as it is"


def frames() -> dict[str, pd.DataFrame]:
    scores = ["0.123 [0.100, 0.150]"] * 3
    return {
        "small": pd.DataFrame({"score": [0.5, 0.25]}, index=["cbam", "resnet"]),
        "words": pd.DataFrame({"claim": [WORDS] * 3, "found here": [WORDS * 2] * 3, "judgement": ["open"] * 3}),
        "wide": pd.DataFrame({f"a column of number {place}": scores for place in range(14)}, index=["a", "b", "c"]),
        "long": pd.DataFrame({"a": range(130), "b": ["x"] * 130}),
        "numbers": pd.DataFrame({f"million multiply-accumulates {place}": [1234.5, 0.1] for place in range(12)}),
    }


def tabulars(text: str) -> list[str]:
    return re.findall(r"\\begin\{tabularx?\}.*?\\end\{tabularx?\}", text, flags=re.DOTALL)


def test_table__is_one_with_booktabs_caption_and_label():
    frame = pd.DataFrame({"name": ["cbam", "resnet"], "score": [0.12345, None]})
    text = latex.table(frame, "Scores in %", "scores", index=False, digits=2)
    assert text.startswith(r"\begin{table}") and r"\caption{Scores in \%}" in text and r"\label{tab:scores}" in text
    assert r"\begin{tabular}{lr}" in text and r"cbam & 0.12 \\" in text and r"resnet & -- \\" in text
    assert re.findall(r"\\(\w+rule)", text) == ["toprule", "midrule", "bottomrule"]


def test_table__what_latex_would_read_as_a_command_is_escaped():
    frame = pd.DataFrame({"a − b": ["in_batch@64 & 5 % ± 1", "{x}^2 \\ $ # ~"]}, index=["p_1", "p_2"])
    text = latex.table(frame, "a_b ≈", "t")
    assert r"p\_1 & in\_batch@64 \& 5 \% $\pm$ 1 \\" in text and "a $-$ b" in text
    assert r"\caption{a\_b $\approx$}" in text
    assert r"\{x\}\textasciicircum{}2 \textbackslash{} \$ \# \textasciitilde{}" in text


def test_table__what_stands_out_is_bold():
    assert r"\textbf{0.5}" in latex.table(pd.DataFrame({"a": [Strong("0.5"), "0.4"]}), "c", "n")


def test_width__is_that_of_computer_modern():
    assert latex.width("0") == pytest.approx(5.0, abs=0.01)  # cmr10: a digit is half an em
    assert latex.width("00") == pytest.approx(2 * latex.width("0")) and latex.width("≈") > 0


@pytest.mark.parametrize("name", frames())
def test_table__no_part_is_wider_or_taller_than_the_paper(name):
    text = latex.table(frames()[name], "A caption", "t", index=name in ("small", "wide"))
    for part in tabulars(text):
        lines = [line.removesuffix(r" \\") for line in part.splitlines() if line.endswith(r"\\")]
        cells = [line.split(" & ") for line in lines]
        kinds = part.splitlines()[0].removeprefix(r"\begin{tabularx}{\textwidth}").split("{", 1)[1]
        if part.startswith(r"\begin{tabularx}"):  # as wide as the text: what does not break must leave room
            kept = re.sub(r">\{[^}]*\}X", "X", kinds).removesuffix("}")
            fixed = [place for place, kind in enumerate(kept) if kind != "X"]
        else:
            fixed = list(range(len(cells[0])))
        total = sum(max(latex.width(row[place]) for row in cells) + latex.SEPARATION for place in fixed)
        assert total <= (latex.BOTH if r"\begin{table*}" in text else latex.ONE)
        assert len(lines) <= latex.TALL + 4


def test_table__of_many_columns_comes_in_parts_that_keep_the_first_column():
    parts = tabulars(latex.table(frames()["wide"], "c", "t"))
    assert len(parts) > 1 and all(re.search(r"^a & ", part, flags=re.MULTILINE) for part in parts)


@pytest.mark.skipif(not shutil.which("pdflatex") and not shutil.which("tectonic"), reason="needs pdflatex or tectonic")
def test_table__compiles_in_two_columns_without_overflow(tmp_path):
    body = "\n".join(latex.table(frame, f"The table {name}", name) for name, frame in frames().items())
    (tmp_path / "paper.tex").write_text(PAPER % body)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    if not shutil.which("pdflatex"):
        command = ["tectonic", "--keep-logs", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in (tmp_path / "paper.log").read_text()
