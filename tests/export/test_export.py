"""What is written for an exported student, what it is compared with, and what is refused."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image, ImageOps

from kdlib import Experiment, RunConfig, students
from kdlib.config import RunConfig
from kdlib.export import ExportedStudent, export
from kdlib.export import folder as exporting
from kdlib.export.graph import WEIGHTED, quantise, session, write
from kdlib.utils import read_json, runs_root, write_json

COMMON = {"model.safetensors", "config.json", "README.md", "export.json", "image.onnx", "image.int8.onnx"}
TEXT = {"tokenizer.json", "text.onnx", "text.int8.onnx"}


def photo(width: int = 70, height: int = 41) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def record(exported) -> dict:
    return read_json(exported.folder / "export.json")


# ---------------------------------------------------------------- the folder


def test_export__writes_what_a_user_needs_and_nothing_else(clip, dino):
    for exported, names in ((clip, COMMON | TEXT), (dino, COMMON)):
        assert {path.name for path in exported.folder.iterdir()} == names
        assert [path.name for path in exported.folder.parent.iterdir()] == ["student"]  # no scratch
        sizes = {name: (exported.folder / name).stat().st_size for name in names - {"README.md", "export.json"}}
        assert record(exported)["bytes"] == sizes


def test_config__names_no_place_of_the_machine(clip, small_shapes):
    for path in clip.folder.iterdir():
        content = path.read_bytes()
        assert str(Path(exporting.__file__).parents[1]).encode() not in content, path
        assert str(small_shapes).encode() not in content, path


def test_record__has_the_scores_of_the_student_and_of_its_files_with_intervals(clip, dino):
    for exported in (clip, dino):
        found, result = record(exported), exported.experiment.result
        scores, epochs = found["scores"], max(exported.experiment.config.epochs)
        assert found["epochs"] == epochs
        assert scores["student"] == result["budgets"][str(epochs)]["scores"]["student"]
        assert set(scores["onnx"]) == set(scores["int8"]) == set(scores["student"])
        for name, row in scores["student"].items():
            assert scores["onnx"][name] == pytest.approx(row, abs=1e-3), name
        low, high = scores["onnx"][found["primary"]][1:]
        assert low <= scores["int8"][found["primary"]][0] <= high


def test_record__has_the_agreement_and_the_times_of_every_graph_and_the_cpu(clip, dino):
    kinds = {"image", "text", "prompt"}
    least = record(clip)["least_cosine"]
    assert set(least) == {f"{row}, {kind}" for row in ("onnx", "int8") for kind in kinds}
    assert set(record(dino)["least_cosine"]) == {"onnx, image", "int8, image"}
    assert all(cosine >= (exporting.AGREE if name.startswith("onnx") else 0.9) for name, cosine in least.items())
    times = record(clip)["ms"]
    assert set(times) == {f"{side}{end}.onnx" for side in ("image", "text") for end in ("", ".int8")}
    assert all(time["p50_ms"] > 0 for graph in times.values() for time in graph.values())
    assert {"threads 1, batch 1", "threads 1, batch 32"} <= set(times["image.onnx"])
    assert isinstance(record(clip)["hardware"]["vnni"], bool) and record(clip)["hardware"]["name"]


def test_card__has_the_results_that_the_hub_reads_and_all_numbers_of_the_record(clip):
    card, found, result = ModelCard.load(clip.folder / "README.md"), record(clip), clip.experiment.result
    values = [found["scores"][row]["mean_recall"] for row in ("student", "onnx", "int8")]
    assert [one.metric_value for one in card.data.eval_results] == [round(value, 4) for value, *_ in values]
    assert card.data.library_name == "kdlib" and card.data.eval_results[0].dataset_type == "coco"
    for value in (*values, result["controls"]["teacher"]["mean_recall"]):
        assert "%.3f [%.3f, %.3f]" % tuple(value) in card.text
    for words in (result["leakage"]["reason"], result["hardware"]["cpu"], "VNNI", "(32, 32)", "Licence", "[toy]"[1:4]):
        assert words in card.text
    assert "{{" not in card.text and "text.onnx" in card.text


def test_card__of_a_student_without_text_says_nothing_of_text(dino):
    card = ModelCard.load(dino.folder / "README.md")
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert "text.onnx" not in card.text and "linear_top1" in card.text


# ---------------------------------------------------------------- the student


def test_from_pretrained__embeds_as_the_trained_student_does(clip):
    own = clip.experiment.embed("test")
    texts = clip.experiment.captions("test")
    torch.testing.assert_close(clip.student.encode_texts(texts).numpy(), own["text"], rtol=0, atol=1e-5)
    photos = [clip.experiment.photo("test", row) for row in range(20)]
    stored = clip.experiment.splits["test"].pixels["pixels"]
    np.testing.assert_array_equal(clip.student.prepare(photos)["pixels"], stored)
    np.testing.assert_allclose(clip.student.encode_images(photos), own["image"], rtol=0, atol=1e-5)


def test_encode_texts__reads_any_text_and_cuts_it_where_the_teacher_does(clip, dino):
    made = clip.student.encode_texts(["a red circle", "", "Xylophon qz 987", "a red circle " * 60])
    assert made.shape == (4, 64) and torch.isfinite(made).all()
    alone = clip.student.encode_texts(["a red circle"])
    torch.testing.assert_close(made[:1], alone, rtol=0, atol=1e-6)  # padding changes nothing
    with pytest.raises(ValueError, match="no text side"):
        dino.student.encode_texts(["a red circle"])


def test_prepare__turns_images_upright_and_refuses_those_of_more_than_8_bits(clip, tmp_path):
    turned, note = photo().transpose(Image.Transpose.ROTATE_90), Image.Exif()
    note[0x112] = 6  # stored so that it must be turned by 270 degrees
    turned.save(tmp_path / "turned.png", exif=note)
    made = [clip.student.prepare([image])["pixels"] for image in (Image.open(tmp_path / "turned.png"), photo())]
    np.testing.assert_array_equal(*made)
    with pytest.raises(ValueError, match="8 bits"):
        clip.student.prepare([Image.fromarray(np.zeros((40, 40), dtype=np.uint16))])


def test_export__of_an_earlier_budget_is_of_its_checkpoint(clip, tmp_path, monkeypatch):
    """Graphs are not written again here, which takes seconds."""
    monkeypatch.setenv("KDLIB_RUNS", str(clip.experiment.run.parents[3]))
    monkeypatch.setattr(exporting, "_examined", lambda experiment, epochs, *_: record(clip) | {"epochs": epochs})
    student = ExportedStudent.from_pretrained(export(clip.experiment, tmp_path / "first", epochs=1))
    weights = clip.experiment.trained(1).student.image.fc.weight
    torch.testing.assert_close(student.student.image.fc.weight, weights, rtol=0, atol=0)
    assert not torch.equal(weights, clip.student.student.image.fc.weight)


# ---------------------------------------------------------------- the graphs


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_graph__takes_any_batch_of_uint8_pixels_as_the_card_makes_them(clip, batch):
    pixels = np.asarray(ImageOps.fit(photo(), (32, 32), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    made = session(clip.folder / "image.onnx")({"pixels": np.stack([pixels] * batch)})
    wanted = clip.student.encode_images([photo()] * batch)
    assert made.shape == (batch, 64) and made.dtype == np.float32
    np.testing.assert_allclose(made, wanted.numpy(), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)


def test_int8__has_signed_weights_per_channel_in_about_a_quarter_of_the_size(clip):
    graph = onnx.load(clip.folder / "image.int8.onnx").graph
    weights = {one.name for one in graph.initializer if one.data_type == onnx.TensorProto.INT8}
    scaled = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in weights]
    sizes = {one.name: list(one.dims) for one in graph.initializer}
    for node in scaled:
        assert sizes[node.input[1]] in [sizes[node.input[0]][:1], sizes[node.input[0]][1:]]  # a scale a channel
    assert len(scaled) > sum(node.op_type == "Conv" for node in graph.node) == 13
    sizes = record(clip)["bytes"]
    assert sizes["image.int8.onnx"] * 3.7 <= sizes["image.onnx"]


def test_int8__of_a_transformer_keeps_its_sums_and_norms_in_float(clip):
    nodes = onnx.load(clip.folder / "text.int8.onnx").graph.node
    made_by = {name: node for node in nodes for name in node.output}
    found = [node for node in nodes if node.op_type == "DequantizeLinear" and node.input[0] in made_by]
    for node in found:
        source = made_by[made_by[node.input[0]].input[0]]  # of the QuantizeLinear before it
        readers = {other.op_type for other in nodes if node.output[0] in other.input}
        assert {source.op_type, *readers} & set(WEIGHTED), (source.op_type, readers)
    assert found and {"LayerNormalization", "Softmax"} <= {node.op_type for node in nodes}


@pytest.mark.parametrize(("method", "convnet"), [("densenet", "narrow"), ("mobilenet", "full")])
def test_write__other_networks_that_read_pixels(method, convnet, tmp_path):
    torch.manual_seed(0)
    config = RunConfig(teacher="dino", dataset="tinyimagenet", method=method, convnet=convnet, image_size=32)
    student = students.build(config, students.Inputs(16, (4, 4)))
    made = ExportedStudent(config.training(), {"teacher_width": 16, "grid": [4, 4]}).eval()
    made.student.load_state_dict(student.state_dict())
    pixels = np.random.default_rng(0).integers(0, 256, (16, 3, 32, 32), dtype=np.uint8)
    paths = tmp_path / "image.onnx", tmp_path / "image.int8.onnx"
    write(made, "image", {"pixels": pixels[:2]}, paths[0])
    cosines = torch.cosine_similarity(
        torch.from_numpy(session(paths[0])({"pixels": pixels})), made.run({"pixels": pixels})
    )
    assert cosines.min() >= 0.9999
    quantise(*paths, iter([{"pixels": pixels}]))
    assert paths[1].stat().st_size * (3.7 if convnet == "full" else 3) <= paths[0].stat().st_size


# ---------------------------------------------------------------- what is refused


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
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(ValueError, match="another folder"):
        export(clip.experiment, tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text(encoding="utf-8") == "dear"


def test_export__says_in_a_sentence_what_is_not_installed(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    with pytest.raises(RuntimeError, match=r"^onnxruntime must be installed for this: pip install 'kdlib\[export\]'.$"):
        export("mini clip resnet", tmp_path / "student")


# ---------------------------------------------------------------- names


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


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("mini clip resnet", "clip_coco/resnet"),
        ("mini/clip_coco/resnet+supervised", "clip_coco/resnet+supervised"),
        ("mini dino", "dino_tinyimagenet/resnet"),
        ("mini/clip_coco/resnet/seed0-1a2b3c4d", "clip_coco/resnet"),
        ("mini clip resnet seed0", "clip_coco/resnet"),
    ],
)
def test_find__takes_a_folder_or_study_teacher_and_method(some_runs, name, meant):
    wanted = some_runs / meant / "seed0-1a2b3c4d"
    assert exporting.find(name) == wanted == exporting.find(wanted) == exporting.find(str(wanted))


def test_find__lists_the_candidates(some_runs):
    with pytest.raises(ValueError, match=r"'mini clip' means 2 .*: mini/clip_coco/resnet/seed0-1a2b3c4d, mini/clip_c"):
        exporting.find("mini clip")
    with pytest.raises(ValueError, match=r"'mini clip cbam' means 0 .*resnet\+supervised/.*dino_tinyimagenet/resnet/"):
        exporting.find("mini clip cbam")
    with pytest.raises(FileNotFoundError, match="Studies with runs there: mini"):
        exporting.find("paper clip resnet")


# ---------------------------------------------------------------- the hub


def test_save_pretrained__takes_graphs_and_card_along_with_their_own_weights_only(clip, tmp_path):
    clip.student.save_pretrained(tmp_path / "copy")
    assert {path.name for path in (tmp_path / "copy").iterdir()} == COMMON | TEXT
    assert (tmp_path / "copy" / "README.md").read_bytes() == (clip.folder / "README.md").read_bytes()
    other = ExportedStudent.from_pretrained(tmp_path / "copy")
    with torch.no_grad():
        other.student.image.fc.weight.mul_(2)
    other.save_pretrained(tmp_path / "trained further")
    names = {path.name for path in (tmp_path / "trained further").iterdir()}
    assert names == {"model.safetensors", "config.json", "tokenizer.json", "README.md"}
    assert "mean_recall" not in (tmp_path / "trained further" / "README.md").read_text(encoding="utf-8")


def test_push_to_hub__uploads_the_folder_and_from_pretrained_downloads_no_graph(clip, tmp_path, monkeypatch):
    uploaded, wanted = tmp_path / "uploaded", []

    def download(model_id, allow_patterns, **options):
        wanted.append((model_id, options["revision"]))
        some = {path for pattern in allow_patterns for path in uploaded.glob(pattern)}
        (tmp_path / "cache").mkdir()
        return [shutil.copy(path, tmp_path / "cache") for path in some] and tmp_path / "cache"

    api = "huggingface_hub.hub_mixin.HfApi"
    monkeypatch.setattr(f"{api}.create_repo", lambda self, repo_id, **_: type("Repo", (), {"repo_id": repo_id}))
    monkeypatch.setattr(f"{api}.upload_folder", lambda self, folder_path, **_: shutil.copytree(folder_path, uploaded))
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", lambda **_: uploaded / "config.json")
    monkeypatch.setattr("kdlib.export.student.snapshot_download", download)
    clip.student.push_to_hub("owner/student")
    assert {path.name for path in uploaded.iterdir()} == COMMON | TEXT
    student = ExportedStudent.from_pretrained("owner/student", revision="main")
    assert wanted == [("owner/student", "main")] and not list((tmp_path / "cache").glob("*.onnx"))
    made, own = (one.encode_texts(["a red circle"]) for one in (student, clip.student))
    torch.testing.assert_close(made, own, rtol=0, atol=0)


def test_from_pretrained__says_what_is_wrong_with_a_folder(clip, tmp_path):
    shutil.copytree(clip.folder, tmp_path / "copy")
    (tmp_path / "copy" / "config.json").write_text(json.dumps({"model_type": "vit"}), encoding="utf-8")
    with pytest.raises(ValueError, match="kdlib export"):
        ExportedStudent.from_pretrained(tmp_path / "copy")
