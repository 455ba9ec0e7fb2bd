"""A student that stands alone, from its configuration to its result."""

from kdlib import checkpoints
from kdlib.experiment import Experiment
from kdlib.files import file_digest

ALONE = {"method": "resnet", "objective": "feature_regression+anchor_kl", "text_side": "transformer", "anchors": 50}
ALONE |= {"crop": 0.8, "clip_norm": 1.0, "cooldown": 0.5, "extra_images": "drawn:40", "epochs": 2}


def test_standalone__its_result_needs_no_teacher_and_is_that_of_the_leaf(small_run):
    experiment = Experiment.open(small_run("clip", **ALONE))
    history = experiment.train()
    result = experiment.finish(experiment.evaluate(), history)
    assert experiment.trained.student.stands_alone
    assert result["size"]["deployed_mb"] == result["size"]["student_mb"] < 10
    assert {"student", "dev", "words shuffled", "teacher"} <= set(result["scores"])
    leaf = experiment.run.checkpoints / "cooldown-0002"
    assert result["checkpoint"] == {name: file_digest(leaf / name) for name in checkpoints.FILES}
    steps = (len(experiment.splits["fit"]) + 40) // 16
    assert [record["images_seen"] for record in history] == [16 * steps * epoch for epoch in (1, 2, 3)]


def test_standalone__without_a_cooldown_nothing_is_scored_on_dev(small_run):
    experiment = Experiment.open(small_run("dino", **ALONE | {"cooldown": 0.0, "extra_images": ""}))
    experiment.train()
    assert "dev" not in experiment.evaluate()["scores"]
