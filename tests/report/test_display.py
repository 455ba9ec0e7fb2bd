"""Numbered figures and tables with captions that stand alone, folds, and their files."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from PIL import Image

from kdlib.report import display, pictures


def drawn(height: float = 1.0, width: float = 2.0):
    figure, axes = plt.subplots(figsize=(width, 2))
    axes.plot([0, 1], [0, height], marker="o")
    return figure


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_svg__is_the_same_for_the_same_figure_and_has_no_date():
    first, again, other = (display.svg(drawn(height)) for height in (1.0, 1.0, 2.0))
    assert first == again and first != other and first.startswith(b"<?xml") and b"<dc:date>" not in first


def test_figure__has_its_files_a_number_and_a_caption_that_stands_alone(shown, tmp_path):
    display.begin(tmp_path, "Study 's': 200 test images.")
    data = pd.DataFrame({"size": [1.5], "score": [0.25]})
    display.figure(lambda narrow: drawn(), "What it shows. At length.", "The caption", "size", data)
    assert (tmp_path / "figures" / "size.svg").read_bytes().startswith(b"<?xml")
    assert pd.read_csv(tmp_path / "figures" / "size.csv").equals(data)
    assert 'href="figures/size.svg"' in shown[0] and 'alt="What it shows. At length."' in shown[0]
    assert "<b>Figure 1.</b> The caption." in shown[0] and "Study &#x27;s&#x27;: 200 test images." in shown[0]


def test_figure__is_drawn_once_for_a_screen_and_once_for_a_phone(shown):
    asked = []
    display.figure(lambda narrow: asked.append(narrow) or drawn(width=2.0 if narrow else 6.0), "A line")
    assert sorted(asked) == [False, True]
    assert 'media="(max-width: 640px)" srcset="data:image/png;base64,' in shown[0] and 'width="600"' in shown[0]


def test_table__has_its_files_and_a_number(shown, tmp_path):
    display.begin(tmp_path)
    for name in ("scores", "more"):
        display.table(pd.DataFrame({"score": [0.25]}, index=["clip"]), "Scores", name=name)
    assert pd.read_csv(tmp_path / "figures" / "scores.csv", index_col=0).score.tolist() == [0.25]
    assert r"\toprule" in (tmp_path / "figures" / "scores.tex").read_text() and 'href="figures/scores.tex"' in shown[0]
    assert "<b>Table 1.</b>" in shown[0] and "<b>Table 2.</b>" in shown[1]


def test_table__without_a_name_leaves_no_file(shown, tmp_path):
    display.begin(tmp_path)
    display.table(pd.DataFrame({"a": [1]}), "One")
    assert not list(tmp_path.iterdir())


def test_table__escapes_what_comes_from_data_and_takes_markup_as_it_is(shown):
    frame = pd.DataFrame({"a": ["<b>", display.Markup("<i>x</i>"), display.Strong("0.5 [0.4, 0.6]"), None, 0.12345]})
    display.table(frame, "A < B", index=False)
    (text,) = shown
    assert "&lt;b&gt;" in text and "<i>x</i>" in text and "A &lt; B" in text and ">–<" in text and "0.123" in text
    assert "<strong>0.5 <span>[0.4,&nbsp;0.6]</span></strong>" in text


def test_table__two_levels_of_columns_have_the_upper_once(shown):
    columns = pd.MultiIndex.from_tuples([("CLIP", "score"), ("CLIP", "MB"), ("DINO", "score")])
    display.table(pd.DataFrame([[1, 2, 3]], index=["cbam"], columns=columns), "Scores")
    assert '<th scope="colgroup" colspan="2">CLIP</th>' in shown[0] and '<th scope="row">cbam</th>' in shown[0]
    assert shown[0].count(">score</th>") == 2 and 'data-label="CLIP MB"' in shown[0]


def test_fold__holds_all_that_is_shown_in_it_and_is_not_there_without(shown):
    with display.fold("Why?"):
        display.words("Because.")
        with display.fold("Really?"):
            display.notice("Yes.")
    with display.fold("Nothing?"):
        pass
    (text,) = shown
    assert text.startswith('<details class="fold"><summary>Why?</summary><p>Because.</p><details')
    assert text.count("</details>") == 2


def test_pictures__have_words_of_any_script_and_say_which_are_framed(shown):
    image = Image.new("RGB", (20, 10))
    display.pictures([pictures.row([pictures.captioned(image, "犬", framed=True)], "Hunde")], "Dogs")
    assert "犬" in shown[0] and 'alt="犬 (framed)"' in shown[0] and "<b>Figure 1.</b> Dogs." in shown[0]
