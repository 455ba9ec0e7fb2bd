"""From data to result, as a notebook goes through it."""

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdlib.data import DataError
from kdlib.evaluate.controls import ROWS
from kdlib.evaluate.embed import embed
from kdlib.experiment import Experiment
from kdlib.files import read_json
from kdlib.report import rows


@pytest.mark.parametrize(("teacher", "method"), [("clip", "projection"), ("beit", "attention"), ("blip", "densenet")])
def test_flow__a_result_holds_everything_a_reader_asks_for(small_run, teacher, method):
    experiment = Experiment.open(small_run(teacher, method=method, epochs=2))
    history = experiment.train()
    result = experiment.finish(experiment.evaluate(), history)
    assert read_json(experiment.run.result_path(2)) == result
    assert set(result["scores"]) == {*ROWS, "untrained", "student"}
    assert all(wire["passed"] for wire in result["wires"]) and result["exposure"]["level"] == "none"
    assert all(0 <= scores[result["headline"]] <= 1 for scores in result["scores"].values())
    assert [record["epoch"] for record in history] == [1, 2]
    assert method == "densenet" or history[1]["loss"] < history[0]["loss"]  # four steps are few for a network
    deployed, student = result["size"]["deployed_mb"], result["size"]["student_mb"]
    assert deployed > student or (method == "densenet" and teacher == "beit")
    assert result["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert result["hardware"]["threads"] == 1
    assert result["data"]["test"]["images"] == len(experiment.splits["test"])


def test_flow__the_teacher_scored_as_its_own_student_is_the_teachers_row(small_run):
    experiment = Experiment.open(small_run("clip"))
    split = experiment.splits["test"]
    images, texts = (torch.tensor(np.array(split.store[name])).float() for name in ("image_pooled", "text_pooled"))
    similarity = F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    owner = split.owner
    hits = [owner[row.argmax()] == number for number, row in enumerate(similarity)]
    assert experiment.controls()["scores"]["teacher"]["i2t_r@1"] == pytest.approx(np.mean(hits))


def test_flow__recomputing_a_students_score_from_its_files_gives_the_result(small_run):
    """From the checkpoint and the stores with plain numpy, as a reviewer would."""
    from safetensors.numpy import load_file

    experiment = Experiment.open(small_run("clip", method="projection", epochs=2))
    scores = experiment.evaluate()["scores"] if experiment.train() else {}
    weights = load_file(experiment.run.checkpoints / "epoch-0002" / "model.safetensors")
    split, sides = experiment.splits["test"], {}
    for side in ("image", "text"):
        x = np.array(split.store[f"{side}_pooled"], dtype=np.float32)
        x *= np.sqrt(x.shape[1]) / np.linalg.norm(x, axis=1, keepdims=True)
        y = x @ weights[f"student.{side}.weight"].T + weights[f"student.{side}.bias"]
        sides[side] = y / np.linalg.norm(y, axis=1, keepdims=True)
    similarity = sides["text"] @ sides["image"].T
    ranks = (similarity > similarity[np.arange(len(similarity)), split.owner][:, None]).sum(axis=1)
    for k in (1, 5, 10):
        assert scores["student"][f"t2i_r@{k}"] == pytest.approx((ranks < k).mean(), abs=1e-9)


@pytest.mark.parametrize("method", ["projection", "attention", "cbam", "resnet"])
def test_scores__do_not_depend_on_the_evaluation_batch(small_run, method):
    experiment = Experiment.open(small_run("clip", method=method))
    student = experiment.distiller().student
    whole = embed(student, experiment.splits["test"])
    for size in (1, 7):
        parts = embed(student, experiment.splits["test"], batch=size)
        assert all(torch.allclose(whole[name], parts[name], atol=1e-5) for name in whole)


def test_untrained_control__is_scored_on_the_weights_that_training_starts_from(small_run, monkeypatch):
    import kdlib.experiment as module

    seen, score = {}, Experiment.score

    def scored(self, distiller, *given):
        seen.setdefault("scored", {name: value.clone() for name, value in distiller.state_dict().items()})
        return score(self, distiller, *given)

    def trained(distiller, *given):
        seen["trained"] = {name: value.clone() for name, value in distiller.state_dict().items()}
        return []

    monkeypatch.setattr(Experiment, "score", scored)
    monkeypatch.setattr(module, "train", trained)
    experiment = Experiment.open(small_run("dino"))
    experiment.controls()
    experiment.train()
    assert seen["scored"].keys() == seen["trained"].keys()
    assert all(torch.equal(seen["scored"][name], value) for name, value in seen["trained"].items())


def test_train_limit__takes_the_same_images_every_epoch(small_run):
    from kdlib.features.loader import TrainLoader

    experiment = Experiment.open(small_run("clip"))
    loader = TrainLoader(experiment.splits["fit"], "features", 5, seed=0, limit=10)
    seen = [torch.cat([batch["row"] for batch in loader.epoch(epoch)]) for epoch in (1, 2)]
    assert sorted(seen[0].tolist()) == sorted(seen[1].tolist()) and len(seen[0]) == 10
    assert seen[0].tolist() != seen[1].tolist()


def test_caption__of_each_epoch_belongs_to_its_image(small_run):
    from kdlib.features.loader import TrainLoader

    split = Experiment.open(small_run("clip")).splits["fit"]
    loader = TrainLoader(split, "features", 8, seed=0)
    drawn = [loader._captions(epoch) for epoch in range(1, 6)]
    assert all((split.owner[rows] == np.arange(len(split))).all() for rows in drawn)
    assert len({tuple(rows) for rows in drawn}) == 5


def test_vision_only_teacher_on_captions__is_an_error_that_says_so(small_run):
    with pytest.raises(ValueError, match=r"dino has no text side .* coco"):
        Experiment.open(small_run("dino").model_copy(update={"dataset": "coco"}))


def test_real_samples__go_through_the_same_flow(small_run, shared):
    fields = {"data_root": str(shared / "data"), "method": "cbam", "epochs": 1, "batch_size": 16}
    experiment = Experiment.open(small_run("blip", **fields))
    result = experiment.finish(experiment.evaluate(), experiment.train()) if experiment.train() else {}
    assert result["data"]["fit"]["images"] == 72 and result["data"]["test"]["images"] == 159


def test_copies_between_the_splits__leave_training_and_are_named_in_the_result(small_run, small_shapes, tmp_path):
    """As in the published COCO, whose train2017 holds copies of images of val2017."""
    root = shutil.copytree(small_shapes, tmp_path / "data")
    train, test = (sorted((root / "coco" / part).iterdir()) for part in ("train2017", "val2017"))
    fit = Experiment.open(small_run("clip")).data["fit"].image_names
    kept = [path for path in train if f"train2017/{path.name}" in fit]
    shutil.copy(test[0], kept[0])  # in training and in test
    shutil.copy(kept[1], kept[2])  # twice in training
    with pytest.raises(DataError, match=rf"1 images are in two splits: train2017/{kept[0].name} and val2017"):
        Experiment.open(small_run("clip", data_root=str(root)))
    experiment = Experiment.open(small_run("clip", data_root=str(root), on_overlap="drop", epochs=1))
    history = experiment.train()
    result = json.loads(json.dumps(experiment.finish(experiment.evaluate(), history)))
    assert result["data"]["fit"]["left_out"] == [[f"train2017/{kept[0].name}", f"val2017/{test[0].name}"]]
    assert result["data"]["fit"]["duplicates"] == [[f"train2017/{kept[2].name}", f"train2017/{kept[1].name}"]]
    assert result["data"]["fit"]["images"] == len(kept) - 1 and result["data"]["test"]["left_out"] == []
    assert result["reference"] == []  # a stand-in is compared with nobody's figures
    row = rows.flatten(result)
    assert (row["left_out_images"], row["duplicate_images"]) == (1, 1) and test[0].name in row["left_out"]
