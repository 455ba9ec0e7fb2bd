"""The one table of a study."""

from kdlib.report.main_table import LIKE, main_table


def table(study):
    return main_table(study.rows, study.verdicts)


def test_main_table__methods_stand_beside_their_controls_after_the_most_epochs(study):
    found = table(
        study({"epochs": 5, "student": 0.1}, {"epochs": 10}, {"method": "cbam", "epochs": 10, "student": 0.4})
    )
    (head,) = set(found.columns.get_level_values(0))
    assert head == "CLIP, COCO: mean recall" and found.index.tolist() == ["teacher itself", "PCA", "projection", "cbam"]
    column = found[head]
    assert column.score["teacher itself"].startswith("0.900 [") and column.score["PCA"].startswith("0.700 [")
    assert column.score["projection"].startswith("0.800 [") and column.untrained["projection"] == "0.200"
    assert column.MB["projection"] == "5.0" and column.MB["teacher itself"] == "4.0"


def test_main_table__the_best_stands_out_and_what_is_like_it_is_marked(study):
    experiments = [{"method": "projection", "student": 0.8}, {"method": "cbam", "student": 0.79, "luck": 3}]
    found = table(study(*experiments, {"method": "resnet", "student": 0.2}))["CLIP, COCO: mean recall"].score
    assert type(found["projection"]).__name__ == "Strong"
    assert LIKE in found["cbam"] and LIKE not in found["resnet"] and LIKE not in found["projection"]


def test_main_table__networks_without_a_teacher_are_a_column_and_only_then(study):
    found = table(study({"method": "resnet"}, {"method": "resnet", "variant": "no_teacher", "student": 0.3}))
    assert found["CLIP, COCO: mean recall"]["no teacher"]["resnet"] == "0.300"
    assert "no teacher" not in table(study({}))["CLIP, COCO: mean recall"]


def test_main_table__students_that_stand_alone_are_rows_and_may_be_the_best(study):
    own, without = {"method": "resnet", "student": 0.3}, {"method": "resnet", "variant": "no_teacher", "student": 0.2}
    alone = {"method": "resnet", "variant": "standalone", "epochs": 20, "student": 0.8, "deployed_mb": 2.0}
    found = table(study(own, without, alone))["CLIP, COCO: mean recall"]
    assert type(found.score["resnet, standalone"]).__name__ == "Strong" and found.MB["resnet, standalone"] == "2.0"
    assert found.score["resnet"].startswith("0.300") and found["no teacher"]["resnet"] == "0.200"
    assert found["no teacher"]["resnet, standalone"] == ""


def test_main_table__exported_files_are_rows(study):
    files = {"onnx": 0.79, "onnx_low": 0.7, "onnx_high": 0.85, "onnx_mb": 1.5}
    found = table(study({"method": "resnet", **files}))["CLIP, COCO: mean recall"]
    assert found.score["resnet, exported float32"] == "0.790 [0.700, 0.850]"
    assert found.MB["resnet, exported float32"] == "1.5"


def test_main_table__has_a_group_for_each_teacher_by_its_own_name(study):
    found = table(study({}, {"teacher": "efficientnet", "dataset": "flowers"}))
    assert list(dict.fromkeys(found.columns.get_level_values(0)))[1] == "efficientnet, flowers: k-NN top-1"


def test_main_table__without_a_result_is_empty(study):
    assert table(study({"outcome": "error"})).empty
