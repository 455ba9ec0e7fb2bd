"""The result on an experiment's page: in a sentence, and withheld after a tripped wire."""

import re

from kdlib.experiment import Experiment
from kdlib.files import read_json, write_json
from kdlib.report import examples, experiment_result

RECORD = {
    "headline": "mean_recall",
    "config": {"score_on": "test"},
    "scores": {name: {"mean_recall": value} for name, value in
               {"student": 0.571, "teacher": 0.576, "untrained": 0.013, "pca": 0.55}.items()},
    "data": {"test": {"images": 5000}},
    "size": {"student_mb": 0.5, "deployed_mb": 577.25},
}  # fmt: skip


def test_sentence__says_the_result_beside_its_controls():
    assert experiment_result.sentence(RECORD, 0.552, 0.59) == (
        "Mean recall 0.571 [0.552, 0.590] on 5,000 test images: 99 % of the teacher's 0.576; untrained 0.013, "
        "PCA 0.550; 0.50 MB alone, 577.25 MB deployed."
    )


def test_sentence__has_no_share_of_a_teacher_that_scores_nothing():
    scores = RECORD["scores"] | {"teacher": {"mean_recall": 0.0}}
    assert "test images: the teacher's 0.000;" in experiment_result.sentence(RECORD | {"scores": scores}, 0.5, 0.6)


def test_story__after_a_tripped_wire_shows_no_score(small_run, shown):
    experiment = Experiment.open(small_run(method="projection", epochs=1))
    history = experiment.train()
    record = experiment.finish(experiment.evaluate(), history)
    record["wires"][0] |= {"passed": False, "found": "it is not"}
    write_json(experiment.run.result_path(1), record)
    record = read_json(experiment.run.result_path(1))
    experiment_result.score_by_epochs(experiment, record)
    experiment_result.result(experiment, record)
    examples.examples(experiment, record)
    assert "Tripped: " in "\n".join(shown)
    assert not re.search(r"0\.\d{3}", "\n".join(shown).replace(record["wires"][0]["wire"], ""))


def test_result__explains_the_columns_that_are_no_controls(small_run, shown):
    experiment = Experiment.open(small_run("clip", method="resnet", epochs=1, cooldown=1.0, text_side="transformer"))
    history = experiment.train()
    experiment_result.result(experiment, experiment.finish(experiment.evaluate(), history))
    text = "\n".join(shown)
    assert "dev: the student on the dev images" in text and "words shuffled: the student on captions" in text
