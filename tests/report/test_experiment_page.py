import base64
import io
import re
import shlex

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from PIL import Image

from kdlib.config import RunConfig
from kdlib.experiment import Experiment
from kdlib.files import read_json, write_json
from kdlib.report import display, experiment_page


@pytest.fixture
def shown(monkeypatch):
    """All that is displayed: the HTML of tables and words, the data of figures."""
    found = []
    monkeypatch.setattr(experiment_page, "display", lambda given, **_: found.append(getattr(given, "data", given)))
    return found


def said(shown) -> str:
    """What a reader without pictures gets."""
    return "\n".join(entry["text/plain"] if isinstance(entry, dict) else entry for entry in shown)


@pytest.mark.parametrize(("photographs", "kind"), [(False, "image/png"), (True, "image/jpeg")])
def test_figure__is_opaque_described_and_closed(shown, photographs, kind):
    drawn, axes = plt.subplots(figsize=(2, 1))
    axes.plot([0, 1], color="#0173b2", lw=4)
    display.figure(drawn, "A line.", photographs)
    assert not plt.get_fignums() and shown[0]["text/plain"] == "A line."
    picture = Image.open(io.BytesIO(base64.b64decode(shown[0][kind])))
    assert picture.size == (200, 100) and picture.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)


def test_table__says_what_each_header_is_for(shown):
    display.table(pd.DataFrame({"a": [1.0], "b": [2.0]}, index=["row"]), "Numbers")
    assert "<caption>Numbers</caption>" in shown[0]
    assert shown[0].count('<th scope="col">') == 2 and '<th scope="row">row</th>' in shown[0]
    assert "<th>" not in shown[0]


def test_table__of_two_header_lines_is_valid_html(shown):
    columns = pd.MultiIndex.from_tuples([("clip", "5"), ("clip", "10")])
    index = pd.MultiIndex.from_tuples([("a", "x"), ("a", "y")])
    display.table(pd.DataFrame([[1, 2], [3, 4]], index=index, columns=columns), "Numbers")
    assert "align=" not in shown[0].replace("text-align", "") and not re.search(r"<th(?! scope)[ >]", shown[0])


def test_table__scrolls_in_a_box_that_the_keyboard_reaches(shown):
    display.table(pd.DataFrame({"a": [1]}), 'A "quoted" caption', folded="open me")
    assert 'tabindex="0"' in shown[0] and 'aria-label="A &quot;quoted&quot; caption"' in shown[0]
    assert shown[0].startswith("<details><summary>open me</summary>")


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
    words, (first, second) = said(shown), (result["scores"]["student"][result["headline"]] for result in results)
    assert "no untrained weights are used" in words and "exposure: none" in words
    assert f"{first:.3f} after 1, {second:.3f} after 2" in words
    assert f" {second:.3f} [" in words and "MB deployed" in words
    assert f"-r method {method}" in words and results[1]["keys"]["train"] in words
    assert ("nearest captions" if teacher != "dino" else "nearest training images") in words
    pictures = [entry for entry in shown if isinstance(entry, dict)]
    assert len(pictures) >= 8 and all(len(entry["text/plain"]) > 20 for entry in pictures)
    assert sum(len(entry.get("image/png") or entry["image/jpeg"]) for entry in pictures) < 10**6


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
    assert "Tripped: " in said(shown)
    assert not re.search(r"0\.\d{3}", said(shown).replace(record["wires"][0]["wire"], ""))
