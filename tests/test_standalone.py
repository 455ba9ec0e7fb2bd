"""A student that stands alone, from its configuration to its result."""

import pandas as pd

from kdlib import checkpoints
from kdlib.experiment import Experiment
from kdlib.files import file_digest, project_root
from kdlib.study.file import studies_folder

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


def test_readme__has_the_numbers_of_the_run_whose_results_are_beside_the_study():
    rows = pd.read_csv(studies_folder() / "standalone.csv").fillna({"variant": ""})
    last = rows[rows.epochs == 10].set_index(["teacher", "variant"])
    table = (project_root() / "README.md").read_text().split("## Students that stand alone")[1].split("## ")[0]
    lines = {cells[0].lower(): cells for line in table.splitlines() if (cells := line.strip("| ").split(" | "))[1:]}
    for teacher in ("clip", "blip", "dino", "beit"):
        own, cells = last.loc[teacher, ""], lines[teacher]
        assert cells[1] == f"{own.teacher_score:.3f} [{own.teacher_low:.3f}, {own.teacher_high:.3f}]"
        assert cells[2] == f"{own.student:.3f} [{own.student_low:.3f}, {own.student_high:.3f}]"
        assert cells[3] == f"{100 * own.student / own.teacher_score:.0f} %"
        assert cells[4] == f"{own.deployed_mb:.2f}"
        assert cells[5] == f"{own.onnx_int8:.3f} [{own.onnx_int8_low:.3f}, {own.onnx_int8_high:.3f}]"
        assert cells[6] == f"{own.onnx_int8_mb:.2f}"
        assert own.onnx_int8_low <= own.onnx <= own.onnx_int8_high
        assert cells[8] == f"{last.loc[teacher, 'no_teacher'].student:.3f}"
        labelled = rows[(rows.teacher == teacher) & (rows.variant == "no_teacher_own_labels")]
        assert cells[7] == (f"{labelled.student.iloc[0]:.3f}" if len(labelled) else "not run")
