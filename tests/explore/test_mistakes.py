"""What a student gets wrong, on a small finished study."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest

from kdlib.explore import inside, inside_figures, mistakes


def test_parts__without_a_run_show_nothing(shown):
    mistakes.losses([])
    mistakes.flows([])
    assert not shown


def test_losses__of_classes_are_the_differences_of_the_scores(finished_study, shown, monkeypatch):
    frames = []
    monkeypatch.setattr(inside_figures, "losses", lambda given, *rest: frames.append(given) or plt.figure())
    (run,) = inside.read(finished_study, "dino", methods="resnet")
    mistakes.losses([run])
    frame = frames[0]["resnet"]
    assert len(frame) == 20 and frame.images.sum() == len(run)
    expected = run.score() - run.score("teacher")
    assert np.average(frame.difference, weights=frame.images) == pytest.approx(expected, abs=1e-6)


def test_flows__need_a_run_of_fewer_epochs_and_add_up_to_all_images(finished_study, shown):
    runs = inside.read(finished_study, "clip")
    mistakes.flows(runs)
    assert any("No finished run after fewer epochs: attention, resnet" in text for text in shown)
    (line,) = [text for text in shown if text.startswith("Images by what")]
    counts = [int(number) for number in re.search(r"1 to 2(.*)", line)[1].split()[:4]]
    assert sum(counts) == len(runs[0])


@pytest.mark.parametrize("teacher", ["clip", "dino"])
def test_parts__draw_and_describe(finished_study, shown, teacher):
    runs = inside.read(finished_study, teacher)
    before = len(shown)
    mistakes.losses(runs)
    assert "student minus teacher" in "\n".join(shown[before:])
    before = len(shown)
    mistakes.flows(runs)
    assert "projection +" in "\n".join(shown[before:])
