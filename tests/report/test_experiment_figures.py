import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from kdlib.report import experiment_figures
from kdlib.report.anatomy import Part
from kdlib.report.style import colour


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def texts(figure) -> str:
    figure.canvas.draw()
    return "\n".join(text.get_text() for text in figure.findobj(plt.Text))


@pytest.mark.parametrize("method", ["attention", "own.module:Student"])
def test_diagram__names_every_part_and_what_is_needed_of_the_teacher(method):
    parts = [Part("image_block", "Linear", "16", 1234), Part("pool", "AvgPool", "", 0)]
    lanes = [
        experiment_figures.Lane("image", "teacher's image backbone\n3.20 MB", "tokens 4 × 16", parts, "embedding\n8"),
        experiment_figures.Lane("text", "", "pooled feature 16", parts[:1], "embedding\n8"),
    ]
    said = texts(experiment_figures.diagram(lanes, method))
    for words in ("3.20 MB", "tokens 4 × 16", "1,234 parameters", "gives 16", "no parameters", "embedding"):
        assert words in said


def test_diagram__keeps_its_words_inside_their_boxes():
    below, reads = "teacher's image backbone\n328.51 MB", "pooled feature 768\ntokens 196 × 768"
    lane = experiment_figures.Lane("image", below, reads, [
        Part("image_block", "AttentionBlock: MultiheadAttention, Linear, 20 BatchNorm2d", "64 × 14 × 14", 2_362_368)
    ], "embedding\n256")  # fmt: skip
    figure = experiment_figures.diagram([lane], "attention")
    figure.canvas.draw()
    (axes,) = figure.axes
    words = [text for text in axes.texts if text.get_text()]
    assert len(words) == len(axes.patches) == 4
    for text, box in zip(words, axes.patches, strict=True):
        inner, outer = text.get_window_extent(), box.get_window_extent()
        assert outer.x0 <= inner.x0 and inner.x1 <= outer.x1 and outer.y0 <= inner.y0 and inner.y1 <= outer.y1


def test_score_by_epochs__starts_untrained_and_passes_every_point():
    points = [experiment_figures.Point(5, 0.4, 0.3, 0.5), experiment_figures.Point(10, 0.6, 0.5, 0.7)]
    (axes,) = experiment_figures.score_by_epochs(
        points, {"teacher": 0.8, "PCA": 0.79, "untrained": 0.1}, "mean_recall", "cbam"
    ).axes
    assert axes.lines[0].get_xydata().tolist() == [[0, 0.1], [5, 0.4], [10, 0.6]]
    assert to_rgb(axes.lines[0].get_color()) == to_rgb(colour("cbam"))
    assert axes.get_ylim()[1] > 0.8
    assert [text.get_text() for text in axes.texts] == ["teacher, PCA", "untrained"]  # no words over words


def test_standing__has_the_student_first_and_the_others_by_score():
    scores = {"student": 0.5, "untrained": 0.1, "pca": 0.9, "teacher": 0.8, "random": 0.0}
    (axes,) = experiment_figures.standing(scores, 0.4, 0.6, "mean_recall", "resnet").axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["student, trained", "PCA of the teacher", "teacher", "student, untrained"]
    assert [text.get_text() for text in axes.texts] == ["0.500", "0.900", "0.800", "0.100"]


def test_rows_of_pictures__frames_what_is_right():
    image = Image.new("RGB", (20, 10))
    rows = [
        experiment_figures.Row("two", [image] * 2, ["a", "b"], [False, True]),
        experiment_figures.Row("one", [image], ["c"], [False]),
    ]
    figure = experiment_figures.rows_of_pictures(rows)
    framed = [axes.get_title() for axes in figure.axes if axes.images and axes.spines["left"].get_linewidth() == 4]
    assert framed == ["b"]
    assert "two" in texts(figure) and "c" in texts(figure)


def test_captions_of__marks_the_right_ones():
    figure = experiment_figures.captions_of(
        [Image.new("RGB", (9, 9))], ["rank 2"], [[("a dog", False), ("a cat", True)]]
    )
    said = texts(figure)
    assert "✓ a cat" in said and "✓ a dog" not in said and "rank 2" in said


def test_hardest__has_a_pair_of_bars_a_class_with_counts():
    frame = pd.DataFrame({"class": ["cat", "dog"], "images": [10, 4], "student": [0.1, 0.5], "teacher": [0.9, 0.5]})
    (axes,) = experiment_figures.hardest(frame, "resnet").axes
    assert [bar.get_width() for bar in axes.patches] == [0.1, 0.5, 0.9, 0.5]
    assert {text.get_text() for text in axes.texts} == {"1 of 10", "9 of 10", "2 of 4"}


def test_attention__has_no_line_for_a_student_without_a_map():
    images, maps = [Image.new("RGB", (8, 8))] * 2, np.ones((2, 4))
    assert len(experiment_figures.attention(images, maps, None, (2, 2)).axes) == 4
    assert len(experiment_figures.attention(images, maps, maps, (2, 2)).axes) == 6


def test_curves__show_every_term_of_the_loss():
    history = [{"epoch": 1, "loss": 3.0, "logit_matching": 2.0, "seconds": 1.0, "images_per_second": 9.0}]
    left, _ = experiment_figures.curves(history).axes
    assert [line.get_label() for line in left.lines] == ["loss", "logit matching"]
