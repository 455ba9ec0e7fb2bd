"""Printed results beside ours: every printed cell once, with what stands between the two numbers."""

import pytest

from kdlib.report.paper import SAME, threeway
from kdlib.report.scores import paper

KEY = ["teacher", "dataset", "method", "epochs"]
OURS, UNTRAINED, SOUND, WHY = f"ours, {SAME}", f"untrained, {SAME}", "ours, sound", "why they differ"
REAL = {"teacher_source": "openai/clip-vit-base-patch32", "data_root": "/data/coco", "convnet": "full"}
IDENTITY = {f"student {SAME}": 1.0, f"untrained {SAME}": 1.0, "degenerate": f"in_batch@32 {SAME}"}


def line(frame, teacher: str = "clip", method: str = "projection", epochs: int = 5):
    """One printed cell's line."""
    found = threeway(frame).set_index(["teacher", "method", "epochs"])
    return found.loc[(teacher, method, epochs)]


def test_threeway__has_every_printed_cell_once_whatever_was_run(made_study):
    everything = [{name: getattr(row, name) for name in KEY} for row in paper().itertuples()]
    ours_alone = [{"method": "own"}, {"epochs": 7}, {"teacher": "mine", "dataset": "coco"}]
    for experiments in (everything, [*everything[:9], *ours_alone], [{"outcome": "absent"}]):
        made = threeway(made_study(*experiments))
        assert made[KEY].to_dict("records") == everything


def test_threeway__prints_what_the_study_prints(made_study):
    made = threeway(made_study({}))
    for text, row in zip(made.printed, paper().itertuples(), strict=True):
        assert text == "out of memory" if row.outcome == "out_of_memory" else float(text) == row.accuracy
    assert (made.printed == "out of memory").sum() == 4


def test_threeway__an_experiment_that_was_not_run_says_so(made_study):
    made = threeway(made_study({"method": "projection", "epochs": 5}))
    ran = (made.teacher == "clip") & (made.method == "projection") & (made.epochs == 5)
    assert ran.sum() == 1
    assert (made.loc[~ran, [OURS, UNTRAINED, SOUND]] == "not run").all(axis=None) and (made.loc[~ran, WHY] == "").all()
    assert not (made.loc[ran, [OURS, UNTRAINED, SOUND]] == "not run").any(axis=None)


@pytest.mark.parametrize("outcome", ["out_of_memory", "error", "stale"])
def test_threeway__an_experiment_that_ran_without_a_number_says_what_became_of_it(made_study, outcome):
    """Above all where the study itself ran out of memory: ours did too, or was it never tried?"""
    shown = line(made_study({"teacher": "dino", "method": "resnet", "outcome": outcome}), "dino", "resnet")
    assert shown[OURS] == shown[SOUND] == outcome.replace("_", " ")


def test_threeway__ours_by_the_studys_definition_and_by_the_sound_one(made_study):
    shares = {"student": 0.8, f"student {SAME}": 0.6, f"untrained {SAME}": 0.1}
    shown = line(made_study(shares))
    assert shown[OURS].startswith("0.600 [") and shown[UNTRAINED].startswith("0.100 [")
    assert shown[SOUND].startswith("0.800 [")


def test_threeway__several_seeds_have_their_deviation(made_study):
    shown = line(made_study(*({"seed": seed, "student": 0.7 + seed / 10} for seed in range(3))))
    assert shown[SOUND].startswith("0.800 ± 0.100 [") and "±" in shown[OURS]


def test_threeway__a_score_that_these_data_lack_is_a_dash(made_study):
    shown = line(made_study({f"student {SAME}": None, f"untrained {SAME}": None}))
    assert shown[OURS] == shown[UNTRAINED] == "–" and shown[SOUND].startswith("0.800 [")


def test_threeway__variants_are_not_ours(made_study):
    assert line(made_study({"variant": "no_teacher"}))[OURS] == "not run"
    beside = made_study({"student": 0.8}, {"variant": "no_teacher", "student": 0.1})
    assert line(beside)[SOUND].startswith("0.800 [")


def test_threeway__each_number_of_epochs_is_its_own(made_study):
    frame = made_study({"epochs": 5, "student": 0.4}, {"epochs": 10, "student": 0.6})
    assert line(frame)[SOUND].startswith("0.400 [") and line(frame, epochs=10)[SOUND].startswith("0.600 [")


# ---------------------------------------------------------------- why they differ


@pytest.mark.parametrize(("degenerate", "said"), [(SAME, True), (f"in_batch@32 {SAME} x", True), ("in_batch@32", False),
                                                  (f"{SAME}0", False), ("", False)])  # fmt: skip
def test_reasons__identity_only_where_the_untrained_student_has_it(made_study, degenerate, said):
    shown = line(made_study({"teacher": "dino", "degenerate": degenerate}), "dino")
    assert ("identity: the untrained student has it too" in shown[WHY]) == said


def test_reasons__identity_is_an_experiment_by_experiments_finding(made_study):
    frame = made_study({"teacher": "dino"} | IDENTITY, {"teacher": "dino", "method": "bottleneck"})
    assert "identity" in line(frame, "dino")[WHY] and "identity" not in line(frame, "dino", "bottleneck")[WHY]
    assert line(frame, "dino")[UNTRAINED].startswith("1.000 [")


def test_reasons__what_the_study_printed_below_one_is_not_the_identity(made_study):
    words = "not the identity, so another measure"
    for method, said in (("attention", True), ("projection", False), ("resnet", False)):  # 0.20, 1.00, out of memory
        frame = made_study({"teacher": "dino", "method": method} | IDENTITY)
        assert (words in line(frame, "dino", method)[WHY]) == said, method


def test_reasons__its_running_out_of_memory_is_said(made_study):
    frame = made_study(*({"teacher": "dino", "method": method} for method in ("resnet", "attention")))
    assert "it ran out of memory there" in line(frame, "dino", "resnet")[WHY]
    assert "memory" not in line(frame, "dino", "attention")[WHY]
    assert "memory" not in line(made_study({"teacher": "beit", "method": "resnet"}), "beit", "resnet")[WHY]


def test_reasons__captions_are_one_of_64_there_and_all_here(made_study):
    frame = made_study({"teacher": "clip"}, {"teacher": "blip"}, {"teacher": "dino"})
    assert "1 of 64 there" in line(frame)[WHY] and "1 of 64 there" in line(frame, "blip")[WHY]
    assert "1 of 64" not in line(frame, "dino")[WHY]
    assert "BLIP heads" in line(frame, "blip")[WHY] and "BLIP heads" not in line(frame)[WHY]


def test_reasons__stand_ins_and_drawn_data_are_named_as_ours(made_study):
    assert {"stand-in teacher", "drawn data"} <= set(line(made_study({}))[WHY].split("; "))
    published = line(made_study(REAL))[WHY]
    assert "stand-in" not in published and "drawn" not in published and "narrow" not in published


@pytest.mark.parametrize(
    ("method", "convnet", "said"),
    [
        ("resnet", "narrow", True),
        ("densenet", "narrow", True),
        ("resnet", "full", False),
        ("cbam", "narrow", False),
    ],
)
def test_reasons__a_narrow_network_is_named(made_study, method, convnet, said):
    shown = line(made_study({"method": method, "convnet": convnet}), method=method)
    assert ("narrow network" in shown[WHY]) == said
