import re
import shlex

import pytest

from kdlib.config import RunConfig
from kdlib.experiment import Experiment
from kdlib.files import read_json, write_json
from kdlib.report import experiment_page

RECORD = {
    "headline": "mean_recall",
    "config": {"score_on": "test"},
    "scores": {name: {"mean_recall": value} for name, value in
               {"student": 0.571, "teacher": 0.576, "untrained": 0.013, "pca": 0.55}.items()},
    "data": {"test": {"images": 5000}},
    "size": {"student_mb": 0.5, "deployed_mb": 577.25},
}  # fmt: skip


def test_sentence__says_the_result_beside_its_controls():
    assert experiment_page.sentence(RECORD, 0.552, 0.59) == (
        "Mean recall 0.571 [0.552, 0.590] on 5,000 test images: 99 % of the teacher's 0.576; untrained 0.013, "
        "PCA 0.550; 0.50 MB alone, 577.25 MB deployed."
    )


def test_sentence__has_no_share_of_a_teacher_that_scores_nothing():
    scores = RECORD["scores"] | {"teacher": {"mean_recall": 0.0}}
    assert "test images: the teacher's 0.000;" in experiment_page.sentence(RECORD | {"scores": scores}, 0.5, 0.6)


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


def test_story__after_a_tripped_wire_shows_no_score(small_run, shown):
    experiment = Experiment.open(small_run(method="projection", epochs=1))
    history = experiment.train()
    record = experiment.finish(experiment.evaluate(), history)
    record["wires"][0] |= {"passed": False, "found": "it is not"}
    write_json(experiment.run.result_path(1), record)
    record = read_json(experiment.run.result_path(1))
    experiment_page.score_by_epochs(experiment, record)
    experiment_page.result(experiment, record)
    experiment_page.examples(experiment, record)
    assert "Tripped: " in "\n".join(shown)
    assert not re.search(r"0\.\d{3}", "\n".join(shown).replace(record["wires"][0]["wire"], ""))
