"""Each sentence of the first screen says what its rows and verdicts hold, and nothing else."""

import pandas as pd
import pytest

from kdlib.report import findings
from kdlib.report.findings import at_the_end, students


def said(study) -> dict[str, str]:
    return dict(findings.findings(study.rows, study.verdicts))


def test_findings__are_none_where_nothing_has_finished(made_study):
    assert findings.findings(made_study({"outcome": "error"}), pd.DataFrame(columns=["question"])) == []


def test_findings__are_at_most_five_and_speak_of_the_most_epochs(study):
    found = study({"epochs": 5, "student": 0.2}, {"epochs": 10, "student": 0.9})
    assert len(said(found)) <= 5 and set(at_the_end(found.rows).epochs) == {10}
    assert "1 of 1 heads on the teacher's features is not distinguishable" in said(found)["Like the teacher"]


def test_teachers__have_their_scores_and_say_that_they_are_stand_ins(study):
    text = said(study({}, {"teacher": "dino", "teacher_score": 0.5}))["Teachers"]
    assert "CLIP 0.900 (4.0 MB) in mean recall on COCO (drawn shapes); DINO 0.500 (4.0 MB) in k-NN top-1" in text
    assert "(drawn shapes)" not in said(study({"data_root": "data"}))["Teachers"]
    assert text.endswith("all are stand-ins that this project trained.")


def test_teachers__published_ones_are_not_called_stand_ins(study):
    text = said(study({"teacher_source": "x/y"}, {"teacher": "dino"}))["Teachers"]
    assert text.endswith("DINO is a stand-in that this project trained.")
    assert "stand-in" not in said(study({"teacher_source": "x/y"}))["Teachers"]


def test_teachers__variants_of_a_teacher_do_not_change_its_score(study):
    text = said(study({}, {"variant": "untrained_heads", "teacher_score": 0.1, "exam_key": "other"}))["Teachers"]
    assert "CLIP 0.900" in text


def test_teachers__at_chance_are_said_to_be_before_any_verdict(study):
    text = said(study({"teacher_score": 0.01, "constant": 0.01}))["Teachers"]
    assert "CLIP scores no better than chance, so its students' results say nothing about distillation" in text
    assert "chance" not in said(study({}))["Teachers"]


def test_kept__students_like_their_teacher_are_named_with_their_deployed_size(study):
    text = said(study({"student": 0.9, "deployed_mb": 7.5}, {"method": "cbam", "student": 0.3}))["Like the teacher"]
    assert text == (
        "1 of 2 heads on the teacher's features is not distinguishable from its teacher: CLIP projection (7.5 MB "
        "deployed)."
    )


def test_kept__where_none_is_the_closest_one_is_named(study):
    text = said(study({"student": 0.45, "deployed_mb": 7.5}, {"method": "cbam", "student": 0.3}))["Like the teacher"]
    assert text.startswith("none of 2 students is as good as its teacher; the closest, CLIP projection, keeps 50 %")


def test_kept__those_above_their_teacher_are_said_to_be(study):
    text = said(study({"student": 0.9, "teacher_score": 0.5}))["Like the teacher"]
    assert (
        text == "1 of 1 heads on the teacher's features is better than its teacher: CLIP projection (5.0 MB deployed)."
    )


def test_gained__counts_those_that_beat_themselves_untrained_and_pca(study):
    text = said(study(
        {"student": 0.8, "untrained": 0.2, "pca": 0.5},
        {"method": "cbam", "student": 0.4, "untrained": 0.4, "pca": 0.5},
    ))["What training adds"]  # fmt: skip
    assert text == (
        "1 of 2 students beat PCA of their teacher's features, which nobody trains, and 1 is worse; 1 of 2 beat "
        "themselves untrained."
    )


def test_gained__is_counted_by_data_set_where_there_are_several(study):
    text = said(study({}, {"teacher": "dino", "student": 0.2, "untrained": 0.2}))["What training adds"]
    assert "1 of 2 beat themselves untrained (COCO 1 of 1, Tiny ImageNet 0 of 1)" in text


def test_helped__networks_with_a_teacher_against_without(study):
    networks = [{"method": "resnet", "student": 0.8}, {"method": "densenet", "student": 0.3}]
    without = [network | {"variant": "no_teacher", "student": 0.5} for network in networks]
    text = said(study(*networks, *without))["What a teacher adds"]
    assert text == (
        "a teacher makes 1 of 2 networks better than the same network trained without one (CLIP resnet), and 1 worse "
        "(CLIP densenet)."
    )
    assert "What a teacher adds" not in said(study({}))


def test_deployed__the_best_without_a_teacher_and_that_nothing_is_exported(study):
    text = said(study({"method": "resnet", "student": 0.45, "student_mb": 4.0, "deployed_mb": 4.0}, {}))
    assert text["Without the teacher at hand"] == (
        "one student runs without it: CLIP resnet, with 50 % of its teacher's score at 4.0 MB; none is exported (kdlib "
        "export)."
    )


def test_deployed__exported_files_stand_with_score_and_size(study):
    files = {"onnx_int8": 0.7, "onnx_int8_low": 0.6, "onnx_int8_high": 0.8, "onnx_int8_mb": 1.2}
    text = said(study({"method": "resnet", **files}))["Without the teacher at hand"]
    assert text == "exported: CLIP resnet int8 0.700 (before export 0.800) in 1.2 MB."
    text = said(study({"method": "resnet", **files}, {"method": "resnet", "seed": 1}))["Without the teacher at hand"]
    assert text == "exported: CLIP resnet, seed 0, int8 0.700 (before export 0.800) in 1.2 MB."


@pytest.mark.parametrize("score", [0.0, 0.01])
def test_findings__a_teacher_at_nothing_divides_by_nothing(study, score):
    assert said(study({"teacher_score": score}))["Like the teacher"]
    assert students(at_the_end(study({"teacher_score": 0.0}).rows)).share.isna().all()


def test_findings__a_student_that_stands_alone_is_one_of_the_students(study):
    found = said(study(
        {"method": "resnet", "student": 0.3},
        {"method": "resnet", "variant": "no_teacher", "student": 0.3},
        {"method": "resnet", "variant": "standalone", "epochs": 20, "student": 0.9, "deployed_mb": 2.0},
        {"method": "resnet", "variant": "standalone", "epochs": 10, "student": 0.8, "deployed_mb": 2.0},
    ))  # fmt: skip
    assert found["Like the teacher"] == (
        "1 of 2 networks on pixels is not distinguishable from its teacher: CLIP resnet, standalone (2.0 MB deployed)."
    )


def test_helped__other_labels_are_told_apart_from_the_same_images_with_labels(study):
    """Worse than the network that has labels for everything, better than the one that has the data set's own."""
    without = [
        {"variant": "no_teacher", "student": 0.9},
        {"variant": "no_teacher_own_labels", "epochs": 120, "student": 0.1},
    ]
    found = said(study({"method": "resnet", "student": 0.5}, *({"method": "resnet", **one} for one in without)))
    assert found["What a teacher adds"] == (
        "a teacher makes 0 of 1 networks better than the same network trained without one, and 1 worse (CLIP resnet); "
        "1 of 1 are better than the variant 'no teacher own labels'."
    )


def test_teachers__have_their_own_size_where_the_result_holds_it(study):
    assert "CLIP 0.900 (99.0 MB)" in said(study({"teacher_mb": 99.0}))["Teachers"]


def test_helped__students_that_stand_alone_are_counted_beside_the_others(study):
    found = said(study(
        {"method": "resnet", "student": 0.3},
        {"method": "resnet", "variant": "no_teacher", "student": 0.3},
        {"method": "resnet", "variant": "standalone", "student": 0.9},
    ))  # fmt: skip
    assert found["What a teacher adds"].endswith(
        "without one; of 1 students 'standalone', 1 are better than their image network without a teacher."
    )


def test_deployed__a_variant_that_stands_alone_counts_and_one_without_a_teacher_does_not(made_study):
    rows = made_study(
        {"method": "resnet", "student": 0.3, "student_mb": 4.0, "deployed_mb": 4.0},
        {"method": "resnet", "variant": "standalone", "student": 0.72, "student_mb": 2.0, "deployed_mb": 2.0},
        {"method": "resnet", "variant": "no_teacher", "student": 0.81, "student_mb": 4.0, "deployed_mb": 4.0},
    )
    text = findings.deployed(findings.at_the_end(rows))
    assert text.startswith(
        "2 students run without the teacher, the best: CLIP resnet, standalone, with 80 % of its teacher's score at "
        "2.0 MB"
    )
