"""Two studies compared: what is the same has not moved, what is shifted has, and each difference is named."""

import numpy as np
import pandas as pd
import pytest

from kdlib.files import reports_root, write_json
from kdlib.report import rows, two_studies
from kdlib.report.two_studies import Side

MADE = {
    "versions": [{"torch": "2.9", "commit": "abc", "experiments": 4}],
    "hardware": [{"name": "CPU", "experiments": 4}],
}


def config(method: str, **values) -> dict:
    return {"teacher": "clip", "dataset": "coco", "method": method, "variant": "", "config": {"lr_peak": 0.01} | values}


@pytest.fixture
def report(made_study):
    """``report({...}, ..., images='a')``: a side read from the folder of a made study."""

    def make(*experiments: dict, images: str = "a", made: dict | None = None) -> Side:
        frame = made_study(*experiments).assign(ids_sha256=images, fingerprints="print")
        folder = reports_root() / frame.study.iloc[0]
        rows.write(frame.to_dict("records"), folder)
        two_studies.keep(frame, folder)
        record = {"study": {"seeds": [0]}, "configs": [config("projection"), config("cbam")]} | MADE
        write_json(folder / "provenance.json", record | (made or {}))
        return two_studies.read(folder)

    return make


def experiments(shift: float = 0.0, **fields) -> list[dict]:
    """Two students with two seeds each; cbam has ``shift`` more."""
    students = (("projection", 0.7), ("cbam", 0.6 + shift))
    return [
        {"method": method, "student": share, "seed": seed} | fields for method, share in students for seed in (0, 1)
    ]


def test_compare__a_study_with_itself_has_not_moved(report):
    side = report(*experiments())
    found = two_studies.compare(side, side)
    assert len(found) == 2 and set(found.moved) == {"no"} and set(found.interval) == {"paired"}
    assert (found[["difference", "low", "high"]] == 0).all(axis=None)


def test_compare__a_shifted_student_has_moved_and_stands_first(report):
    found = two_studies.compare(report(*experiments()), report(*experiments(shift=0.2)))
    assert found.method.tolist() == ["cbam", "projection"] and found.moved.tolist() == ["up", "no"]
    assert found.difference[0] == pytest.approx(0.2) and found.low[0] > 0 and found.p_holm[0] < 0.05
    back = two_studies.compare(report(*experiments(shift=0.2)), report(*experiments()))
    assert back.moved.tolist() == ["down", "no"] and back.difference[0] == pytest.approx(-0.2)


def test_compare__other_images_are_not_paired_and_the_interval_is_wider(report):
    one, same, other = (
        report(*experiments()),
        report(*experiments(shift=0.1)),
        report(*experiments(shift=0.1), images="b"),
    )
    paired, unpaired = (two_studies.compare(one, side).set_index("method").loc["cbam"] for side in (same, other))
    assert (paired.interval, unpaired.interval) == ("paired", "unpaired")
    assert unpaired.high - unpaired.low > 1.3 * (paired.high - paired.low)
    share = 1.96 * np.sqrt((0.6 * 0.4 + 0.7 * 0.3) / 200)  # the difference of two independent shares
    assert (unpaired.high - unpaired.low) / 2 == pytest.approx(share, rel=0.1)


def test_compare__the_score_of_each_side_has_its_interval_and_its_seeds(report):
    line = two_studies.compare(report(*experiments()), report(*experiments()[:3])).set_index("method").loc["cbam"]
    assert (line.a_seeds, line.b_seeds) == (2, 1) and line.a == line.b == pytest.approx(0.6)
    assert line.a_low < line.a < line.a_high


def test_compare__without_replicates_nothing_is_said_to_have_moved(report):
    one, other = report(*experiments()), report(*experiments(shift=0.2))
    bare = Side(other.name, other.rows, {}, other.provenance)
    found = two_studies.compare(one, bare)
    assert set(found.interval) == {"no replicates"} and set(found.moved) == {""} and found.low.isna().all()
    assert found.difference[0] == pytest.approx(0.2)


def test_compare__different_scores_have_no_difference(report):
    one, other = report(*experiments()), report(*experiments())
    renamed = Side(other.name, other.rows.assign(headline="zeroshot_map"), other.replicates, other.provenance)
    found = two_studies.compare(one, renamed)
    assert set(found.interval) == {"another score"} and found.difference.isna().all() and set(found.moved) == {""}


def test_compare__folders_are_all_that_is_read(report, monkeypatch, tmp_path):
    """The runs of another machine are not here."""
    side = report(*experiments())
    monkeypatch.setenv("KDLIB_RUNS", str(tmp_path / "no runs"))
    again = two_studies.read(reports_root() / side.name)
    assert set(two_studies.compare(again, again).moved) == {"no"}


def test_compare__failed_experiments_are_not_scored(report):
    found = two_studies.compare(
        report(*experiments()), report(*experiments()[:2], {"method": "cbam", "outcome": "error"})
    )
    assert found.method.tolist() == ["projection"]


def test_compare__a_study_without_a_good_result_has_no_student_in_common(report):
    good, failed = report(*experiments()), report({"method": "cbam", "outcome": "error"})
    for one, other in ((good, failed), (failed, good), (failed, failed)):
        assert two_studies.compare(one, other).empty
    assert set(two_studies.unmatched(good, failed)["only in"]) == {"A"}


def test_compare__with_nothing_in_common_is_empty(report):
    found = two_studies.compare(report(*experiments()[:2]), report(*experiments()[2:]))
    assert found.empty and {"moved", "interval", "difference"} <= set(found)


def test_unmatched__names_the_side_and_what_became_of_it_on_the_other(report):
    one, other = (
        report(*experiments()),
        report(*experiments()[:2], {"method": "cbam", "outcome": "error"}, {"method": "resnet"}),
    )
    found = two_studies.unmatched(one, other)
    assert found[["method", "only in", "on the other side"]].values.tolist() == [
        ["cbam", "A", "error"], ["resnet", "B", "not in the study"]
    ]  # fmt: skip
    assert two_studies.unmatched(one, one).empty


def test_differences__of_a_study_and_itself_are_none(report):
    side = report(*experiments())
    assert two_studies.differences(side, side).empty


def test_differences__parameters_versions_hardware_commit_and_data_are_named(report):
    changed = {
        "study": {"seeds": [0, 1]},
        "configs": [config("projection"), config("cbam", lr_peak=0.02)],
        "versions": [{"torch": "2.10", "commit": "def", "experiments": 4}],
        "hardware": [{"name": "GPU", "experiments": 4}],
    }
    found = two_studies.differences(report(*experiments()), report(*experiments(), images="b", made=changed))
    lines = {(row.kind, row.what): (row.A, row.B) for row in found.itertuples()}
    assert lines == {
        ("study file", "seeds"): ("[0]", "[0, 1]"),
        ("parameter", "lr_peak"): ("0.01", "0.02"),
        ("versions", "torch"): ("2.9", "2.10"),
        ("versions", "commit"): ("abc", "def"),
        ("hardware", "name"): ("CPU", "GPU"),
        ("data", "scored images of coco"): ("a", "b"),
    }
    assert found.set_index("what").students["lr_peak"] == 1


def test_read__a_folder_without_results_names_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="no results yet"):
        two_studies.read(tmp_path)


def test_read__a_report_without_provenance_is_read(made_study):
    """As an earlier version wrote it."""
    side = two_studies.read(reports_root() / made_study({}).study.iloc[0])
    assert side.provenance["versions"] == [] and isinstance(two_studies.differences(side, side), pd.DataFrame)
