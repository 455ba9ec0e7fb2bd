import re
import shlex

import pytest

from kdlib.config import RunConfig
from kdlib.experiment import Experiment
from kdlib.report import experiment_page


def test_command__gives_back_the_configuration():
    config = RunConfig(teacher="clip", dataset="coco", variant="1", method="cbam", diagonal=True, study="a b", tau=3)
    parts = shlex.split(experiment_page.command(config).replace("\\\n", ""))
    assert parts[:3] == ["papermill", "notebooks/clip_coco.ipynb", "out.ipynb"]
    given = dict(zip(parts[4::3], parts[5::3], strict=True))
    assert RunConfig(teacher="clip", dataset="coco", **given) == config
    assert parts[parts.index("variant") - 1] == "-r" and parts[parts.index("tau") - 1] == "-p"


def test_changes__are_none_at_the_defaults():
    assert experiment_page.changes(RunConfig(teacher="clip", dataset="coco")) == {}


@pytest.mark.parametrize(("teacher", "method"), [("clip", "cbam"), ("dino", "resnet"), ("blip", "densenet")])
def test_story__of_a_small_experiment(small_run, shown, teacher, method):
    """Everything that a notebook shows, in its order, of a real experiment."""
    results = []
    for epochs in (1, 2):
        experiment = Experiment.open(small_run(teacher, method=method, epochs=epochs))
        history = experiment.train()
        results.append(experiment.finish(experiment.evaluate(), history))
    experiment_page.setup(experiment)
    experiment_page.samples(experiment)
    experiment_page.student(experiment)
    experiment_page.curves(history)
    experiment_page.score_by_epochs(experiment, results[1])
    experiment_page.result(experiment, results[1])
    experiment_page.examples(experiment, results[1])
    experiment_page.attention(experiment)
    experiment_page.cost(results[1])
    experiment_page.reproduce(experiment, results[1])
    words, (first, second) = "\n".join(shown), (result["scores"]["student"][result["headline"]] for result in results)
    assert "no untrained weights are used" in words and "exposure: none" in words
    assert f"{first:.3f} after 1, {second:.3f} after 2" in words
    assert f" {second:.3f} [" in words and "MB deployed" in words
    assert f"-r method {method}" in words and results[1]["keys"]["train"] in words
    assert ("nearest captions" if teacher != "dino" else "nearest training images") in words
    figures = re.findall(r"<b>Figure (\d+)", words)
    assert figures == [str(place) for place in range(1, len(figures) + 1)] and len(figures) >= 7
    assert words.count(f"{method}, 2 epochs, seed 0, of {teacher.upper()} (stand-in) on") >= 10  # each caption
    assert "itself untrained" in words and '<div class="verdicts"></div>' in words
    assert len(words) < 2 * 10**6
