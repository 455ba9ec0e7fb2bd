"""A study whose teachers cannot be had says so before anything is built: run, status and plan alike."""

import shutil

import pytest
import yaml
from typer.testing import CliRunner

from kdlib import cli, study, teachers
from kdlib.files import runs_root
from kdlib.study import grid
from kdlib.teachers import STANDIN, TeacherError, check


@pytest.fixture
def broken(tmp_path, small_shapes):
    """The file of a study whose dino is a CLIP and whose clip has no tokenizer; beit is in order."""
    clip = teachers.resolve("clip", STANDIN)
    shutil.copytree(clip, tmp_path / "a-clip")
    shutil.copytree(clip, tmp_path / "wordless")
    (tmp_path / "wordless" / "tokenizer.json").unlink()
    notebooks = {
        "dino_tinyimagenet": {"checkpoint": str(tmp_path / "a-clip")},
        "clip_coco": {"checkpoint": str(tmp_path / "wordless")},
        "beit_tinyimagenet": None,
    }
    content = {"study": "broken", "title": "Broken", "notebooks": notebooks, "methods": ["projection"]}
    content |= {"epochs": [1], "seeds": [0], "parameters": {"data_root": str(small_shapes)}}
    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_run__names_every_teacher_that_cannot_load_and_builds_nothing(broken):
    with pytest.raises(TeacherError) as caught:
        grid.run(study.load(broken), workers=1)
    message = str(caught.value)
    assert "dino: " in message and "was written by CLIPModel" in message
    assert "clip: " in message and "has no tokenizer" in message and "beit" not in message
    assert not (runs_root() / "features").exists()


def test_status__says_which_experiments_wait_for_which_teacher(broken):
    output = CliRunner().invoke(cli.app, ["status", str(broken)]).output
    assert "absent         dino_tinyimagenet projection 1 epochs: its teacher is not here" in output
    assert "absent         beit_tinyimagenet projection 1 epochs\n" in output
    assert "teacher dino, " in output and "was written by CLIPModel" in output
    assert "teacher clip, " in output and "has no tokenizer" in output and "teacher beit" not in output


def test_plan__names_what_is_missing_of_the_teachers(broken):
    from kdlib.study import forecast

    text = forecast.plan(study.load(broken))
    missing = text.partition("Missing on this machine:")[2]
    assert "was written by CLIPModel" in missing and "has no tokenizer" in missing and "beit" not in missing


def test_prepare__says_what_it_gets_and_loads_each_teacher_once(broken, monkeypatch):
    loaded, said = [], []
    load = teachers.load
    monkeypatch.setattr(teachers, "load", lambda *given, **more: loaded.append(given[0]) or load(*given, **more))
    configs = [spec.config for spec in study.experiments(study.load(broken)) if spec.config.teacher == "beit"]
    check.prepare(configs * 3, said.append)
    check.prepare(configs, said.append)
    assert loaded == ["beit"] and said == []


def test_prepare__says_that_a_student_is_wider_than_its_teacher(small_run):
    said = []
    check.prepare(
        [small_run("dino", width=width, epochs=epochs) for width in (64, 128, 4096) for epochs in (1, 2)], said.append
    )
    assert len(said) == 1
    assert "Students of 4096 numbers are wider than their teacher dino, which has 128" in said[0]
    assert "linear_probe: false" in said[0]
