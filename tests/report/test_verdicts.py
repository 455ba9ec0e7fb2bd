"""Comparisons of a made study: which pairs are compared, in which families, and what is said of them."""

import pytest

from kdlib.report.scores import paper
from kdlib.report.verdicts import QUESTIONS, verdicts
from kdlib.study.file import METHODS

COLUMNS = ["question", "teacher", "dataset", "a", "b", "difference", "low", "high", "p", "p_holm", "verdict"]


def of(frame, question: str):
    """The comparisons of one question."""
    found = verdicts(frame)
    return found[found.question == question].reset_index(drop=True)


def holm(p: list[float]) -> list[float]:
    """By the book: the i-th smallest of n times n - i + 1, never less than the one before, at most 1."""
    corrected, floor = [0.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        floor = max(floor, (len(p) - rank) * p[place])
        corrected[place] = min(1.0, floor)
    return corrected


# ---------------------------------------------------------------- what is said


def test_verdict__a_clearly_better_student_is_better(made_study):
    row = of(made_study({"student": 0.8, "untrained": 0.2}), "untrained").iloc[0]
    assert row.verdict == "better" and row.difference == pytest.approx(0.6)
    assert 0.5 < row.low < 0.6 < row.high < 0.7 and row.p_holm < 0.05


def test_verdict__a_clearly_worse_student_is_worse(made_study):
    row = of(made_study({"student": 0.3, "pca": 0.7}), "pca").iloc[0]
    assert row.verdict == "worse" and row.difference == pytest.approx(-0.4) and row.low < -0.4 < row.high < 0


def test_verdict__identical_students_are_not_distinguishable(made_study):
    row = of(made_study({"method": "projection"}, {"method": "cbam"}), "technique").iloc[0]
    assert (row.difference, row.low, row.high, row.p) == (0, 0, 0, 1) and row.verdict == "not distinguishable"


@pytest.mark.parametrize("luck", range(1, 6))
def test_verdict__equal_students_with_other_luck_are_not_distinguishable(made_study, luck):
    row = of(made_study({"method": "projection"}, {"method": "cbam", "luck": luck}), "technique").iloc[0]
    assert row.low < row.difference == 0 < row.high and row.verdict == "not distinguishable"


def test_verdict__is_paired_by_image(made_study):
    """0.78 and 0.70 of the same images differ for sure; of unrelated images the difference drowns in the noise."""
    paired = made_study({"method": "projection", "student": 0.78}, {"method": "cbam", "student": 0.70})
    apart = made_study({"method": "projection", "student": 0.78}, {"method": "cbam", "student": 0.70, "luck": 1})
    assert of(paired, "technique").verdict.tolist() == ["better"]
    assert of(apart, "technique").verdict.tolist() == ["not distinguishable"]


def test_verdict__the_other_way_round_is_the_opposite(made_study):
    shares = (0.8, 0.5)
    there, back = (
        of(made_study({"method": "projection", "student": a}, {"method": "cbam", "student": b}), "technique").iloc[0]
        for a, b in (shares, shares[::-1])
    )
    assert (there.difference, there.low, there.high) == pytest.approx((-back.difference, -back.high, -back.low))
    assert (there.verdict, back.verdict) == ("better", "worse") and there.p == back.p


def test_verdict__seeds_that_disagree_carry_their_noise(made_study):
    """The mean of three seeds is above, but one of them is far below: no verdict on the technique."""
    seeds = [{"seed": seed, "method": "cbam", "student": share} for seed, share in enumerate((0.9, 0.9, 0.4))]
    frame = made_study(*seeds, *({"seed": seed, "student": 0.7} for seed in range(3)))
    row = of(frame, "technique").iloc[0]
    assert row.difference == pytest.approx(0.7 - 2.2 / 3) and row.verdict == "not distinguishable"
    others = [{"seed": seed, "student": 0.6} for seed in range(3)]
    agreed = made_study(*(experiment | {"student": 0.8} for experiment in seeds), *others)
    assert of(agreed, "technique").verdict.tolist() == ["worse"]


# ---------------------------------------------------------------- what is compared


def test_alone__is_held_against_its_teacher_and_against_the_network_without_one_at_equal_epochs(made_study):
    of_resnet = [{"method": "resnet", "variant": "standalone", "epochs": epochs, "student": 0.9} for epochs in (5, 10)]
    without = {"method": "resnet", "variant": "no_teacher", "epochs": 10, "student": 0.5}
    found = of(made_study(*of_resnet, without), "alone")
    assert list(zip(found.a, found.b, found.verdict, strict=True)) == [
        ("resnet, standalone, 5 epochs", "clip", "not distinguishable"),
        ("resnet, standalone, 10 epochs", "clip", "not distinguishable"),
        ("resnet, standalone, 10 epochs", "resnet, no teacher, 10 epochs", "better"),
    ]


def test_no_teacher__of_other_labels_and_longer_is_compared_at_the_most_epochs_of_each(made_study):
    own = [{"method": "resnet", "epochs": epochs, "student": 0.9} for epochs in (5, 10)]
    longer = {"method": "resnet", "variant": "no_teacher_own_labels", "epochs": 120, "student": 0.5}
    found = of(made_study(*own, longer), "other labels")
    assert list(zip(found.a, found.b, found.verdict, strict=True)) == [
        ("resnet, 10 epochs", "resnet, no teacher own labels, 120 epochs", "better")
    ]
    assert of(made_study(*own, longer), "variant").empty and of(made_study(*own, longer), "no teacher").empty


def test_technique__of_students_trained_for_longer_each_is_compared_at_its_most_epochs(made_study):
    own = [{"method": method, "epochs": 10} for method in ("projection", "resnet")]
    longer = {"method": "resnet", "variant": "standalone", "epochs": 15, "student": 0.9}
    found = of(made_study(*own, longer, {"method": "resnet", "variant": "no_teacher", "epochs": 10}), "technique")
    assert set(zip(found.a, found.b, strict=True)) == {
        ("projection, 10 epochs", "resnet, 10 epochs"),
        ("projection, 10 epochs", "resnet, standalone, 15 epochs"),
        ("resnet, 10 epochs", "resnet, standalone, 15 epochs"),
    }


def test_questions__of_a_whole_study(made_study):
    """Two methods at two budgets with a variant each: every pair by its names, each once."""
    own = [{"method": method, "epochs": epochs} for method in ("resnet", "projection") for epochs in (5, 10)]
    no_teacher = [{"method": "resnet", "epochs": epochs, "variant": "no_teacher"} for epochs in (5, 10)]
    frame = made_study(*own, *no_teacher, {"method": "projection", "epochs": 10, "variant": "with_diagonal"})
    found = verdicts(frame)
    pairs = {name: list(zip(part.a, part.b, strict=True)) for name, part in found.groupby("question")}
    assert (
        set(pairs) == set(QUESTIONS) - {"alone", "other labels"} and not found.duplicated(["question", "a", "b"]).any()
    )
    assert set(pairs["epochs"]) == {
        ("resnet, 10 epochs", "resnet, 5 epochs"),
        ("projection, 10 epochs", "projection, 5 epochs"),
        ("resnet, no teacher, 10 epochs", "resnet, no teacher, 5 epochs"),
    }
    students = {f"{experiment['method']}, {experiment['epochs']} epochs" for experiment in own}
    assert set(pairs["untrained"]) == {(name, f"{name.split(',')[0]}, untrained") for name in students}
    assert set(pairs["pca"]) == {(name, "PCA") for name in students}
    assert set(pairs["no teacher"]) == {
        (f"resnet, {epochs} epochs", f"resnet, no teacher, {epochs} epochs") for epochs in (5, 10)
    }
    assert pairs["technique"] == [("projection, 10 epochs", "resnet, 10 epochs")]
    assert pairs["variant"] == [("projection, 10 epochs", "projection, with diagonal, 10 epochs")]


def test_questions__the_first_side_is_judged(made_study):
    """More epochs over fewer, the student over the same network without a teacher."""
    frame = made_study(
        {"method": "resnet", "epochs": 5, "student": 0.4},
        {"method": "resnet", "epochs": 10, "student": 0.7},
        {"method": "resnet", "epochs": 10, "variant": "no_teacher", "student": 0.5},
    )
    for question, difference in (("epochs", 0.3), ("no teacher", 0.2)):
        row = of(frame, question).iloc[0]
        assert row.verdict == "better" and row.difference == pytest.approx(difference)


def test_families__holm_corrects_within_a_teacher_and_a_question(made_study):
    shares = dict(zip(METHODS, (0.80, 0.79, 0.78, 0.76, 0.73, 0.70), strict=True))
    experiments = [
        {"teacher": teacher, "method": method, "student": share, "luck": luck, "pca": 0.75}
        for teacher in ("clip", "dino")
        for luck, (method, share) in enumerate(shares.items())
    ]
    found = verdicts(made_study(*experiments))
    families = found.groupby(["teacher", "dataset", "question"])
    assert families.size().to_dict() == {
        (teacher, dataset, question): size
        for teacher, dataset in (("clip", "coco"), ("dino", "tinyimagenet"))
        for question, size in (("untrained", 6), ("pca", 6), ("teacher", 6), ("technique", 15))
    }
    for name, family in families:
        assert family.p_holm.tolist() == pytest.approx(holm(family.p.tolist())), name
        decided = family.verdict.isin(("better", "worse"))
        assert (decided == (family.p_holm < 0.05)).all(), name
    assert (found.p_holm > found.p).any()


def test_families__the_variants_of_each_method_are_one(made_study):
    """However many variants other methods have."""
    own = [{"method": method, "student": 0.72 + place / 50} for place, method in enumerate(("projection", "cbam"))]
    variants = [
        experiment | {"variant": f"v{number}", "student": 0.7, "luck": number}
        for experiment in own
        for number in range(1, 4)
    ]
    for _, family in of(made_study(*own, *variants), "variant").groupby("a"):
        assert len(family) == 3 and family.p_holm.tolist() == pytest.approx(holm(family.p.tolist()))


def test_families__another_teacher_changes_nothing(made_study):
    own = [{"method": method, "student": share} for method, share in (("projection", 0.8), ("cbam", 0.76))]
    alone = verdicts(made_study(*own))
    beside = verdicts(made_study(*own, *(experiment | {"teacher": "blip", "luck": 3} for experiment in own)))
    assert beside[beside.teacher == "clip"][COLUMNS].equals(alone[COLUMNS])


def test_families__of_a_study_as_large_as_the_printed_one_leave_room_for_a_verdict(made_study):
    """p is at least 2 / 1,001: in a family of more than 25 nothing could be found."""
    experiments = [{"teacher": row.teacher, "method": row.method, "epochs": row.epochs} for row in paper().itertuples()]
    found = verdicts(made_study(*experiments))
    assert found.groupby(["teacher", "question"]).size().max() <= 25
    assert (found[found.question == "untrained"].verdict == "better").all()


# ---------------------------------------------------------------- what is never compared


@pytest.mark.parametrize("variant", ["no_teacher", "untrained_heads"])
def test_images__a_variant_of_other_images_is_not_compared_with_its_own(made_study, variant):
    found = verdicts(made_study({"teacher": "blip"}, {"teacher": "blip", "variant": variant, "images_key": "other"}))
    assert set(found.question) == {"untrained", "pca", "teacher"} and len(found) == 3


def test_images__a_variant_of_another_teacher_on_the_same_images_is_compared(made_study):
    """The untrained heads of BLIP: another exam, since its teacher is another, but the same images."""
    experiments = (
        {"teacher": "blip"},
        {"teacher": "blip", "variant": "untrained_heads", "exam_key": "other", "student": 0.3},
    )
    row = of(made_study(*experiments), "variant").iloc[0]
    assert row.verdict == "better" and row.difference == pytest.approx(0.5)


def test_images__techniques_on_other_images_are_not_compared(made_study):
    frame = made_study({}, {"method": "bottleneck"}, {"method": "cbam", "images_key": "other"})
    found = of(frame, "technique")
    assert list(zip(found.a, found.b, strict=True)) == [("projection, 5 epochs", "bottleneck, 5 epochs")]


def test_images__epochs_on_other_images_are_not_compared(made_study):
    assert of(made_study({"epochs": 5, "images_key": "other"}, {"epochs": 10}), "epochs").empty


def test_images__seeds_on_other_images_are_not_compared(made_study):
    frame = made_study({"seed": 0}, {"seed": 1, "images_key": "other"}, {"method": "cbam"})
    assert of(frame, "technique").empty


def test_missing__one_number_of_epochs_asks_nothing_about_epochs(made_study):
    found = verdicts(made_study({}, {"method": "cbam"}))
    assert set(found.question) == {"untrained", "pca", "teacher", "technique"}


@pytest.mark.parametrize("outcome", ["error", "out_of_memory", "absent"])
def test_missing__experiments_that_did_not_finish_are_left_out(made_study, outcome):
    frame = made_study(
        {"epochs": 5},
        {"epochs": 10},
        {"method": "cbam", "epochs": 5},
        {"method": "cbam", "epochs": 10, "outcome": outcome},
        {"method": "resnet", "epochs": 5, "outcome": outcome},
        {"method": "resnet", "epochs": 10},
    )
    found = verdicts(frame)
    named = {*found.a, *found.b}
    assert "cbam, 10 epochs" not in named and "resnet, 5 epochs" not in named
    assert of(frame, "epochs").a.tolist() == ["projection, 10 epochs"]
    assert of(frame, "technique").b.tolist() == ["resnet, 10 epochs"]


def test_missing__a_failed_seed_leaves_the_others(made_study):
    frame = made_study({"seed": 0, "outcome": "error"}, {"seed": 1, "student": 0.8}, {"seed": 2, "student": 0.8})
    row = of(frame, "untrained").iloc[0]
    assert row.difference == pytest.approx(0.6) and row.verdict == "better"


def test_missing__a_variant_without_its_own_is_compared_with_nothing(made_study):
    assert verdicts(made_study({"variant": "no_teacher"})).empty


@pytest.mark.parametrize("outcome", ["error", "absent"])
def test_missing__nothing_finished_is_an_empty_table_with_its_columns(made_study, outcome):
    found = verdicts(made_study({"outcome": outcome}, {"teacher": "dino", "outcome": outcome}))
    assert found.empty and list(found) == COLUMNS
