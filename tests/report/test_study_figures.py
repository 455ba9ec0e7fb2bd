"""The figures of a study draw the numbers that are given beside them, and every method looks as everywhere."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdlib.report import study_figures

NUMBERS = st.sampled_from([1.0, 2.0, 3.0, 4.0])


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_front__smaller_and_better_are_on_it_and_the_rest_is_not():
    sizes, scores = [1, 2, 3, 4], [0.5, 0.4, 0.9, 0.9]
    assert study_figures.front(sizes, scores).tolist() == [True, False, True, False]


def test_front__equals_share_it():
    assert study_figures.front([1, 1], [0.5, 0.5]).tolist() == [True, True]
    assert study_figures.front([1, 1], [0.5, 0.6]).tolist() == [False, True]


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=8))
def test_front__who_is_not_on_it_is_beaten_by_one_who_is(points):
    on = study_figures.front(*zip(*points, strict=True))
    assert on.any()
    best = [point for point, is_on in zip(points, on, strict=True) if is_on]
    for (size, score), is_on in zip(points, on, strict=True):
        beaten = any(s <= size and q >= score and (s, q) != (size, score) for s, q in best)
        assert beaten != is_on


@pytest.fixture
def study(made_study):
    experiments = [
        {"method": "projection", "student": 0.8, "student_mb": 1.0, "deployed_mb": 9.0},
        {"method": "resnet", "student": 0.6, "student_mb": 4.0, "deployed_mb": 4.0},
        {"method": "attention", "student": 0.7, "student_mb": 2.0, "deployed_mb": 10.0},
        {"method": "resnet", "variant": "no_teacher", "student": 0.4},
    ]
    budgets = [
        experiment | {"epochs": epochs, "seed": seed}
        for experiment in experiments
        for epochs in (5, 10)
        for seed in (0, 1)
    ]
    return made_study(*budgets, {"method": "cbam", "outcome": "error"}, {"teacher": "dino", "epochs": 10})


def test_size_points__students_and_teachers_with_their_deployed_size_and_the_front(study):
    points = study_figures.size_points(study).query("teacher == 'clip'").set_index("method")
    assert points.kind.to_dict() == {
        "projection": "student", "resnet": "student", "attention": "student", "teacher": "teacher"
    }  # fmt: skip
    assert points.mb.to_dict() == {"projection": 9, "resnet": 4, "attention": 10, "teacher": 8}
    assert points.front.to_dict() == {"projection": False, "resnet": True, "attention": False, "teacher": True}
    assert (points.low < points.score).all() and (points.score < points.high).all()


def test_size_points__exported_files_are_points(made_study):
    points = study_figures.size_points(made_study({"onnx": 0.7, "onnx_low": 0.6, "onnx_high": 0.8, "onnx_mb": 2.0}))
    assert points[points.kind == "onnx"][["mb", "score"]].to_numpy().tolist() == [[2.0, 0.7]]


def test_training_points__are_shares_of_the_teacher_by_images_seen(study):
    points = study_figures.training_points(study)
    clip = points[(points.teacher == "clip") & (points.method == "projection")].set_index("epochs")
    assert clip.share.to_dict() == pytest.approx({5: 0.8 / 0.9, 10: 0.8 / 0.9})
    assert clip.images_seen.to_dict() == {5: 500, 10: 1000} and set(clip.seeds) == {2}


@pytest.mark.parametrize("narrow", [False, True])
def test_overview__has_for_each_data_set_quality_by_size_and_what_more_training_brings_where_some_had_more(
    study, narrow
):
    sizes, training = study_figures.size_points(study), study_figures.training_points(study)
    figure = study_figures.overview(sizes, training, narrow)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["COCO: quality and size", "COCO: more training", "Tiny ImageNet: quality and size"]
    assert figure.axes[0].get_xscale() == "log" and "MB deployed" in figure.axes[0].get_xlabel()
    columns = {round(axes.get_position().x0, 1) for axes in figure.axes}
    assert (len(columns) == 1) == narrow


def test_overview__on_a_phone_no_letter_is_smaller_than_eleven_pixels(study):
    figure = study_figures.overview(study_figures.size_points(study), study_figures.training_points(study), True)
    figure.canvas.draw()
    shown = 360 / (100 * figure.get_figwidth())  # of a phone's 390 pixels, without margins
    letters = [text for text in figure.findobj(plt.Text) if text.get_text() and text.get_visible()]
    assert min(text.get_fontsize() for text in letters) * 100 / 72 * shown >= 11


def test_training__has_a_line_for_each_method_with_and_without_teacher(study):
    points = study_figures.training_points(study)
    names = [text.get_text() for text in study_figures.training(points, False).legends[0].get_texts()]
    assert {"projection", "attention", "resnet", "resnet, no teacher", "teacher"} == set(names)


def test_seconds__are_of_every_timed_epoch_of_the_longest_training(made_study):
    study = made_study({"epochs": 5, "epoch_seconds": "9 9"}, {"epochs": 10, "epoch_seconds": "1 2 6"})
    points = study_figures.seconds_points(study)
    assert points.iloc[0][["mean", "min", "max", "epochs"]].tolist() == [3.0, 1.0, 6.0, 3]
    axes = study_figures.seconds(points, False).axes[0]
    assert axes.get_xscale() == "log" and "seconds" in axes.get_xlabel()


def test_figures__with_one_teacher_have_no_empty_panel(made_study):
    study = made_study({}, {"method": "cbam"})
    for name in ("training", "seconds"):
        figure = getattr(study_figures, name)(getattr(study_figures, f"{name}_points")(study), False)
        assert len(figure.axes) == 1, name


def test_bars__are_never_negative():
    """The interval of a bootstrap may leave out its mean."""
    import pandas as pd

    points = pd.DataFrame({"score": [0.5, 0.5], "low": [0.6, 0.4], "high": [0.7, 0.6]})
    assert np.allclose(study_figures._bars(points), [[0, 0.1], [0.2, 0.1]])


def test_apart__labels_of_close_numbers_of_images_do_not_overlap():
    assert study_figures.apart([8000, 9600, 16000, 19200]) == [8000, 16000]
    assert study_figures.apart([]) == []
