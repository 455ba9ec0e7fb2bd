"""A student taken away: what is written, what it is held against, and what is refused."""

import json
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image, ImageOps

from kdlib import cli, finished, students, study
from kdlib.export import ExportError, Standalone, check, choose, export, folder, graph, record
from kdlib.export.quantise import WEIGHTED, quantise
from kdlib.files import project_root, read_json, runs_root
from kdlib.students import StudentSpec

FILES = {"model.safetensors", "config.json", "preprocessor_config.json", "image.onnx", "README.md", "parity.json"}


@pytest.fixture
def run(taken):
    """The run that it was exported from."""
    return choose(["dino", "resnet"])


def photo(width: int = 70, height: int = 41) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_export__writes_all_that_a_user_needs_and_nothing_else(taken):
    assert {path.name for path in taken.iterdir()} == FILES | {"image.int8.onnx"}
    assert [path.name for path in taken.parent.iterdir()] == ["away"]  # no scratch
    written = read_json(taken / "parity.json")["files"]
    assert set(written) == FILES - {"README.md", "parity.json"} | {"image.int8.onnx"}
    assert all((taken / name).stat().st_size == facts["bytes"] for name, facts in written.items())


def test_from_pretrained__embeds_images_as_the_result_has_them(taken, run):
    student = Standalone.from_pretrained(taken)
    made = student.encode_images([run.image(row) for row in range(4)])
    kept = torch.from_numpy(run.embeddings["test/image"][:4])
    torch.testing.assert_close(made, kept, rtol=0, atol=1e-5)
    with pytest.raises(ExportError, match="no text side"):
        student.encode_texts(["a red circle"])


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_graph__takes_any_batch_of_uint8_pixels_and_gives_what_torch_gives(taken, batch):
    """The preprocessing by hand, as the model card has it: the graph does the rest."""
    pixels = np.asarray(ImageOps.fit(photo(), (32, 32), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    made = check.File(taken / "image.onnx")({"pixels": np.stack([pixels] * batch)})
    wanted = Standalone.from_pretrained(taken).encode_images([photo()] * batch)
    assert made.shape == (batch, 64) and made.dtype == np.float32
    np.testing.assert_allclose(made, wanted.numpy(), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)


def test_prepare__turns_images_upright_and_refuses_those_of_more_than_8_bits(taken, tmp_path):
    student = Standalone.from_pretrained(taken)
    turned, note = photo().transpose(Image.Transpose.ROTATE_90), Image.Exif()
    note[0x112] = 6  # stored so that it must be turned by 270 degrees
    turned.save(tmp_path / "turned.png", exif=note)
    np.testing.assert_array_equal(student.prepare([Image.open(tmp_path / "turned.png")]), student.prepare([photo()]))
    with pytest.raises(ValueError, match="8 bits"):
        student.prepare([Image.fromarray(np.zeros((40, 40), dtype=np.uint16))])


def test_graph__keeps_no_trace_of_the_machine_that_wrote_it(taken):
    for name in ("image.onnx", "image.int8.onnx"):
        content = (taken / name).read_bytes()
        assert str(Path(folder.__file__).parents[1]).encode() not in content and b"forward" not in content


def test_int8__has_signed_weights_per_channel_and_little_more_than_a_quarter_of_the_size(taken):
    model = onnx.load(taken / "image.int8.onnx")
    weights = {one.name: one for one in model.graph.initializer if one.data_type == onnx.TensorProto.INT8}
    scaled = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in weights]
    sizes = {one.name: list(one.dims) for one in model.graph.initializer}
    for node in scaled:
        assert sizes[node.input[1]] in [sizes[node.input[0]][:1], sizes[node.input[0]][1:]]  # a scale a channel
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(scaled) > len(convolutions) == 13
    assert (taken / "image.int8.onnx").stat().st_size < 0.27 * (taken / "image.onnx").stat().st_size


def test_record__scores_the_files_by_our_evaluation_beside_the_student(taken, run):
    found = read_json(run.run.exported_path(2))
    assert found.pop("folder") == str(taken) and found == read_json(taken / "parity.json")
    assert found["experiment"] == run.result["keys"]["experiment"]
    rows = found["rows"]
    assert list(rows) == ["student", "onnx", "onnx_int8"]
    assert rows["student"]["scores"] == run.result["scores"]["student"]
    assert rows["onnx"]["scores"] == pytest.approx(rows["student"]["scores"], abs=1e-4)
    assert set(rows["onnx_int8"]["scores"]) == set(rows["student"]["scores"])
    assert rows["student"]["intervals"][run.headline] == pytest.approx(run.interval())
    with np.load(run.run.exported_path(2).with_suffix(".npz")) as arrays:
        for row in ("onnx", "onnx_int8"):
            queries = arrays[f"{row}/queries/{run.headline}"]
            assert len(queries) == len(run)
            assert queries.mean() == pytest.approx(rows[row]["scores"][run.headline], abs=1e-6)


def test_record__compares_pairs_and_says_whether_int8_is_in_the_interval(taken, run):
    found = read_json(taken / "parity.json")
    pairs = {(entry["row"], entry["against"]): entry for entry in found["comparisons"]}
    assert set(pairs) == {("onnx", "student"), ("onnx_int8", "onnx")}
    entry, rows = pairs["onnx_int8", "onnx"], found["rows"]
    low, high = rows["onnx"]["intervals"][run.headline]
    first, second = (rows[row]["scores"][run.headline] for row in ("onnx_int8", "onnx"))
    assert entry["difference"] == pytest.approx(first - second)
    assert entry["within_interval"] == (low <= first <= high)


def test_record__has_parity_and_cost_of_every_file_and_of_the_teacher(taken):
    found = read_json(taken / "parity.json")
    checks = found["parity"]
    for batch in check.BATCHES:
        assert checks[f"image: image.onnx, batch {batch}"]["cosine_min"] >= check.AGREE
        assert checks[f"image: image.int8.onnx, batch {batch}"]["cosine_min"] > 0.9
    assert all(entry["count"] == 60 for entry in checks.values())
    teacher, ours, twin = (found["cost"][row]["image"] for row in ("teacher", "onnx", "onnx_int8"))
    assert teacher["bytes"] > ours["bytes"] > twin["bytes"]
    assert teacher["macs"] > ours["macs"] == twin["macs"] > 0
    for cost in (teacher, ours, twin):
        for threads in check.THREADS:
            assert all(cost[threads][f"batch_{size}"]["p50_ms"] > 0 for size in check.BATCHES)


def test_card__is_made_from_the_result(taken, run):
    card = (taken / "README.md").read_text()
    header = card.split("---\n")[1]
    assert 'library_name: "kdlib"' in header and "license:" in header
    low, high = run.interval()
    assert f"| {run.score():.3f} [{low:.3f}, {high:.3f}] |" in card
    assert f"Training images: {run.result['data']['fit']['images']}." in card
    for words in ("onnx_int8", "(32, 32)", "DINO".lower(), run.result["exposure"]["why"], "Licence"):
        assert words in card


@pytest.mark.parametrize("method", ["densenet", "mobilenet", "vit"])
def test_write__every_network_that_reads_pixels(method, tmp_path):
    torch.manual_seed(0)
    spec = StudentSpec(teacher_width=16, width=8, convnet="narrow", image_size=32)
    tower = graph.ImageTower(students.build(method, spec)).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    graph.write(tower, "image", (torch.from_numpy(pixels[:2]),), tmp_path / "image.onnx")
    made = check.File(tmp_path / "image.onnx").all(check.image_feeds(pixels, 3))
    check.agreement(method, made, check.in_torch(tower, check.image_feeds(pixels, 5)))


@pytest.mark.parametrize("side", ["bag", "transformer"])
def test_write__every_text_side_takes_texts_of_any_length_and_unknown_tokens(side, tmp_path):
    torch.manual_seed(0)
    spec = StudentSpec(teacher_width=16, width=8, heads=2, text=True, text_side=side, vocabulary=7, convnet="narrow")
    places = torch.tensor([1, 2, 3, 1, 4, 5, 6, 1, 1], dtype=torch.int16)
    tower = graph.TextTower(students.build("resnet", spec), places).eval()
    random = np.random.default_rng(0)

    def feed(count, length):
        mask = np.arange(length) < random.integers(1, length + 1, (count, 1))
        return {"input_ids": random.integers(0, 9, (count, length)), "attention_mask": mask.astype(np.int64)}

    graph.write(tower, "text", tuple(map(torch.from_numpy, feed(2, 5).values())), tmp_path / "text.onnx")
    feeds = [feed(1, 1), feed(3, 8), feed(2, 32)]
    check.agreement(side, check.File(tmp_path / "text.onnx").all(feeds), check.in_torch(tower, feeds))


def test_int8__of_a_transformer_keeps_its_sums_and_norms_in_float(tmp_path):
    torch.manual_seed(0)
    spec = StudentSpec(teacher_width=16, width=8, heads=2, text=True, text_side="transformer", vocabulary=7)
    tower = graph.TextTower(students.build("resnet", spec), torch.arange(9, dtype=torch.int16) % 7).eval()
    ids = torch.randint(0, 9, (4, 6), generator=torch.manual_seed(1))
    graph.write(tower, "text", (ids, torch.ones_like(ids)), tmp_path / "text.onnx")
    feeds = [{"input_ids": ids.numpy(), "attention_mask": np.ones((4, 6), np.int64)}]
    quantise(tmp_path / "text.onnx", tmp_path / "int8.onnx", feeds)
    nodes = onnx.load(tmp_path / "int8.onnx").graph.node
    made_by = {name: node for node in nodes for name in node.output}
    for node in (node for node in nodes if node.op_type == "DequantizeLinear" and node.input[0] in made_by):
        source = made_by[made_by[node.input[0]].input[0]]  # of the QuantizeLinear before it
        readers = {other.op_type for other in nodes if node.output[0] in other.input}
        assert {source.op_type, *readers} & set(WEIGHTED), (source.op_type, readers)


def test_stored__scores_of_a_student_that_was_cooled_down_are_those_on_test(run, tmp_path, monkeypatch):
    """Its file holds those on dev, too."""
    path = run.run.scores_path(run.config.epochs)
    with np.load(path) as arrays:
        kept = dict(arrays)
    monkeypatch.setattr(type(run.run), "scores_path", lambda *_: tmp_path / "scores.npz")
    on_dev = {name.replace("student", "dev"): values + 9 for name, values in kept.items()}
    np.savez(tmp_path / "scores.npz", **kept, **on_dev)
    found = record.stored(run).replicates[run.headline]
    assert found == pytest.approx(kept[f"student/replicates/{run.headline}"])


def test_export__of_a_student_that_needs_its_teacher_is_refused_and_says_which_do_not(taken):
    with pytest.raises(ExportError, match=r"image features.*resnet, densenet"):
        export(choose(["dino", "projection"]))
    with pytest.raises(ExportError, match=r"text features.*text_side"):
        export(choose(["clip_coco resnet 2"]))


@pytest.mark.parametrize("spoiled", ["embeddings", "pixels"])
def test_export__leaves_nothing_where_a_file_is_not_the_student(taken, run, tmp_path, monkeypatch, spoiled):
    """A graph of other weights than the result's, and images resized another way."""
    if spoiled == "embeddings":
        write = record.graph.write

        def another(tower, side, example, path):
            with torch.no_grad():
                tower.student.trunk.conv1.weight.mul_(0.5)
                write(tower, side, example, path)
                tower.student.trunk.conv1.weight.mul_(2)

        monkeypatch.setattr(record.graph, "write", another)
    else:
        monkeypatch.setattr(Standalone, "prepare", lambda self, images: np.zeros((len(images), 3, 32, 32), np.uint8))
    before = read_json(run.run.exported_path(2))
    with pytest.raises(ExportError, match="does not compute" if spoiled == "embeddings" else "not resized"):
        export(run, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    assert read_json(run.run.exported_path(2)) == before


def test_export__does_not_write_over_a_folder_of_others(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ExportError, match="another folder"):
        export(run, tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_write__refuses_a_frozen_batch(tmp_path):
    class Frozen(torch.nn.Module):
        def forward(self, pixels):
            return pixels.float().mean(dim=(2, 3))[torch.arange(len(pixels))].reshape(2, 3)

    with pytest.raises(Exception) as caught:
        graph.write(Frozen(), "image", (torch.zeros(2, 3, 4, 4, dtype=torch.uint8),), tmp_path / "image.onnx")
    assert "batch" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_choose__takes_a_folder_a_result_or_words(run):
    path = run.run.path
    assert choose([str(path)]).run.path == path
    assert choose([str(path / "result-0002.json")]).config.epochs == 2
    assert choose(["small", "dino", "projection"]).config.epochs == 2  # of 1 and 2
    assert choose(["dino", "projection", "1 epochs"]).config.epochs == 1


def test_choose__says_what_is_meant_or_what_to_do(run, tmp_path):
    with pytest.raises(ExportError, match=r"finished runs are meant by 'dino'(.|\n)*dino_tinyimagenet resnet"):
        choose(["dino"])
    with pytest.raises(ExportError, match="No finished run"):
        choose(["beit"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no finished run"):
        choose([str(tmp_path / "empty")])


def test_choose__the_commands_that_readme_and_help_name_mean_one_run_each():
    told = (project_root() / "README.md").read_text() + cli.export.__doc__
    commands = [shlex.split(found)[2:] for found in re.findall(r"kdlib export (?:mini|standalone) [^`\n]*", told)]
    assert {words[0] for words in commands} == {"mini", "standalone"}
    for words in commands:
        specs = study.experiments(study.load(study.studies_folder() / f"{words[0]}.yaml"))
        names = {spec.chain: folder._name(SimpleNamespace(config=spec.config)) for spec in specs}
        meant = [name for name in names.values() if all(word in name for word in words if not word.startswith("--"))]
        assert len(meant) == 1, (words, meant)


def test_from_pretrained__says_what_is_wrong_with_a_folder(taken, tmp_path):
    shutil.copytree(taken, tmp_path / "copy")
    (tmp_path / "copy" / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ExportError, match="kdlib export"):
        Standalone.from_pretrained(tmp_path / "copy")
    assert finished.studies() == ["small"] and runs_root().exists()
