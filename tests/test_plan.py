"""The forecast of a study: measured on its own teachers and data, and nothing is kept."""

import os
import re
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import small_study

from kdlib import data, experiment, plan
from kdlib.study import load
from kdlib.utils import runs_root, write_json


@pytest.fixture
def study(tmp_path, small_shapes, monkeypatch):
    """``study(methods, **parameters)``: CLIP on a few scenes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(plan, "subprocess", SimpleNamespace(run=lambda _: None))  # an import is not measured
    (tmp_path / "temporary").mkdir()

    def make(*methods, **parameters):
        small = {"data_root": str(small_shapes), "batch_size": 16, "image_size": 32, "timed_calls": 5}
        path = small_study.write(tmp_path / "study", methods=list(methods), parameters=small | parameters)
        return load(path)

    return make


def sizes(text: str) -> float:
    return float(re.search(r"about ([\d.]+) GB", text)[1])


def test_plan__says_what_is_to_do_in_gb_and_time_and_leaves_nothing_behind(study, tmp_path, monkeypatch):
    before = dict(os.environ)
    text = plan.plan(study("attention", "resnet"), workers=2)
    first, disk, time = text.splitlines()
    assert first == "Small: 2 experiments, 2 to do." and disk.startswith("Disk: about 0.0 GB; ")
    assert re.fullmatch(r"Time: about 0:0\d:\d\d with 2 at once, and the report\. One worker: features .*", time)
    assert not runs_root().exists() and not list((tmp_path / "temporary").glob("kdlib*")) and dict(os.environ) == before


def test_measured__gb_are_those_of_the_features_that_are_missing(study):
    configs = [one.config for one in study("attention").experiments()]
    given = plan._data(configs[0], [])
    with plan.elsewhere() as kept:
        expected = plan._measured(configs, *given, kept)
    experiment.Experiment.open(configs[0])
    files = [file for file in (runs_root() / "features").rglob("*.npy") if "prompt" not in file.name]
    built = sum(file.stat().st_size for file in files) / 1e9
    with plan.elsewhere() as kept:
        left = plan._measured(configs, *given, kept)
    assert expected[0] - left[0] == pytest.approx(built, rel=0.2)
    assert expected[1] > 0 and left[1] == 0 and left[2] > 0


def test_plan__without_a_teacher_says_so_and_counts_the_rest(study, tmp_path):
    (tmp_path / "empty").mkdir()
    text = plan.plan(study("projection", checkpoint=str(tmp_path / "empty")), workers=1)
    assert "1 to do" in text and re.search("Missing, and not in these numbers: .*/empty", text)


def test_plan__without_the_official_data_is_measured_on_synthetic_images(study, small_shapes, monkeypatch):
    monkeypatch.setattr(data.shapes, "ensure", lambda *_: small_shapes)
    few, many = (plan.plan(study("projection", data_root="/none", train_limit=size), workers=1) for size in (10, 90000))
    assert sizes(many) > sizes(few) + 0.05 and "Missing: coco in /none; its sizes are known." in many


def test_plan__what_is_done_is_not_planned(study, monkeypatch):
    monkeypatch.setattr(plan, "job_of", small_study.job_of)
    done = study("projection")
    small_study.finished(small_study.run_folder(done.experiments()[0].config))
    write_json(runs_root() / "small/index.json", {})
    text = plan.plan(done, workers=1)
    assert text.startswith("Small: 1 experiments, 0 to do.\nDisk: about 0.0 GB") and "about 0:00:00" in text


def test_plan__extra_synthetic_images_are_counted_and_not_made(study):
    few, many = (plan.plan(study("resnet", extra_images=f"shapes:{count}"), workers=1) for count in (100, 100_000))
    assert sizes(many) > sizes(few) + 0.1 and not runs_root().exists()


def test_elsewhere__has_the_data_that_are_there(tmp_path):
    (runs_root() / "data/shapes-1").mkdir(parents=True)
    with plan.elsewhere() as kept:
        assert kept != runs_root() and (runs_root() / "data/shapes-1").is_dir()
        here = Path(runs_root())
    assert not here.exists() and (kept / "data/shapes-1").is_dir()
