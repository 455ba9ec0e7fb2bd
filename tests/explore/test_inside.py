"""The notebook inside and its parts on a small finished study."""

import re

import nbformat
import papermill
import pytest

from kdlib import teachers
from kdlib.explore import inside, search
from kdlib.study.file import notebooks_folder


def test_read__takes_the_most_epochs_and_no_variants_unless_asked(finished_study, shown):
    runs = inside.read(finished_study, "clip")
    assert [run.name for run in runs] == ["projection", "attention", "resnet"]
    assert {run.config.epochs for run in runs} == {2}
    asked = inside.read(finished_study, "clip", methods="resnet+no_teacher, resnet")
    assert [run.name for run in asked] == ["resnet", "resnet, no teacher"]
    assert [run.config.epochs for run in inside.read(finished_study, "clip", epochs=1)] == [1]


def test_read__names_students_that_are_missing(finished_study, shown):
    assert len(inside.read(finished_study, "dino", methods="resnet cbam")) == 1
    assert any("No finished run of cbam" in text for text in shown)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"study": "mini", "teacher": "clip"}, "kdlib run notebooks/studies/mini.yaml"),
        ({"study": "small", "teacher": "blip"}, "no finished run of blip, seed 0. It has: clip on coco, 1 epochs"),
        ({"study": "small", "teacher": "clip", "seed": 7}, "seed 7"),
        ({"study": "small", "teacher": "clip", "epochs": 99}, "99 epochs"),
    ],
)
def test_read__says_what_to_do_and_the_parts_show_nothing(finished_study, shown, asked, words):
    assert inside.read(**asked) == []
    assert len(shown) == 1 and words in shown[0]
    for part in ("attention", "layers", "neighbours", "plane"):
        getattr(inside, part)([])
    assert len(shown) == 1


def test_layers__go_on_with_the_features_when_the_teacher_cannot_be_had(finished_study, shown, monkeypatch):
    def gone(config):
        raise teachers.TeacherError("The checkpoint is out of reach.")

    monkeypatch.setattr(search, "teacher_of", gone)
    inside.layers(inside.read(finished_study, "dino"), sample=40)
    assert any("out of reach" in text for text in shown)
    assert any("Highest: projection the feature itself" in text for text in shown)


@pytest.mark.parametrize("teacher", ["clip", "dino"])
def test_parts__draw_and_describe(finished_study, shown, teacher):
    runs = inside.read(finished_study, teacher)
    found = {}
    for part in ("attention", "layers", "neighbours", "plane"):
        before = len(shown)
        getattr(inside, part)(runs)
        found[part] = "\n".join(shown[before:])
    assert "Without an attention map: projection, resnet" in found["attention"]
    assert "where teacher, attention look in them" in found["attention"]
    assert "Highest: projection the feature itself" in found["layers"]
    assert f"by chance {5 / (len(runs[0]) - 1):.3f}" in found["neighbours"]
    assert "explains" in found["plane"] and "What it cannot" in found["plane"]


def test_notebook__runs_top_to_bottom_and_describes_every_figure(finished_study, tmp_path):
    out = tmp_path / "out.ipynb"
    given = {"study": finished_study, "sample": 30}
    papermill.execute_notebook(notebooks_folder() / "inside.ipynb", out, parameters=given, progress_bar=False)
    outputs = [one for cell in nbformat.read(out, as_version=4).cells for one in cell.get("outputs", [])]
    shown = "".join("".join(one["data"].get("text/html", "")) for one in outputs if "data" in one)
    images = re.findall(r"<img [^>]*>", shown)
    assert len(images) >= 8 and all(re.search(r' alt="[^"]+"', image) for image in images)
    assert not [one for one in outputs if one["output_type"] == "stream" and one["name"] == "stderr"]


@pytest.mark.parametrize("name", ["inside", "explore"])
def test_notebook__without_a_finished_run_says_what_to_do(tmp_path, name):
    out = tmp_path / "out.ipynb"
    papermill.execute_notebook(notebooks_folder() / f"{name}.ipynb", out, progress_bar=False)
    assert "kdlib run notebooks/studies/mini.yaml" in out.read_text()


def test_notebook__explore_shows_the_explorer(finished_study, tmp_path):
    out = tmp_path / "out.ipynb"
    papermill.execute_notebook(notebooks_folder() / "explore.ipynb", out, progress_bar=False)
    book = nbformat.read(out, as_version=4)
    assert "application/vnd.jupyter.widget-view+json" in book.cells[-1].outputs[0]["data"]
