"""Rows of a study and the tables made of them: what a cell says, where the controls stand, what stops a table."""

import re
from types import SimpleNamespace

import pytest

from kdlib import table
from kdlib.cell import SCHEMA
from kdlib.config import RunConfig
from kdlib.grid import Queue
from kdlib.inputs import run_dir
from kdlib.runs import write_json
from kdlib.state import CellState, Inspector
from kdlib.study import METHODS, StudyConfig, cells

NUMBER = re.compile(r"(\S+)(?: ± (\S+))? \[(\S+), (\S+)\]")


def record(**fields) -> dict:
    """A result as Cell.finish writes it, of a vision-language teacher."""
    times = {"p10_ms": 1.0, "p50_ms": 2.0, "p90_ms": 3.0, "calls": 50, "student_p50_ms": 0.5}
    scores = {"mean_recall": 0.25, "i2t_r@1": 0.125, "in_batch@64": 0.5, "cka": 0.75}
    rows = ("teacher", "pca", "random", "constant", "shuffled", "untrained", "student")
    split = {"images": 10, "skipped": 1, "ids_sha256": "i", "ids_file": "f", "fingerprint": "p"}
    given = {
        "schema": SCHEMA,
        "outcome": "ok",
        "config": RunConfig(teacher="clip", dataset="coco").model_dump(),
        "keys": {"features": "f", "train": "t", "exam": "e", "images": "i", "cell": "c"},
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
        "history": [{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 1.5}],
        "teacher": {"family": "clip", "source": "stand-in", "revision": "main", "untrained": [], "grid": [6, 6]}
        | {"store_seconds": 30.0, "store_bytes": 1000},
        "exposure": {"level": "none", "why": "drawn"},
        "data": {"fit": split, "test": split | {"skipped": 2}},
        "versions": {"commit": "abc"},
    }
    return given | fields


def grid_of(data_root) -> list:
    """The cells of a study of one notebook: projection and cbam, at 5 and 10 epochs."""
    content = {"study": "s", "title": "t", "notebooks": {"clip_coco": {}}, "seeds": [0]}
    parameters = {"data_root": str(data_root), "image_size": 32}
    return cells(StudyConfig(**content, methods=["projection", "cbam"], parameters=parameters))


@pytest.fixture
def carried(tmp_path):
    """A study's cells on a machine without its data, where results are taken as they are."""
    return grid_of(tmp_path / "not here")


def collect(grid) -> list[dict]:
    return table.collect(grid, run_dir, grid[0].page.parents[1])


def ended(spec, outcome: str, keys: dict, error: str = "says why") -> None:
    """What the grid leaves of a cell that ended without a result."""
    Queue._record(
        SimpleNamespace(bad=0), CellState(spec, run_dir(spec.config), "absent"), outcome, {"error": error}, keys
    )


# ---------------------------------------------------------------- rows


def test_flatten__the_headline_is_one_column_an_encoder_and_other_scores_are_named():
    row = table.flatten(record())
    assert [row[who] for who in ("teacher_score", "pca", "untrained", "student")] == [0.25, 1.25, 5.25, 6.25]
    assert row["student i2t_r@1"] == 6.125 and row["teacher in_batch@64"] == 0.5
    assert "student mean_recall" not in row


def test_flatten__leaves_the_names_of_a_cell_alone():
    """A cell's row is its names and then these: 'teacher' must stay the family's name."""
    names = {"study", "teacher", "dataset", "variant", "method", "seed", "epochs", "outcome", "run", "page", "error"}
    assert not names & set(table.flatten(record()))


def test_flatten__says_sizes_times_and_where_they_come_from():
    row = table.flatten(record())
    assert (row["student_mb"], row["deployed_mb"], row["seconds_per_epoch"]) == (1.0, 5.0, 4.0)
    assert (row["image_batch_1_p50_ms"], row["text_batch_32_p90_ms"], row["text_per_second"]) == (2.0, 3.0, 200.0)
    assert (row["objective"], row["degenerate"]) == ("contrastive+kl", "in_batch@32 in_batch@64")
    assert (row["skipped_images"], row["final_loss"], row["untrained_teacher"]) == (3, 1.5, False)
    assert (row["teacher_source"], row["store_seconds"], row["exam_key"]) == ("stand-in", 30.0, "e")
    assert (row["exposure"], row["commit"], row["tripped"]) == ("none", "abc", "")


def test_flatten__a_student_without_text_has_no_text_times():
    whole = record()
    seen = {name: value for name, value in whole["time"].items() if not name.startswith("text")}
    row = table.flatten(whole | {"time": seen, "headline": "i2t_r@1"})
    assert not [name for name in row if name.startswith("text_")] and row["image_per_second"] == 100.0
    assert row["student"] == 6.125


def test_flatten__names_the_wires_that_were_tripped_only():
    wires = [
        {"wire": "order changes nothing", "passed": True, "found": "differs by 0"},
        {"wire": "random features score chance", "passed": False, "found": "0.5, chance 0.1"},
    ]
    assert table.flatten(record(wires=wires))["tripped"] == "random features score chance: 0.5, chance 0.1"


def test_flatten__training_images_are_those_of_the_limit_where_there_is_one():
    whole = record()
    assert table.flatten(whole)["train_images"] == 10
    for limit, images in ((4, 4), (40, 10)):
        limited = whole | {"config": whole["config"] | {"train_limit": limit}}
        assert table.flatten(limited)["train_images"] == images


def test_collect__every_cell_has_a_row_whatever_became_of_it(carried):
    write_json(run_dir(carried[0].config).result_path(5), record())
    ended(carried[1], "error", {"cell": "c"}, "ValueError: no")
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


def test_collect__a_cell_that_ran_out_of_memory_says_so(carried):
    """From the record that the grid writes, through the file, to the table."""
    ended(carried[0], "out_of_memory", {"cell": "c"})
    rows = collect(carried)
    assert rows[0]["outcome"] == "out_of_memory" and rows[0]["error"] == "says why"


def test_collect__a_result_of_other_parameters_or_of_an_earlier_version_is_stale_and_has_no_number(small_shapes):
    grid = grid_of(small_shapes)
    keys = Inspector().keys(grid[0])
    write_json(run_dir(grid[0].config).result_path(5), record(keys=keys))
    write_json(run_dir(grid[1].config).result_path(10), record(keys=keys | {"cell": "of other parameters"}))
    write_json(run_dir(grid[2].config).result_path(5), record(keys=Inspector().keys(grid[2]), schema=SCHEMA - 1))
    rows = collect(grid)
    assert [row["outcome"] for row in rows] == ["ok", "stale", "stale", "absent"]
    assert ["student" in row for row in rows] == [True, False, False, False]


def test_collect__a_cell_that_failed_after_its_parameters_changed_has_failed(small_shapes):
    """The result of the earlier parameters is still there."""
    grid = grid_of(small_shapes)
    write_json(run_dir(grid[0].config).result_path(5), record(keys=record()["keys"]))
    ended(grid[0], "error", Inspector().keys(grid[0]), "ValueError: no")
    row = collect(grid)[0]
    assert (row["outcome"], row["error"]) == ("error", "ValueError: no") and "student" not in row


def test_made_study__has_no_column_that_a_real_one_lacks(carried, made_study):
    """What the tests of tables, verdicts and claims stand on."""
    write_json(run_dir(carried[0].config).result_path(5), record())
    row = collect(carried)[0]
    assert set(made_study({})) <= set(row) and set(made_study({"outcome": "error"})) <= {*row, "error"}


def test_read__gives_what_was_written(tmp_path):
    """An empty variant stays '' and a number that a row lacks is none."""
    rows = [
        {"variant": "", "degenerate": "", "tripped": "", "epochs": 5, "student": 1 / 3},
        {"variant": "no_teacher", "degenerate": "in_batch@64", "epochs": 10},
    ]
    table.write(rows, tmp_path)
    frame = table.read(tmp_path)
    assert frame.variant.tolist() == ["", "no_teacher"] and frame.degenerate.tolist() == ["", "in_batch@64"]
    assert frame.epochs.tolist() == [5, 10] and frame.student[0] == pytest.approx(1 / 3, rel=1e-12)
    assert frame.student.isna().tolist() == [False, True] and (frame[["tripped"]] == "").all(axis=None)


def test_read__without_results_names_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="kdlib run"):
        table.read(tmp_path)


# ---------------------------------------------------------------- trip-wires


def test_check__a_tripped_wire_stops_the_table_and_is_named_with_its_run():
    rows = [
        {"run": "s/clip_coco/cbam/seed0", "tripped": ""},
        {"run": "s/clip_coco/resnet/seed0", "tripped": "random features score chance: 0.5"},
        {"run": "s/dino_tinyimagenet/cbam/seed1", "tripped": "order changes nothing: differs by 1"},
    ]
    with pytest.raises(table.TripWireError) as caught:
        table.check(rows)
    words = str(caught.value)
    assert "random features score chance: 0.5 (in s/clip_coco/resnet/seed0)" in words
    assert "order changes nothing: differs by 1 (in s/dino_tinyimagenet/cbam/seed1)" in words
    assert "s/clip_coco/cbam/seed0" not in words


def test_check__names_every_run_in_which_the_same_wire_was_tripped():
    found = "evaluation batches of 1, 32, 256 embed alike: differs by 1.0e-03"
    with pytest.raises(table.TripWireError) as caught:
        table.check([{"run": run, "tripped": found} for run in ("s/clip_coco/cbam/seed0", "s/clip_coco/cbam/seed1")])
    assert "seed0" in str(caught.value) and "seed1" in str(caught.value)


def test_check__sound_failed_and_absent_cells_pass():
    table.check([{"run": "a", "tripped": ""}, {"run": "b", "outcome": "error"}, {"run": "c", "outcome": "absent"}])
    table.check([])


# ---------------------------------------------------------------- the text of a cell


def cell_text(frame, line="clip, 5 epochs", method="projection", **options) -> str:
    return table.figure(frame, "coco", **options).loc[line, method]


def test_figure__one_seed_is_its_score_and_the_interval_over_images(made_study):
    """160 of 200 right: the interval is about that of a share, 0.8 ± 1.96 √(0.8 · 0.2 / 200)."""
    score, spread, low, high = NUMBER.fullmatch(cell_text(made_study({"student": 0.8}))).groups()
    assert score == "0.800" and spread is None
    half = 1.96 * (0.8 * 0.2 / 200) ** 0.5
    assert float(low) == pytest.approx(0.8 - half, abs=0.01) and float(high) == pytest.approx(0.8 + half, abs=0.01)


def test_figure__three_seeds_are_their_mean_and_their_deviation(made_study):
    frame = made_study(*({"seed": seed, "student": share} for seed, share in enumerate((0.7, 0.8, 0.9))))
    score, spread, low, high = NUMBER.fullmatch(cell_text(frame)).groups()
    assert (score, spread) == ("0.800", "0.100") and float(low) < 0.8 < float(high)


def test_figure__seeds_that_did_not_finish_are_counted(made_study):
    seeds = [{"seed": 0, "student": 0.7}, {"seed": 1, "student": 0.9}, {"seed": 2, "outcome": "error"}]
    text = cell_text(made_study(*seeds))
    assert text.startswith("0.800 ± 0.141 [") and text.endswith("] (2 of 3 seeds)")
    assert "seeds" not in cell_text(made_study(*seeds[:2]))


def test_figure__digits_and_score_are_as_asked(made_study):
    frame = made_study({"student": 0.8, "student in_batch@64": 0.455})
    assert cell_text(frame, digits=1).startswith("0.8 [0.")
    assert cell_text(frame, score="in_batch@64").startswith("0.455 [")
    assert cell_text(frame, score="mean_recall") == cell_text(frame)


@pytest.mark.parametrize("outcome", ["error", "out_of_memory", "kernel_died", "stale", "absent"])
def test_figure__a_cell_without_a_number_says_why(made_study, outcome):
    frame = made_study({}, {"method": "cbam", "outcome": outcome})
    assert cell_text(frame, method="cbam") == outcome.replace("_", " ")
    alone = made_study({"method": "cbam", "outcome": outcome})
    assert cell_text(alone, method="cbam") == outcome.replace("_", " ")


def test_figure__a_cell_that_the_study_does_not_have_is_empty(made_study):
    frame = made_study({"epochs": 5}, {"epochs": 10, "method": "cbam"})
    assert cell_text(frame, method="cbam") == "" and cell_text(frame, "clip, 10 epochs") == ""


def test_figure__a_score_that_these_data_lack_is_a_dash(made_study):
    frame = made_study({"student in_batch@64": 0.5}, {"method": "cbam", "student in_batch@64": None})
    assert cell_text(frame, method="cbam", score="in_batch@64") == "–"
    assert cell_text(frame, score="zeroshot_map") == "–"


def test_figure__a_score_that_is_not_resampled_is_shown_without_interval(made_study):
    """CKA is one number an encoder: no replicates, but a number."""
    frame = made_study({"seed": 0}, {"seed": 1})
    frame["student cka"] = [0.5, 0.75]
    frame["teacher cka"] = 1.0
    assert cell_text(frame, score="cka") == "0.625 ± 0.177"
    assert cell_text(frame.head(1), score="cka") == "0.500"
    assert table.figure(frame, "coco", "cka").loc["clip: the teacher itself", "control"].startswith("1.000")


def test_figure__every_number_of_epochs_is_a_line_with_its_own_scores(made_study):
    frame = made_study({"epochs": 5, "student": 0.4}, {"epochs": 10, "student": 0.6})
    assert cell_text(frame).startswith("0.400 [") and cell_text(frame, "clip, 10 epochs").startswith("0.600 [")


# ---------------------------------------------------------------- the layout


def test_figure__methods_are_columns_in_the_studys_order(made_study):
    made = made_study(*({"method": name} for name in ("own", *reversed(METHODS))))
    assert list(table.figure(made, "coco")) == ["control", *METHODS, "own"]
    assert list(table.figure(made, "coco", controls=False)) == [*METHODS, "own"]


def test_figure__holds_one_data_set(made_study):
    frame = made_study({"teacher": "clip"}, {"teacher": "dino", "method": "attention"})
    assert list(table.figure(frame, "coco", controls=False).index) == ["clip, 5 epochs"]
    assert list(table.figure(frame, "tinyimagenet", controls=False).index) == ["dino, 5 epochs"]
    assert list(table.figure(frame, "tinyimagenet", controls=False)) == ["attention"]


def test_figure__controls_are_lines_above_the_students(made_study):
    shares = {"teacher_score": 0.95, "pca": 0.75, "shuffled": 0.02, "random": 0.03, "constant": 0.04}
    cells_of = [{"method": method, "untrained": 0.2, **shares} for method in ("projection", "cbam")]
    frame = table.figure(made_study(*cells_of), "coco")
    assert list(frame.index[-2:]) == ["clip: the student untrained", "clip, 5 epochs"] and len(frame) == 7
    for line, share in zip(table.CONTROLS.values(), (0.95, 0.75, 0.02, 0.03, 0.04), strict=True):
        words = frame.loc[f"clip: {line}"]
        assert words["control"].startswith(f"{share:.3f} [") and not words[["projection", "cbam"]].any(), line
    untrained = frame.loc["clip: the student untrained"]
    assert untrained["control"] == "" and untrained["projection"].startswith("0.200 [") and untrained["cbam"]


def test_figure__controls_stand_once_however_many_epochs_and_seeds(made_study):
    frame = made_study(*({"epochs": epochs, "seed": seed} for epochs in (5, 10) for seed in (0, 1)))
    lines = table.figure(frame, "coco")
    assert list(lines.index[-2:]) == ["clip, 5 epochs", "clip, 10 epochs"] and len(lines) == 8
    assert "±" not in lines.loc["clip: the teacher itself", "control"]
    spread = NUMBER.fullmatch(lines.loc["clip: the student untrained", "projection"]).group(2)
    assert spread == "0.000"  # two seeds, not four cells


def test_figure__a_variant_has_its_own_controls_only_where_it_is_scored_otherwise(made_study):
    frame = made_study(
        {},
        {"variant": "no_teacher"},
        {"variant": "untrained_heads", "exam_key": "other", "teacher_score": 0.3},
    )
    lines = table.figure(frame, "coco")
    assert "clip, no teacher: the teacher itself" not in lines.index
    assert lines.loc["clip: the teacher itself", "control"].startswith("0.900 [")
    assert lines.loc["clip, untrained heads: the teacher itself", "control"].startswith("0.300 [")
    assert {"clip, 5 epochs", "clip, no teacher, 5 epochs", "clip, untrained heads, 5 epochs"} <= set(lines.index)


def test_figure__without_a_finished_cell_there_are_no_controls(made_study):
    frame = made_study({"outcome": "absent"}, {"method": "cbam", "outcome": "error"})
    lines = table.figure(frame, "coco")
    assert list(lines.index) == ["clip, 5 epochs"]
    assert lines.iloc[0].to_dict() == {"control": "", "projection": "absent", "cbam": "error"}


def test_seeds_of__students_have_a_line_a_seed_and_controls_one(made_study):
    frame = made_study(*({"seed": seed, "student": 0.5 + seed / 10} for seed in range(3)))
    values, replicates = table.seeds_of(frame, "student", "")
    assert values == pytest.approx([0.5, 0.6, 0.7]) and replicates.shape == (3, 1000)
    assert replicates.mean(axis=1) == pytest.approx(values, abs=0.01)
    for who, share in (("teacher", 0.9), ("pca", 0.7)):
        values, replicates = table.seeds_of(frame, who, "")
        assert values == [share] and replicates.shape == (1, 1000)


def test_seeds_of__cells_that_did_not_finish_do_not_count(made_study):
    frame = made_study({"seed": 0, "outcome": "error"}, {"seed": 1, "student": 0.4}, {"seed": 2, "student": 0.6})
    values, replicates = table.seeds_of(frame, "student", "mean_recall")
    assert values == [0.4, 0.6] and len(replicates) == 2


# ---------------------------------------------------------------- the printed results


@pytest.mark.parametrize(("value", "digits"), [("accuracy", 4), ("size_mb", 2)])
def test_paper_figure__has_every_printed_number(value, digits):
    for dataset in ("coco", "tinyimagenet"):
        figure = table.paper_figure(dataset, value, digits)
        for row in table.paper().query("dataset == @dataset").itertuples():
            text, number = figure.loc[f"{row.teacher}, {row.epochs} epochs", row.method], getattr(row, value)
            assert text == (f"{number:.{digits}f}" if number == number else "out of memory"), row


def test_paper_figure__what_is_not_printed_is_said():
    printed = {(row.teacher, row.epochs, row.method) for row in table.paper().itertuples()}
    for dataset in ("coco", "tinyimagenet"):
        figure = table.paper_figure(dataset)
        for line, texts in figure.iterrows():
            teacher, epochs = line.removesuffix(" epochs").split(", ")
            for method, text in texts.items():
                assert (text == "not printed") == ((teacher, int(epochs), method) not in printed)
