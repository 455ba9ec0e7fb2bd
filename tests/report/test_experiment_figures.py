import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_rgb

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


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("method", ["attention", "own.module:Student"])
def test_diagram__names_every_part_and_what_is_needed_of_the_teacher(method, narrow):
    parts = [Part("image_block", "Linear", "16", 1234), Part("pool", "AvgPool", "", 0)]
    lanes = [
        experiment_figures.Lane("image", "teacher's image backbone\n3.20 MB", "tokens 4 × 16", parts, "embedding\n8"),
        experiment_figures.Lane("text", "", "pooled feature 16", parts[:1], "embedding\n8"),
    ]
    said = texts(experiment_figures.diagram(lanes, method, narrow))
    for words in ("3.20 MB", "tokens 4 × 16", "1,234 parameters", "gives 16", "no parameters", "embedding"):
        assert words in said


@pytest.mark.parametrize("narrow", [False, True])
def test_diagram__keeps_its_words_inside_their_boxes(narrow):
    below, reads = "teacher's image backbone\n328.51 MB", "pooled feature 768\ntokens 196 × 768"
    lane = experiment_figures.Lane("image", below, reads, [
        Part("image_block", "AttentionBlock: MultiheadAttention, Linear, 20 BatchNorm2d", "64 × 14 × 14", 2_362_368)
    ], "embedding\n256")  # fmt: skip
    figure = experiment_figures.diagram([lane], "attention", narrow)
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
        points, {"teacher": 0.8, "PCA": 0.79, "untrained": 0.1}, "mean_recall", "cbam", False
    ).axes
    assert axes.lines[0].get_xydata().tolist() == [[0, 0.1], [5, 0.4], [10, 0.6]]
    assert to_rgb(axes.lines[0].get_color()) == to_rgb(colour("cbam"))
    assert axes.get_ylim()[1] > 0.8
    assert [text.get_text() for text in axes.texts] == ["teacher, PCA", "untrained"]  # no words over words


def test_standing__has_the_student_first_and_the_others_by_score():
    scores = {"student": 0.5, "untrained": 0.1, "pca": 0.9, "teacher": 0.8, "random": 0.0}
    (axes,) = experiment_figures.standing(scores, 0.4, 0.6, "mean_recall", "resnet", False).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["student, trained", "PCA of the teacher", "teacher", "student, untrained"]
    assert [text.get_text() for text in axes.texts] == ["0.500", "0.900", "0.800", "0.100"]


def test_curves__show_every_term_of_the_loss():
    history = [{"epoch": 1, "loss": 3.0, "logit_matching": 2.0, "seconds": 1.0, "images_per_second": 9.0}]
    left, _ = experiment_figures.curves(history, False).axes
    assert [line.get_label() for line in left.lines] == ["loss", "logit matching"]
