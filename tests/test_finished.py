"""Finished runs are found and opened as they lie on disk."""

import json
import shutil

import numpy as np
import pytest
import torch

from kdlib import finished, keys
from kdlib.features.npy import StoreError
from kdlib.files import runs_root, seal


def one(study: str, teacher: str = "clip", method: str = "projection", epochs: int = 2) -> finished.Finished:
    (found,) = finished.find(study, teacher, methods=[method], epochs=epochs)
    return found


def test_find__gives_what_is_asked_for(finished_study):
    assert finished.studies() == [finished_study]
    assert len(finished.find(finished_study)) == 9
    assert {run.config.epochs for run in finished.find(finished_study, "dino", methods=["projection"])} == {1, 2}
    assert [run.name for run in finished.find(finished_study, "clip", methods=["resnet+no_teacher"])] == [
        "resnet, no teacher"
    ]
    assert finished.find(finished_study, seed=1) == []
    assert finished.find("another") == []


@pytest.mark.parametrize("spoil", ["no embeddings", "another schema", "out of memory", "set aside"])
def test_find__leaves_out_what_is_not_finished(finished_study, tmp_path, monkeypatch, spoil):
    shutil.copytree(runs_root() / "small/clip_coco/projection", tmp_path / "runs/small/clip_coco/projection")
    monkeypatch.setenv("KDLIB_RUNS", str(tmp_path / "runs"))
    run = one(finished_study).run
    if spoil == "no embeddings":
        run.embeddings_path(2).unlink()
    elif spoil == "set aside":
        run.path.rename(run.path.with_name("seed0.superseded-12345678"))
    else:
        changed = {"another schema": {"schema": 1}, "out of memory": {"outcome": "out_of_memory"}}[spoil]
        run.result_path(2).write_text(json.dumps(seal(run.result(2) | changed)))
    assert 2 not in [found.config.epochs for found in finished.find(finished_study)]


def test_run__has_the_numbers_of_its_record(finished_study):
    run = one(finished_study)
    assert run.score() == run.result["scores"]["student"]["mean_recall"]
    for who in ("student", "untrained", "teacher"):
        low, high = run.interval(who)
        assert low <= run.score(who) <= high
        queries = run.queries(who, "t2i_r@5")
        assert len(queries) == len(run.texts)
        assert queries.mean() == pytest.approx(run.score(who, "t2i_r@5"), abs=1e-6)


@pytest.mark.parametrize("method", ["projection", "attention", "resnet"])
@pytest.mark.parametrize("teacher", ["clip", "dino"])
def test_run__rows_of_embeddings_features_and_images_belong_together(finished_study, teacher, method):
    """The student, opened from its checkpoint, makes of an image's stored features the embedding on file."""
    run = one(finished_study, teacher, method)
    assert len(run) == len(run.rows) == len(run.student_space["image"]) == len(run.teacher_space["image"])
    assert [run.data.ids[row] for row in run.rows] == run.split.store.ids
    assert (run.attention is None) == (method != "attention")
    if run.has_text:
        assert len(run.texts) == len(run.owner) == len(run.student_space["text"])
        assert run.captions(3)[0] == run.texts[np.flatnonzero(run.owner == 3)[0]] == run.describe(3)
    else:
        np.testing.assert_array_equal(run.labels, run.embeddings["test/labels"])
        assert run.describe(3) == run.data.class_names[run.labels[3]]
    if method == "projection":
        made = run.student.see({"image": torch.tensor(run.split.store["image_pooled"][3:4]).float()})["image"]
        torch.testing.assert_close(made[0].double(), run.student_space["image"][3], rtol=0, atol=1e-5)


def test_store__is_the_one_that_was_scored_or_an_error_with_the_remedy(finished_study, tmp_path, monkeypatch):
    shutil.copytree(runs_root() / "small", tmp_path / "runs/small")
    monkeypatch.setenv("KDLIB_RUNS", str(tmp_path / "runs"))
    with pytest.raises(StoreError, match="kdlib run"):
        _ = one(finished_study).split


def test_student__without_its_checkpoint_says_what_to_do(finished_study, tmp_path, monkeypatch):
    for name in ("small/clip_coco/projection", "features"):
        shutil.copytree(runs_root() / name, tmp_path / "runs" / name)
    monkeypatch.setenv("KDLIB_RUNS", str(tmp_path / "runs"))
    run = one(finished_study)
    shutil.rmtree(run.run.checkpoints)
    with pytest.raises(FileNotFoundError, match="no checkpoint of epoch 2"):
        _ = run.student


def test_what_to_do__names_the_command_and_what_is_there(finished_study):
    assert "kdlib run notebooks/studies/mini.yaml" in finished.what_to_do("mini")
    assert "are there of: small" in finished.what_to_do("mini")
    assert "set the parameter 'study'" in finished.what_to_do("unknown")


def test_what_to_do__without_any_run():
    assert finished.studies() == []
    assert "make study" in finished.what_to_do()


@pytest.mark.parametrize("stage", ["training", "evaluation"])
def test_outdated__once_the_code_of_its_numbers_has_changed(finished_study, monkeypatch, stage):
    assert not one(finished_study).outdated
    now = keys.digest_of
    monkeypatch.setattr(keys, "digest_of", lambda name, **given: "other" if name == stage else now(name, **given))
    assert one(finished_study).outdated
