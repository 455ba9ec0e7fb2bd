"""What is written for an exported student, what it is compared with, and what is refused."""

import importlib.util
import shutil
from pathlib import Path

import onnx
import pytest
import torch
from huggingface_hub import ModelCard

from kdlib import Experiment, RunConfig
from kdlib.export import ExportedStudent, export
from kdlib.export import folder as exporting
from kdlib.utils import read_json, runs_root, write_json

COMMON = {"model.safetensors", "config.json", "README.md", "export.json", "image.onnx", "image.int8.onnx"}
TEXT = {"tokenizer.json", "text.onnx", "text.int8.onnx"}


def record(exported) -> dict:
    return read_json(exported.folder / "export.json")


def test_export__writes_what_a_user_needs_and_nothing_else(clip, dino):
    for exported, names in ((clip, COMMON | TEXT), (dino, COMMON)):
        assert {path.name for path in exported.folder.iterdir()} == names
        assert [path.name for path in exported.folder.parent.iterdir()] == ["student"]  # no scratch
        sizes = {name: (exported.folder / name).stat().st_size for name in names - {"README.md", "export.json"}}
        assert record(exported)["bytes"] == sizes


def test_export__names_no_place_of_the_machine(clip, small_shapes):
    places = [str(place).encode() for place in (Path(exporting.__file__).parents[1], small_shapes)]
    for path in clip.folder.iterdir():
        assert not any(place in path.read_bytes() for place in places), path


def test_record__has_the_scores_of_the_student_and_of_its_files_with_intervals(clip, dino):
    for exported in (clip, dino):
        found, result = record(exported), exported.experiment.result
        scores = found["scores"]
        assert scores["student"] == result["budgets"][str(found["epochs"])]["scores"]["student"]
        assert set(scores["onnx"]) == set(scores["int8"]) == set(scores["student"])
        for name in (found["primary"], "similarity_cosine"):  # a query of 60 may change sides where it nearly ties
            assert scores["onnx"][name] == pytest.approx(scores["student"][name], abs=0.02)
        low, high = scores["onnx"][found["primary"]][1:]
        assert low <= scores["int8"][found["primary"]][0] <= high


def test_record__has_the_agreement_and_the_times_of_every_graph_and_the_cpu(clip):
    kinds = {"image", "text", "prompt"}
    least = record(clip)["least_cosine"]
    assert set(least) == {f"{row}, {kind}" for row in ("onnx", "int8") for kind in kinds}
    assert all(cosine >= (exporting.AGREE if name.startswith("onnx") else 0.9) for name, cosine in least.items())
    times = record(clip)["ms"]
    assert set(times) == {f"{side}{end}.onnx" for side in ("image", "text") for end in ("", ".int8")}
    assert all(time["p50_ms"] > 0 for graph in times.values() for time in graph.values())
    assert {"threads 1, batch 1", "threads 1, batch 32"} <= set(times["image.onnx"])
    assert isinstance(record(clip)["hardware"]["vnni"], bool) and record(clip)["hardware"]["name"]


def test_card__has_the_results_that_the_hub_reads_and_all_numbers_of_the_record(clip, dino):
    card, found, result = ModelCard.load(clip.folder / "README.md"), record(clip), clip.experiment.result
    values = [found["scores"][row]["mean_recall"] for row in ("student", "onnx", "int8")]
    assert [one.metric_value for one in card.data.eval_results] == [round(value, 4) for value, *_ in values]
    assert card.data.library_name == "kdlib" and card.data.eval_results[0].dataset_type == "coco"
    for value in (*values, result["controls"]["teacher"]["mean_recall"]):
        assert "{:.3f} [{:.3f}, {:.3f}]".format(*value) in card.text
    for words in (result["leakage"]["reason"], result["hardware"]["cpu"], "VNNI", "(32, 32)", "Licence"):
        assert words in card.text
    assert "{{" not in card.text and "text.onnx" in card.text
    other = ModelCard.load(dino.folder / "README.md")
    assert other.data.pipeline_tag == "image-feature-extraction" and "text.onnx" not in other.text


def test_export__of_an_earlier_budget_is_of_its_checkpoint(clip, tmp_path, monkeypatch):
    """Graphs are not written again here, which takes seconds."""
    monkeypatch.setenv("KDLIB_RUNS", str(clip.experiment.run.parents[3]))
    monkeypatch.setattr(exporting, "_examined", lambda experiment, epochs, *_: record(clip) | {"epochs": epochs})
    student = ExportedStudent.from_pretrained(export(clip.experiment, tmp_path / "first", epochs=1))
    weights = clip.experiment.trained(1).student.image.fc.weight
    torch.testing.assert_close(student.student.image.fc.weight, weights, rtol=0, atol=0)
    assert not torch.equal(weights, clip.student.student.image.fc.weight)


def test_export__of_a_student_that_needs_its_teacher_is_refused_and_says_which_do_not(clip, tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_RUNS", str(clip.experiment.run.parents[3]))
    changed = {"method": "projection", "text_side": "teacher", "objective": "", "epochs": [1]}
    experiment = Experiment.open(RunConfig(**clip.experiment.config.model_dump() | changed))
    experiment.train()
    with pytest.raises(ValueError, match=r"needs its teacher.*resnet, densenet.*text_side 'transformer'"):
        export(experiment, tmp_path / "student")
    assert list(tmp_path.iterdir()) == []


def test_export__leaves_nothing_where_a_graph_is_not_the_student(clip, tmp_path, monkeypatch):
    """The graph of other weights takes the place of the one that would be written."""

    def another(student, side, feed, path):
        model = onnx.load(clip.folder / path.name)
        largest = max(model.graph.initializer, key=lambda one: one.ByteSize())
        values = onnx.numpy_helper.to_array(largest)
        largest.CopyFrom(onnx.numpy_helper.from_array(values[::-1].copy(), largest.name))
        onnx.save(model, path)

    monkeypatch.setenv("KDLIB_RUNS", str(clip.experiment.run.parents[3]))
    monkeypatch.setattr(exporting, "write", another)
    monkeypatch.setattr(exporting, "quantise", lambda source, target, feeds: shutil.copy(source, target))
    with pytest.raises(RuntimeError, match=r"image graph is not the trained student: cosine"):
        export(clip.experiment, tmp_path / "student")
    assert [path.name for path in tmp_path.iterdir() if "student" in path.name] == []


def test_export__does_not_write_over_a_folder_of_others(clip, tmp_path):
    (tmp_path / "letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(ValueError, match="another folder"):
        export(clip.experiment, tmp_path)
    assert (tmp_path / "letter.txt").read_text(encoding="utf-8") == "dear"


def test_export__says_in_a_sentence_what_is_not_installed(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    with pytest.raises(RuntimeError, match=r"^onnxruntime must be installed for this: pip install 'kdlib\[export\]'.$"):
        export("mini clip resnet", tmp_path / "student")


@pytest.fixture
def some_runs(tmp_path):
    """Three finished runs and one that is not."""
    names = ("clip_coco/resnet", "clip_coco/resnet+supervised", "clip_coco/cbam", "dino_tinyimagenet/resnet")
    for name in names:
        folder = runs_root() / "mini" / name / "seed0-1a2b3c4d"
        folder.mkdir(parents=True)
        if "cbam" not in name:
            write_json(folder / "result.json", {"config": {"epochs": [5]}, "budgets": {"5": {}}})
    return runs_root() / "mini"


def test_find__takes_a_folder_or_study_teacher_and_method(some_runs):
    wanted = some_runs / "clip_coco" / "resnet" / "seed0-1a2b3c4d"
    full = "mini/clip_coco/resnet/seed0-1a2b3c4d"
    for name in ("mini clip resnet", "mini/clip_coco/resnet", full, "mini clip resnet seed0", wanted, str(wanted)):
        assert exporting.find(name) == wanted
    assert exporting.find("mini clip resnet+supervised").parent.name == "resnet+supervised"
    assert exporting.find("mini dino").parents[1].name == "dino_tinyimagenet"


def test_find__lists_the_candidates(some_runs):
    with pytest.raises(ValueError, match=r"'mini clip' means 2 .*: mini/clip_coco/resnet/seed0-1a2b3c4d, mini/clip_c"):
        exporting.find("mini clip")
    with pytest.raises(ValueError, match=r"'mini clip cbam' means 0 .*resnet\+supervised/.*dino_tinyimagenet/resnet/"):
        exporting.find("mini clip cbam")
    with pytest.raises(FileNotFoundError, match="Studies with runs there: mini"):
        exporting.find("paper clip resnet")
