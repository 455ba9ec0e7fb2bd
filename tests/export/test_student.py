"""An exported student as it is loaded, its graphs, and its way to the model hub and back."""

import shutil
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image, ImageOps

from kdlib import RunConfig
from kdlib.export import ExportedStudent
from kdlib.export.graph import WEIGHTED, quantise, session, write


def photo(width: int = 70, height: int = 41) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


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
    small, large = ((clip.folder / f"image{end}.onnx").stat().st_size for end in (".int8", ""))
    assert small * 3.7 <= large


def test_int8__of_a_transformer_keeps_its_sums_and_norms_in_float(clip):
    nodes = onnx.load(clip.folder / "text.int8.onnx").graph.node
    made_by = {name: node for node in nodes for name in node.output}
    found = [node for node in nodes if node.op_type == "DequantizeLinear" and node.input[0] in made_by]
    for node in found:
        source = made_by[made_by[node.input[0]].input[0]]  # of the QuantizeLinear before it
        readers = {other.op_type for other in nodes if node.output[0] in other.input}
        assert {source.op_type, *readers} & set(WEIGHTED), (source.op_type, readers)
    assert found and {"LayerNormalization", "Softmax"} <= {node.op_type for node in nodes}


def test_write__mobilenet_of_full_size_and_its_int8(tmp_path):
    torch.manual_seed(0)
    config = RunConfig(teacher="dino", dataset="tinyimagenet", method="mobilenet", convnet="full", image_size=32)
    student = ExportedStudent(config.training(), {"teacher_width": 16, "grid": [4, 4]}).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 3, 32, 32), dtype=np.uint8)
    paths = tmp_path / "image.onnx", tmp_path / "image.int8.onnx"
    write(student, "image", {"pixels": pixels[:2]}, paths[0])
    made = torch.from_numpy(session(paths[0])({"pixels": pixels}))
    assert torch.cosine_similarity(made, student.run({"pixels": pixels})).min() >= 0.9999
    quantise(*paths, iter([{"pixels": pixels}]))
    assert paths[1].stat().st_size * 3.7 <= paths[0].stat().st_size


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_save_pretrained__takes_graphs_and_card_along_with_their_own_weights_only(clip, tmp_path):
    clip.student.save_pretrained(tmp_path / "copy")
    assert names(tmp_path / "copy") == names(clip.folder)
    assert (tmp_path / "copy" / "README.md").read_bytes() == (clip.folder / "README.md").read_bytes()
    other = ExportedStudent.from_pretrained(tmp_path / "copy")
    with torch.no_grad():
        other.student.image.fc.weight.mul_(2)
    other.save_pretrained(tmp_path / "further")
    assert names(tmp_path / "further") == {"model.safetensors", "config.json", "tokenizer.json", "README.md"}
    assert "mean_recall" not in (tmp_path / "further" / "README.md").read_text(encoding="utf-8")


def test_push_to_hub__uploads_the_folder_and_from_pretrained_downloads_no_graph(clip, tmp_path, monkeypatch):
    hub, cache = tmp_path / "hub", tmp_path / "cache"

    def download(model_id, allow_patterns, revision, **_):
        assert (model_id, revision) == ("owner/student", "main")
        cache.mkdir()
        return [shutil.copy(path, cache) for some in allow_patterns for path in hub.glob(some)] and cache

    api = "huggingface_hub.hub_mixin.HfApi"
    monkeypatch.setattr(f"{api}.create_repo", lambda self, repo_id, **_: SimpleNamespace(repo_id=repo_id))
    monkeypatch.setattr(f"{api}.upload_folder", lambda self, folder_path, **_: shutil.copytree(folder_path, hub))
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", lambda **_: hub / "config.json")
    monkeypatch.setattr("kdlib.export.student.snapshot_download", download)
    clip.student.push_to_hub("owner/student")
    assert names(hub) == names(clip.folder)
    student = ExportedStudent.from_pretrained("owner/student", revision="main")
    assert not list(cache.glob("*.onnx"))
    made, own = (one.encode_texts(["a red circle"]) for one in (student, clip.student))
    torch.testing.assert_close(made, own, rtol=0, atol=0)


def test_from_pretrained__says_what_is_wrong_with_a_folder(clip, tmp_path):
    shutil.copytree(clip.folder, tmp_path / "copy")
    (tmp_path / "copy" / "config.json").write_text('{"model_type": "vit"}', encoding="utf-8")
    with pytest.raises(ValueError, match="kdlib export"):
        ExportedStudent.from_pretrained(tmp_path / "copy")
