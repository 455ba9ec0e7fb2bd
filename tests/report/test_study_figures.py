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


def test_size_against_score__points_say_who_is_on_which_front(study):
    points = study_figures.size_against_score_points(study).query("teacher == 'clip'").set_index("method")
    assert set(points.index) == {"projection", "resnet", "attention"} and set(points.epochs) == {10}
    assert points.front_student_mb.to_dict() == {"projection": True, "resnet": False, "attention": False}
    assert points.front_deployed_mb.to_dict() == {"projection": True, "resnet": True, "attention": False}
    assert (points.low < points.score).all() and (points.score < points.high).all()


def test_size_against_score__both_sizes_stand_side_by_side_on_logarithmic_axes_with_the_front_named(study):
    figure = study_figures.size_against_score(study_figures.size_against_score_points(study))
    left, right = figure.axes[:2]
    assert (left.get_xscale(), right.get_xscale()) == ("log", "log")
    assert "student alone" in left.get_xlabel() and "all that inference needs" in right.get_xlabel()
    assert left.get_title() == "clip on coco\nfront: projection"
    assert right.get_title() == "clip on coco\nfront: resnet, projection"
    assert left.get_ylim() == right.get_ylim() and left.get_ylim()[0] == 0


def test_score_by_epochs__has_a_line_for_each_method_with_and_without_teacher(study):
    points = study_figures.score_by_epochs_points(study)
    clip = points[points.teacher == "clip"]
    assert len(clip) == 8 and set(clip.seeds) == {2} and set(clip.teacher_score) == {0.9}
    names = [text.get_text() for text in study_figures.score_by_epochs(points).legends[0].get_texts()]
    assert {"projection", "attention", "resnet", "resnet, no teacher", "teacher"} == set(names)


def test_seconds_per_epoch__are_of_all_experiments_of_a_method(made_study):
    study = made_study(*({"seed": seed, "seconds_per_epoch": value} for seed, value in enumerate((1.0, 2.0, 6.0))))
    points = study_figures.seconds_per_epoch_points(study)
    assert points.iloc[0][["mean", "min", "max", "experiments"]].tolist() == [3.0, 1.0, 6.0, 3]
    axes = study_figures.seconds_per_epoch(points).axes[0]
    assert axes.get_xscale() == "log" and "seconds" in axes.get_xlabel()


def test_figures__with_one_teacher_have_no_empty_panel(made_study):
    study = made_study({}, {"method": "cbam"})
    for name, panels in (("score_by_epochs", 1), ("size_against_score", 2), ("seconds_per_epoch", 1)):
        figure = getattr(study_figures, name)(getattr(study_figures, f"{name}_points")(study))
        assert len(figure.axes) == panels, name


def test_bars__are_never_negative():
    """The interval of a bootstrap may leave out its mean."""
    import pandas as pd

    points = pd.DataFrame({"score": [0.5, 0.5], "low": [0.6, 0.4], "high": [0.7, 0.6]})
    assert np.allclose(study_figures._bars(points), [[0, 0.1], [0.2, 0.1]])
