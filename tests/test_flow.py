"""From data to result, as a notebook goes through it."""

import os
import shutil
import subprocess
import sys

import made
import numpy as np
import pytest
import torch
from filelock import Timeout

from kdlib import result, status, tables, trainer
from kdlib.experiment import Experiment, keys_of, run_folder
from kdlib.students import CBAM
from kdlib.utils import locked, read_json

pytestmark = pytest.mark.usefixtures("shared_features")
CONTROLS = {"teacher", "pca", "random_init", "random", "constant", "shuffled"}
SELF_CONTAINED = {
    "method": "resnet", "variant": "self_contained", "objective": "feature_regression+anchor_kl", "anchors": 50,
    "text_side": "transformer", "crop": 0.8, "clip_norm": 1.0, "cooldown": 0.5,
}  # fmt: skip


def finished(config) -> Experiment:
    experiment = Experiment.open(config)
    experiment.train()
    experiment.evaluate()
    return experiment


@pytest.mark.parametrize(("teacher", "method"), [("clip", "projection"), ("beit", "attention"), ("blip", "densenet")])
def test_flow__a_result_holds_every_budget_its_controls_its_cost_and_where_it_was_made(small_run, teacher, method):
    experiment = Experiment.open(small_run(teacher, method=method, epochs=[1, 2]))
    history, scores = experiment.train(), experiment.evaluate()
    record = experiment.result
    assert list(record["budgets"]) == ["1", "2"] and set(record["controls"]) == CONTROLS
    assert set(scores.encoder) == {*CONTROLS, "student"} and set(scores.epochs) == {1, 2}
    assert record["failed_checks"] == [] and record["leakage"]["level"] == "none"
    shown = scores[scores.primary]
    assert ((shown.low <= shown.value) & (shown.value <= shown.high)).all() and shown.value.between(0, 1).all()
    assert history.epoch.tolist() == [1, 2]
    size = record["size"]
    assert size["inference_mb"] > size["student_mb"] or (method == "densenet" and teacher == "beit")
    assert record["hardware"]["threads"] == 1 and record["data"]["test"]["images"] == len(experiment.splits["test"])


def test_key__is_in_the_folders_name_and_needs_no_features(small_run):
    config = small_run("clip")
    folder = run_folder(config)
    assert folder.name == f"seed0-{keys_of(config)['train'][:8]}"
    assert folder not in (run_folder(small_run("clip", lr_peak=0.02)), run_folder(small_run("clip", threads=2)))
    assert run_folder(small_run("clip", epochs=[1, 7], score_on="dev")) == folder


def test_budgets__a_larger_one_continues_and_scores_only_what_is_new(small_run, monkeypatch):
    first = finished(small_run("dino", epochs=1))
    before = first.result
    scored = []
    real = result._budget
    monkeypatch.setattr(result, "_budget", lambda *given: scored.append(given[1]) or real(*given))
    both = finished(small_run("dino", epochs=[1, 2]))
    assert both.run == first.run and scored == [2]
    assert both.result["budgets"]["1"] == before["budgets"]["1"]
    at_once = finished(small_run("dino", epochs=2, study="other"))
    assert at_once.result["budgets"]["2"]["scores"] == both.result["budgets"]["2"]["scores"]


def test_evaluation__another_one_scores_again_and_trains_nothing(small_run, monkeypatch):
    config = small_run("dino")
    before = finished(config)
    monkeypatch.setattr("kdlib.keys.code_digest", lambda room, real=keys_of.__globals__["keys"].code_digest: (
        "another" if room == "evaluation" else real(room)))  # fmt: skip
    assert status.lacks(before.run, config.epochs, keys_of(config)["evaluation"]) == "the evaluation has changed"
    monkeypatch.setattr(trainer, "_epoch", None)  # training anything would fail
    again = finished(config)
    assert again.run == before.run and again.result["keys"]["evaluation"] == keys_of(config)["evaluation"]


def test_self_contained__its_result_is_that_of_the_cooldowns_and_needs_no_teacher(small_run):
    experiment = finished(small_run("clip", **SELF_CONTAINED, extra_images="shapes:40", epochs=[1, 2]))
    record = experiment.result
    assert experiment.trained().student.self_contained and record["role"] == "self_contained"
    assert record["size"]["inference_mb"] == record["size"]["student_mb"] < 10
    for budget in (1, 2):
        assert set(record["budgets"][str(budget)]["scores"]) == {"student", "dev", "words_shuffled"}
        branch = torch.load(experiment.run / "checkpoints" / f"cooldown-{budget:04d}.pt", weights_only=True)["model"]
        assert all(torch.equal(x, branch[name]) for name, x in experiment.trained(budget).state_dict().items())
    assert record["data"]["train"]["images"] == record["data"]["fit"]["images"] + 40
    train, fit = experiment.splits["train"], experiment.splits["fit"]
    assert np.array_equal(train.features["image_pooled"][: len(fit)], fit.features["image_pooled"])


def test_pretrained__start_is_a_control_beside_random_init(small_run, monkeypatch):
    load = "kdlib.students.convnets._load"
    monkeypatch.setattr(load, lambda network, weights: torch.nn.init.ones_(next(network.parameters())))
    experiment = finished(small_run("dino", method="mobilenet", convnet="full", pretrained=True, epochs=1))
    assert {"random_init", "pretrained_init"} <= set(experiment.result["controls"])
    monkeypatch.setattr(load, None)  # restoring it must not ask for pretrained weights again
    assert len(Experiment.from_run(experiment.run).embed("test")["image"]) == 20 * 3


def test_from_run__is_the_run_that_was_finished(small_run):
    before = finished(small_run("clip", method="attention"))
    again = Experiment.from_run(before.run)
    assert again.run == before.run and again.keys == before.keys
    first, second = before.embed("test"), again.embed("test")
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert len(again.captions()) == len(first["text"]) and again.photo("test", 0).mode == "RGB"
    assert again.embed("test", "teacher")["image_attention"].shape == first["image_attention"].shape
    with pytest.raises(FileNotFoundError, match=r"no result\.json"):
        Experiment.from_run(before.run.parent)


def test_edited__training_has_a_folder_of_its_own_and_says_so(small_run):
    experiment = Experiment.open(small_run("dino", epochs=1))
    plain = experiment.run
    distiller = experiment.distiller()
    distiller.student.image = torch.nn.Linear(128, 64)
    experiment.train(distiller)
    scores = experiment.evaluate()
    assert experiment.run != plain and experiment.run.parent == plain.parent
    assert experiment.edited and experiment.result["edited"] == experiment.edited
    trained = experiment.run
    experiment.train(distiller)  # the cell is run again: the same training
    assert experiment.run == trained
    distiller.teacher_scale = 20.0  # and after an edit another, from the weights that it has now
    experiment.train(distiller)
    assert experiment.run != trained and any("teacher_scale" in line for line in experiment.edited)
    assert tables.results("test", all=True).path.nunique() == 1 and len(scores)
    with pytest.raises(ValueError, match="edited"):
        Experiment.from_run(trained)


def test_student_of_the_package__given_as_a_class_is_that_method(small_run):
    assert Experiment.open(small_run("clip"), student=CBAM).config == small_run("clip", method="cbam")


def test_train__a_second_notebook_on_the_same_run_waits(small_run, monkeypatch):
    experiment = Experiment.open(small_run("dino"))

    def train(*_):
        with pytest.raises(Timeout), locked(experiment.run / ".lock", timeout=0):
            pass
        return [{"epoch": 1}]

    monkeypatch.setattr(trainer, "train", train)
    assert len(experiment.train()) == 1


def test_result__counts_what_was_left_out(small_run, tmp_path):
    """A notice among the images, an image that is no image, and one that is in two splits."""
    top = made.tinyimagenet(tmp_path)
    (top / f"train/{made.WNIDS[0]}/images/{made.WNIDS[0]}_19.JPEG").write_bytes(b"no image")
    (top / "train/notice.txt").touch()
    shutil.copy(top / "val/images/val_0.JPEG", top / f"train/{made.WNIDS[1]}/images/twin.JPEG")
    choice = {"data_root": str(tmp_path), "on_bad_image": "skip", "on_overlap": "drop", "timed_calls": 5}
    found = finished(small_run("dino", epochs=1, **choice)).result["data"]
    assert sum(split["skipped"] for split in found.values()) == 1
    assert sum(split["left_out"] for split in found.values()) == 2
    assert sum(split["images"] for split in found.values()) == 59 + 6


def test_vision_only_teacher_on_captions__is_an_error_that_says_so(small_run):
    with pytest.raises(ValueError, match=r"dino has no text side, and coco has no labels"):
        Experiment.open(small_run("dino", dataset="coco"))


def test_controls__are_computed_once_for_a_teacher_and_data_set(small_run, monkeypatch):
    first = finished(small_run("dino", epochs=1))
    monkeypatch.setattr(result, "controls", None)
    second = finished(small_run("dino", epochs=1, method="bottleneck"))
    assert second.result["controls_file"] == first.result["controls_file"]
    assert second.result["controls"]["pca"] == first.result["controls"]["pca"]
    assert read_json(second.run / "running.json") is None


def test_real_samples__go_through_the_same_flow(small_run, shared, tmp_path):
    shutil.unpack_archive(shared / "data/coco-2017-small.zip", tmp_path)
    root = next(path.parent for path in tmp_path.rglob("val2017"))
    experiment = finished(small_run("blip", data_root=str(root), method="cbam", epochs=1))
    assert experiment.result["data"]["fit"]["images"] == 72 and experiment.result["data"]["test"]["images"] == 159


def test_locale__of_latin_1_trains_the_same_run(small_run):
    """Of a login node: the whole run, from the data to the result."""
    config = small_run("clip", epochs=1)
    code = f"from kdlib import Experiment, RunConfig\nrun = Experiment.open(RunConfig(**{config.model_dump()}))\n"
    code += "run.train()\nrun.evaluate()"
    other = {"LC_ALL": "en_US.ISO-8859-1", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | other, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert result.read(run_folder(config))["keys"] == keys_of(config)
