"""Figures and tables as files for a paper."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from kdlib.files import reports_root
from kdlib.report import exhibits, experiment_page


def drawn(height: float = 1.0):
    figure, axes = plt.subplots(figsize=(2, 2))
    axes.plot([0, 1], [0, height], marker="o", clip_on=True)
    return figure


@pytest.fixture
def shown(monkeypatch) -> list[str]:
    """The markup that a notebook would display."""
    outputs: list[str] = []
    monkeypatch.setattr(exhibits, "display", lambda markup: outputs.append(markup.data))
    monkeypatch.setattr(experiment_page, "display", lambda *_, **__: None)
    return outputs


def test_svg__is_the_same_for_the_same_figure_and_has_no_date():
    first, again, other = (exhibits.svg(drawn(height)) for height in (1.0, 1.0, 2.0))
    plt.close("all")
    assert first == again and first != other and first.startswith(b"<?xml") and b"<dc:date>" not in first


def test_figure__has_its_files_and_relative_links_to_them(shown, tmp_path):
    data = pd.DataFrame({"size": [1.5], "score": [0.25]})
    exhibits.figure(drawn(), "What it shows.", data, tmp_path, "size")
    assert (tmp_path / "figures" / "size.svg").read_bytes().startswith(b"<?xml")
    assert pd.read_csv(tmp_path / "figures" / "size.csv").equals(data)
    assert 'href="figures/size.svg"' in shown[0] and 'href="figures/size.csv"' in shown[0]


def test_table__has_its_files_and_relative_links_to_them(shown, tmp_path):
    exhibits.table(pd.DataFrame({"score": [0.25]}, index=["clip"]), "Scores", tmp_path, "scores")
    assert pd.read_csv(tmp_path / "figures" / "scores.csv", index_col=0).score.tolist() == [0.25]
    assert r"\toprule" in (tmp_path / "figures" / "scores.tex").read_text()
    assert 'href="figures/scores.tex"' in shown[0] and 'href="figures/scores.csv"' in shown[0]


def test_latex__is_a_table_with_booktabs_caption_and_label():
    frame = pd.DataFrame({"name": ["cbam", "resnet"], "score": [0.12345, None]})
    lines = exhibits.latex(frame, "Scores in %", "scores", index=False, digits=2).splitlines()
    assert lines[0] == r"\begin{table}" and r"\caption{Scores in \%}" in lines and r"\label{tab:scores}" in lines
    assert r"\begin{tabular}{lr}" in lines and r"cbam & 0.12 \\" in lines and r"resnet & -- \\" in lines
    assert [line for line in lines if "rule" in line] == [r"\toprule", r"\midrule", r"\bottomrule"]


def test_latex__what_latex_would_read_as_a_command_is_escaped():
    frame = pd.DataFrame({"a − b": ["in_batch@64 & 5 % ± 1", "{x}^2 \\ $ # ~"]}, index=["p_1", "p_2"])
    text = exhibits.latex(frame, "a_b", "t")
    assert r"p\_1 & in\_batch@64 \& 5 \% $\pm$ 1 \\" in text and "a $-$ b" in text and r"\caption{a\_b}" in text
    assert r"\{x\}\textasciicircum{}2 \textbackslash{} \$ \# \textasciitilde{}" in text


def test_report_of__is_the_folder_of_the_study(made_study):
    rows = made_study({})
    assert exhibits.report_of(rows) == reports_root() / rows.study.iloc[0]
