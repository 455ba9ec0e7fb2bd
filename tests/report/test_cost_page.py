"""What a student and a study cost, as a study's page shows it."""

from kdlib.files import write_json
from kdlib.report import cost_page
from kdlib.study import forecast

METHODS = ("projection", "cbam")
TIMES = {"image_mb": 1.0, "safetensors_bytes": 2**20, "deployed_image_macs": 1e6, "first_epoch_seconds": 1.0,
         "data_share": 0.1, "minutes_from_nothing": 1.0, "image_per_second": 9.0}  # fmt: skip
TIMES |= {f"image_batch_{batch}_{part}_ms": 1.0 for batch in (1, 32) for part in ("p10", "p50", "p90")}


def test_costs__sizes_and_times_are_figures_and_tables(study, shown):
    found = study(*({"method": method, "epochs": epochs, **TIMES} for method in METHODS for epochs in (5, 10)))
    cost_page.costs(found)
    assert (found.folder / "figures" / "seconds_per_epoch.svg").exists()
    assert (found.folder / "figures" / "sizes.tex").exists() and "What does a student cost?" in "\n".join(shown)


def exported(sides, **milliseconds) -> dict:
    """The columns of a teacher, a float32 and an int8 file; a file's median at batch 1 and one thread is given."""
    found = {}
    for file, middle in milliseconds.items():
        for side in sides:
            part = f"exported_{file}_{side}"
            found |= {f"{part}_mb": 1.5, f"{part}_macs": 2e6}
            for key in (f"{threads}_thread{s}_batch_{batch}" for threads, s in (("one", ""), ("all", "s"))
                        for batch in (1, 32)):  # fmt: skip
                found |= {f"{part}_{key}_p10_ms": middle / 2, f"{part}_{key}_p50_ms": middle,
                          f"{part}_{key}_p90_ms": 2 * middle}  # fmt: skip
    return found


def test_exported__files_stand_beside_their_teachers_file_of_the_same_side(study, shown, table_of_file):
    files = exported(("image", "text"), teacher=8.0, onnx=2.0) | exported(("image",), onnx_int8=0.5)
    found = study({"method": "resnet", **files}, {"method": "resnet", "seed": 1, **files}, {"method": "densenet"})
    cost_page.exported(found)
    lines = table_of_file(found, "exported").set_index(["student", "file", "side"])
    teacher, *students = "the teacher itself", *(f"resnet, 5 epochs, seed {seed}" for seed in (0, 1))
    assert lines["times as fast as the teacher"].to_dict() == {
        (teacher, "float32", "image"): 1, (teacher, "float32", "text"): 1,
        **{(one, "float32", side): 4 for one in students for side in ("image", "text")},
        **{(one, "int8", "image"): 16 for one in students},
    }  # fmt: skip
    assert lines.loc[(students[0], "float32", "image"), "1 input, 1 thread, ms"] == "2 [1, 4]"
    assert set(lines["million multiply-accumulates"]) == {2}


def test_exported__without_files_there_is_no_table(study, shown):
    before = len(shown)
    cost_page.exported(study({"method": "resnet"}))
    assert len(shown) == before


def test_bill__has_a_line_a_teacher_and_their_sum(study, shown, table_of_file):
    found = study({}, {"teacher": "dino"})
    cost_page.bill(found)
    lines = table_of_file(found, "spent")
    assert lines["what"].tolist() == ["clip on coco", "dino on tinyimagenet", "together"]
    assert lines["training, min"].tolist() == [1, 1, 2]


def test_foretold__is_the_plans_seconds_beside_those_taken(study, shown):
    found = study({})
    cost_page.foretold(found)
    assert "Nothing was predicted" in shown[-1]
    experiment = {"notebook": "clip_coco", "method": "projection", "seconds": 60.0}
    write_json(
        forecast.runs_root() / found.name / forecast.PREDICTED, {"experiments": {"one": experiment}, "prepare": {}}
    )
    forecast.took(found.name, "one", 48.0)
    cost_page.foretold(found)
    assert "predicted 1.0 minutes" in shown[-2] and "a ratio of 1.25" in shown[-2]
    assert "by method" in shown[-1] and "48.00" in shown[-1]
