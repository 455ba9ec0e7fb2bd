"""Rows of a study: what becomes of each experiment, what a row says, what stops a results."""

import json
import warnings

import pandas as pd
import pytest

from kdlib.config import RunConfig
from kdlib.experiment import run_dir
from kdlib.files import seal, write_json
from kdlib.keys import SCHEMA
from kdlib.report import rows as results
from kdlib.study.file import StudyConfig, experiments
from kdlib.study.queue import Queue
from kdlib.study.status import ExperimentState, Inspector


def record(**fields) -> dict:
    """A result as Experiment.finish writes it, of a vision-language teacher."""
    times = {"p10_ms": 1.0, "p50_ms": 2.0, "p90_ms": 3.0, "calls": 50, "student_p50_ms": 0.5}
    scores = {"mean_recall": 0.25, "i2t_r@1": 0.125, "in_batch@64": 0.5, "cka": 0.75}
    rows = ("teacher", "pca", "random", "constant", "shuffled", "untrained", "student")
    split = {"images": 10, "skipped": 1, "ids_sha256": "i", "ids_file": "f", "fingerprint": "p"}
    given = {
        "schema": SCHEMA,
        "outcome": "ok",
        "files": {},
        "config": RunConfig(teacher="clip", dataset="coco").model_dump(),
        "keys": {"features": "f", "train": "t", "exam": "e", "images": "i", "experiment": "c"},
        "headline": "mean_recall",
        "pairing": "student image x student text",
        "objective": ["contrastive", "kl"],
        "scores": {row: {name: value + place for name, value in scores.items()} for place, row in enumerate(rows)},
        "facts": {},
        "wires": [{"wire": "order changes nothing", "passed": True, "found": "differs by 0"}],
        "degenerate": ["in_batch@32", "in_batch@64"],
        "controls": "controls-e.npz",
        "size": {"student_mb": 1.0, "image_mb": 0.5, "deployed_mb": 5.0, "safetensors_bytes": 9, "image_macs": 7},
        "time": {
            **{f"{side}_{batch}": times for side in ("image", "text") for batch in ("batch_1", "batch_32")},
            "image_per_second": 100.0,
            "text_per_second": 200.0,
            "seconds_per_epoch": 4.0,
            "first_epoch_seconds": 6.0,
            "data_share": 0.5,
            "minutes_from_nothing": 0.5,
            "teacher": "cached",
        },
        "history": [{"epoch": 1, "loss": 3.0, "seconds": 6.0}, {"epoch": 2, "loss": 1.5, "seconds": 4.0}],
        "teacher": {"family": "clip", "source": "stand-in", "revision": "main", "untrained": [], "grid": [6, 6]}
        | {"store_seconds": 30.0, "store_bytes": 1000},
        "exposure": {"level": "none", "why": "drawn"},
        "data": {"fit": split, "test": split | {"skipped": 2}},
        "versions": {"commit": "abc"},
    }
    return given | fields


def grid_of(data_root) -> list:
    """The experiments of a study of one notebook: projection and cbam, at 5 and 10 epochs."""
    content = {"study": "s", "title": "t", "notebooks": {"clip_coco": {}}, "seeds": [0]}
    parameters = {"data_root": str(data_root), "image_size": 32}
    return experiments(StudyConfig(**content, methods=["projection", "cbam"], parameters=parameters))


@pytest.fixture
def carried(tmp_path):
    """A study's experiments on a machine without its data, where results are taken as they are."""
    return grid_of(tmp_path / "not here")


def collect(grid) -> list[dict]:
    return results.collect(grid, run_dir, grid[0].page.parents[1])


def ended(spec, outcome: str, keys: dict, error: str = "says why") -> None:
    """What the grid leaves of an experiment that ended without a result."""
    Queue._record(None, ExperimentState(spec, run_dir(spec.config), "absent"), outcome, error, {}, keys)


# ---------------------------------------------------------------- rows


def test_flatten__the_headline_is_one_column_an_encoder_and_other_scores_are_named():
    row = results.flatten(record())
    assert [row[who] for who in ("teacher_score", "pca", "untrained", "student")] == [0.25, 1.25, 5.25, 6.25]
    assert row["student i2t_r@1"] == 6.125 and row["teacher in_batch@64"] == 0.5
    assert "student mean_recall" not in row


def test_flatten__leaves_the_names_of_an_experiment_alone():
    """An experiment's row is its names and then these: 'teacher' must stay the family's name."""
    names = {"study", "teacher", "dataset", "variant", "method", "seed", "epochs", "outcome", "run", "page", "error"}
    assert not names & set(results.flatten(record()))


def test_flatten__says_sizes_times_and_where_they_come_from():
    row = results.flatten(record())
    assert (row["student_mb"], row["deployed_mb"], row["seconds_per_epoch"]) == (1.0, 5.0, 4.0)
    assert (row["image_batch_1_p50_ms"], row["text_batch_32_p90_ms"], row["text_per_second"]) == (2.0, 3.0, 200.0)
    assert (row["objective"], row["degenerate"]) == ("contrastive+kl", "in_batch@32 in_batch@64")
    assert (row["skipped_images"], row["final_loss"], row["untrained_teacher"]) == (3, 1.5, False)
    assert (row["teacher_source"], row["store_seconds"], row["exam_key"]) == ("stand-in", 30.0, "e")
    assert (row["exposure"], row["commit"], row["tripped"]) == ("none", "abc", "")


def test_flatten__a_student_without_text_has_no_text_times():
    whole = record()
    seen = {name: value for name, value in whole["time"].items() if not name.startswith("text")}
    row = results.flatten(whole | {"time": seen, "headline": "i2t_r@1"})
    assert not [name for name in row if name.startswith("text_")] and row["image_per_second"] == 100.0
    assert row["student"] == 6.125


def test_flatten__names_the_wires_that_were_tripped_only():
    wires = [
        {"wire": "order changes nothing", "passed": True, "found": "differs by 0"},
        {"wire": "random features score chance", "passed": False, "found": "0.5, chance 0.1"},
    ]
    assert results.flatten(record(wires=wires))["tripped"] == "random features score chance: 0.5, chance 0.1"


def test_flatten__training_images_are_those_of_the_limit_where_there_is_one():
    whole = record()
    assert results.flatten(whole)["train_images"] == 10
    for limit, images in ((4, 4), (40, 10)):
        limited = whole | {"config": whole["config"] | {"train_limit": limit}}
        assert results.flatten(limited)["train_images"] == images


def test_flatten__extra_images_are_training_images():
    whole = record()
    more = whole | {"data": whole["data"] | {"extra": whole["data"]["fit"] | {"images": 30}}}
    assert results.flatten(more)["train_images"] == 40


def test_collect__every_experiment_has_a_row_whatever_became_of_it(carried):
    write_json(run_dir(carried[0].config).result_path(5), seal(record()))
    ended(carried[1], "error", {"experiment": "c"}, "ValueError: no")
    carried[0].page.parent.mkdir(parents=True)
    carried[0].page.touch()
    rows = collect(carried)
    assert [row["outcome"] for row in rows] == ["ok", "error", "absent", "absent"]
    assert [row.get("error") for row in rows] == [None, "ValueError: no", None, None]
    assert [(row["method"], row["epochs"]) for row in rows] == [
        *(("projection", 5), ("projection", 10), ("cbam", 5), ("cbam", 10))
    ]
    assert rows[0]["page"] == "clip_coco/projection-seed0-epoch-0005.html" and rows[3]["page"] == ""
    assert rows[0]["run"] == "s/clip_coco/projection/seed0" and rows[0]["student"] == 6.25


@pytest.mark.parametrize("value", [0.99, float("nan"), "0.25"])
def test_collect__a_score_that_was_edited_is_damage_and_no_number(carried, value):
    edited = seal(record())
    edited["scores"]["student"]["mean_recall"] = value
    path = run_dir(carried[0].config).result_path(5)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(edited))
    row = collect(carried)[0]
    assert row["outcome"] == "damaged" and "student" not in row
    assert row["error"] == "result-0005.json was altered since it was written; 'kdlib run' makes it again"


def test_collect__an_experiment_that_ran_out_of_memory_says_so(carried):
    """From the record that the grid writes, through the file, to the results."""
    ended(carried[0], "out_of_memory", {"experiment": "c"})
    rows = collect(carried)
    assert rows[0]["outcome"] == "out_of_memory" and rows[0]["error"] == "says why"


def test_collect__a_result_of_other_parameters_or_of_an_earlier_version_is_stale_and_has_no_number(small_shapes):
    grid = grid_of(small_shapes)
    keys = Inspector().keys(grid[0])
    write_json(run_dir(grid[0].config).result_path(5), seal(record(keys=keys)))
    write_json(run_dir(grid[1].config).result_path(10), seal(record(keys=keys | {"experiment": "of other parameters"})))
    write_json(run_dir(grid[2].config).result_path(5), seal(record(keys=Inspector().keys(grid[2]), schema=SCHEMA - 1)))
    rows = collect(grid)
    assert [row["outcome"] for row in rows] == ["ok", "stale", "stale", "absent"]
    assert ["student" in row for row in rows] == [True, False, False, False]


def test_collect__an_experiment_that_failed_after_its_parameters_changed_has_failed(small_shapes):
    """The result of the earlier parameters is still there."""
    grid = grid_of(small_shapes)
    write_json(run_dir(grid[0].config).result_path(5), seal(record(keys=record()["keys"])))
    ended(grid[0], "error", Inspector().keys(grid[0]), "ValueError: no")
    row = collect(grid)[0]
    assert (row["outcome"], row["error"]) == ("error", "ValueError: no") and "student" not in row


def test_made_study__has_no_column_that_a_real_one_lacks(carried, made_study):
    """What the tests of tables, verdicts and claims stand on."""
    write_json(run_dir(carried[0].config).result_path(5), seal(record()))
    row = collect(carried)[0]
    assert set(made_study({})) <= set(row) and set(made_study({"outcome": "error"})) <= {*row, "error"}


def test_read__gives_what_was_written(tmp_path):
    """An empty variant stays '' and a number that a row lacks is none."""
    rows = [
        {"variant": "", "degenerate": "", "tripped": "", "epochs": 5, "student": 1 / 3},
        {"variant": "no_teacher", "degenerate": "in_batch@64", "epochs": 10},
    ]
    results.write(rows, tmp_path)
    frame = results.read(tmp_path)
    assert frame.variant.tolist() == ["", "no_teacher"] and frame.degenerate.tolist() == ["", "in_batch@64"]
    assert frame.epochs.tolist() == [5, 10] and frame.student[0] == pytest.approx(1 / 3, rel=1e-12)
    assert frame.student.isna().tolist() == [False, True] and (frame[["tripped"]] == "").all(axis=None)


def test_read__without_results_names_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="kdlib run"):
        results.read(tmp_path)


# ---------------------------------------------------------------- trip-wires


def test_check__a_tripped_wire_stops_the_table_and_is_named_with_its_run():
    rows = [
        {"run": "s/clip_coco/cbam/seed0", "tripped": ""},
        {"run": "s/clip_coco/resnet/seed0", "tripped": "random features score chance: 0.5"},
        {"run": "s/dino_tinyimagenet/cbam/seed1", "tripped": "order changes nothing: differs by 1"},
    ]
    with pytest.raises(results.TripWireError) as caught:
        results.check(rows)
    words = str(caught.value)
    assert "random features score chance: 0.5 (in s/clip_coco/resnet/seed0)" in words
    assert "order changes nothing: differs by 1 (in s/dino_tinyimagenet/cbam/seed1)" in words
    assert "s/clip_coco/cbam/seed0" not in words


def test_check__names_every_run_in_which_the_same_wire_was_tripped():
    found = "evaluation batches of 1, 32, 256 embed alike: differs by 1.0e-03"
    with pytest.raises(results.TripWireError) as caught:
        results.check([{"run": run, "tripped": found} for run in ("s/clip_coco/cbam/seed0", "s/clip_coco/cbam/seed1")])
    assert "seed0" in str(caught.value) and "seed1" in str(caught.value)


def test_check__sound_failed_and_absent_experiments_pass():
    results.check([{"run": "a", "tripped": ""}, {"run": "b", "outcome": "error"}, {"run": "c", "outcome": "absent"}])
    results.check([])


def test_read__gives_no_warning_that_would_stand_on_a_page(tmp_path):
    """A wide table whose 'reference' has no entry, and a column that is added to a part of it."""
    wide = {f"{kind} {place}": value for place in range(150) for kind, value in (("a", 1), ("b", 0.5))}
    pd.DataFrame([{"outcome": "ok", "variant": "", "reference": None} | wide] * 2).to_csv(tmp_path / "results.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = results.read(tmp_path)
        found = found[found.outcome == "ok"].assign(share=1.0)
    assert list(found.reference) == list(found.variant) == ["", ""]
