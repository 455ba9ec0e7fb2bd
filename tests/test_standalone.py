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


def told() -> str:
    """README's section on them."""
    return (project_root() / "README.md").read_text().split("## Students that stand alone")[1].split("\n## ")[0]


def test_readme__has_the_numbers_of_the_run_whose_results_are_beside_the_study():
    rows = pd.read_csv(studies_folder() / "standalone.csv").fillna({"variant": ""})
    lines = [line.strip("| ").split(" | ") for line in told().splitlines() if line.startswith("| ")]
    students, others = ({cells[0].lower(): cells for cells in lines if len(cells) == count} for count in (7, 4))
    for teacher in ("clip", "blip", "dino", "beit"):
        of = rows[rows.teacher == teacher].set_index(["variant", "epochs"]).sort_index()
        own, cells = of.loc["", 10], students[teacher]
        first = own[own.seed == 0].iloc[0]
        assert own.seed.tolist() == [0, 1, 2]
        assert cells[1] == f"{first.teacher_score:.3f} [{first.teacher_low:.3f}, {first.teacher_high:.3f}]"
        spread = f"{own.student.mean():.3f} ± {own.student.std():.3f}"
        assert cells[2] == f"{spread} [{first.low:.3f}, {first.high:.3f}]"
        assert cells[3] == f"{100 * own.student.mean() / first.teacher_score:.0f} %"
        assert cells[4] == f"{first.deployed_mb:.2f}"
        assert cells[5] == f"{first.onnx_int8:.3f} [{first.onnx_int8_low:.3f}, {first.onnx_int8_high:.3f}]"
        assert cells[6] == f"{first.onnx_int8_mb:.2f}"
        assert first.onnx_int8_low <= first.onnx <= first.onnx_int8_high
        both = "with_captions" if first.dataset == "coco" else "with_labels"
        controls = [of.loc[[key]].iloc[0] for key in (("no_teacher_own_labels", 120), ("no_teacher", 10), (both, 10))]
        assert others[teacher][1:] == [f"{one.student:.3f} [{one.low:.3f}, {one.high:.3f}]" for one in controls]


def test_readme__its_verdicts_are_those_of_the_study():
    rows = pd.read_csv(studies_folder() / "standalone.csv").fillna({"variant": ""})
    own = rows[(rows.variant == "") & (rows.epochs == 10) & (rows.seed == 0)].set_index("teacher")
    same = "not distinguishable"
    assert own.against_teacher.to_dict() == {"clip": "worse", "blip": same, "dino": same, "beit": same}
    assert own.against_own_labels.to_dict() == dict.fromkeys(("clip", "blip", "dino", "beit"), "better")
    text = " ".join(told().split())
    assert "CLIP's student is worse than its teacher, and the other three are not distinguishable" in text
    assert "the students of all four teachers are better by verdict" in text
    seen = rows[rows.epochs.isin((10, 120))].groupby(["dataset", "variant"]).images_seen.first()
    fewer = [seen[name, "no_teacher_own_labels"] / seen[name, ""] for name in ("coco", "tinyimagenet")]
    assert "{:.0%} as many on COCO, {:.0%} on Tiny ImageNet".format(*fewer).replace("%", " %") in text
    shuffled = rows[(rows.variant == "") & (rows.epochs == 10)].groupby("teacher").words_shuffled.mean()
    assert f"CLIP's student has {shuffled['clip']:.3f} and BLIP's {shuffled['blip']:.3f}" in text


def test_readme__the_students_on_real_images_are_those_whose_results_are_beside_the_study():
    found = pd.read_csv(studies_folder() / "sample_standalone.csv")
    table = told().split("| student | score |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    for line, row in zip(table, found.itertuples(), strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        share = f"{100 * row.student / row.teacher_score:.0f} %"
        assert cells[1:] == [f"{row.student:.3f} [{row.low:.3f}, {row.high:.3f}]", share, f"{row.deployed_mb:.2f}"]
        assert row.difference_low < 0 < row.difference_high
    first = found.iloc[0]
    text = " ".join(told().split())
    assert f"with {first.teacher_score:.3f} [{first.teacher_low:.3f}, {first.teacher_high:.3f}]" in text
    assert f"{first.epochs} epochs" in text and "against it is: not distinguishable." in text
    assert list(found.method) == ["resnet", "mobilenet"]


def test_readme__what_views_are_worth_is_the_result_beside_the_study():
    found = pd.read_csv(studies_folder() / "views.csv").fillna({"variant": "", "verdict": ""})
    text = told()
    lines = text.split("| trained on |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    scores = [line.strip("|").split("|")[1].strip() for line in lines]
    assert scores == [f"{row.student:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in found.itertuples()]
    verdicts = found.set_index("variant").verdict
    assert set(verdicts[["crops", "views_4"]]) == {"not distinguishable"}
    assert set(verdicts[["views_1", "views_16"]]) == {"undecided after correction"}
    said = "crops and 4 views are not distinguishable from them, 1 and 16 views undecided after correction"
    assert said in " ".join(text.split())
