"""The families that people use today, on small checkpoints with random weights that save_pretrained wrote."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    BitImageProcessor,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    ViTImageProcessor,
)

from kdlib import teachers
from kdlib.teachers import TeacherError

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
TEXTS = ["A red circle", "two dogs on the beach, and a cat"]


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (80, 60, 3), dtype=np.uint8), rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)]


def gemma_tokenizer(folder) -> None:
    """Byte pairs with <pad> 0, <eos> 1, <bos> 2, spaces as in Gemma, an <eos> at the end: as SigLIP 2's, but small."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = [*special, "▁", ",", *letters, "re", "red", "ca", "cat"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [("r", "e"), ("re", "d"), ("c", "a"), ("ca", "t")]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    )
    made.save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    # As published: the class is Gemma's, and the model's own class would ask for sentencepiece.
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "GemmaTokenizer"}))


def dinov2(folder):
    Dinov2Model(Dinov2Config(**SIZES, image_size=70, patch_size=14, mlp_ratio=2)).save_pretrained(folder)
    crop = {"height": 56, "width": 56}
    BitImageProcessor(size={"shortest_edge": 64}, crop_size=crop).save_pretrained(folder)


def registers(folder):
    config = Dinov2WithRegistersConfig(**SIZES, image_size=70, patch_size=14, mlp_ratio=2, num_register_tokens=3)
    Dinov2WithRegistersModel(config).save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56}).save_pretrained(folder)


def dinov3(folder):
    config = DINOv3ViTConfig(**SIZES, intermediate_size=64, image_size=64, patch_size=16, num_register_tokens=4)
    DINOv3ViTModel(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)


def siglip2(folder):
    text = SIZES | {"intermediate_size": 64, "vocab_size": 40, "max_position_embeddings": 32, "projection_size": 32}
    vision = SIZES | {"intermediate_size": 64, "image_size": 48, "patch_size": 8}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    with torch.no_grad():
        model.logit_scale.fill_(float(np.log(112.0)))
        model.logit_bias.fill_(-16.5)
    model.save_pretrained(folder)
    size = {"height": 48, "width": 48}
    SiglipImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
    gemma_tokenizer(folder)


MADE = {
    "dinov2": ("dinov2", dinov2, 16, 0),
    "registers": ("dinov2", registers, 16, 3),
    "dinov3": ("dinov3", dinov3, 16, 4),
    "siglip2": ("siglip2", siglip2, 36, 0),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """``made("dinov3")``: the folder of a small checkpoint, written once."""
    root = tmp_path_factory.mktemp("families")

    def make(name: str):
        folder = root / name
        if not folder.exists():
            torch.manual_seed(0)
            folder.mkdir()
            MADE[name][1](folder)
        return folder

    return make


@pytest.mark.parametrize("name", list(MADE))
def test_family__every_patch_is_a_token_and_no_register_is(made, images, name):
    family, _, tokens, _ = MADE[name]
    teacher = teachers.load(family, str(made(name)))
    out = teacher.encode_images(images)
    assert teacher.grid[0] * teacher.grid[1] == tokens and teacher.untrained == []
    assert out["pooled"].shape == (2, 32) and out["tokens"].shape == (2, tokens, 32)
    assert torch.allclose(out["attention"].sum(dim=1), torch.ones(2))
    again = teachers.load(family, str(made(name))).encode_images(images)
    assert all(torch.equal(out[part], again[part]) for part in out)


@pytest.mark.parametrize("name", ["dinov2", "registers", "dinov3"])
def test_family__gives_transformers_own_outputs_without_the_registers(made, images, name):
    family, _, tokens, registers = MADE[name]
    teacher = teachers.load(family, str(made(name)))
    classes = {"dinov2": Dinov2Model, "registers": Dinov2WithRegistersModel, "dinov3": DINOv3ViTModel}
    plain = classes[name].from_pretrained(made(name), attn_implementation="eager").eval()
    with torch.no_grad():
        expected = plain(teacher.prepare(images), output_attentions=True)
    out = teacher.encode_images(images)
    assert expected.last_hidden_state.shape[1] == 1 + registers + tokens
    assert torch.allclose(out["pooled"], expected.pooler_output, atol=1e-5)
    assert torch.allclose(out["tokens"], expected.last_hidden_state[:, 1 + registers :], atol=1e-5)
    looked = expected.attentions[-1].mean(dim=1)[:, 0, 1 + registers :]
    assert torch.allclose(out["attention"], looked / looked.sum(dim=1, keepdim=True), atol=1e-5)


def test_siglip2__is_transformers_own_logits_with_scale_and_bias(made, images):
    teacher = teachers.load("siglip2", str(made("siglip2")))
    assert teacher.logit_scale == pytest.approx(112.0)
    plain = SiglipModel.from_pretrained(made("siglip2")).eval()
    ids = teacher.tokenize(TEXTS)["input_ids"]
    with torch.no_grad():
        expected = plain(pixel_values=teacher.prepare(images), input_ids=ids).logits_per_image
    seen, read = (
        torch.nn.functional.normalize(part, dim=-1)
        for part in (teacher.encode_images(images)["pooled"], teacher.encode_texts(TEXTS)["pooled"])
    )
    assert torch.allclose(teacher.logit_scale * seen @ read.T - 16.5, expected, atol=1e-3)


def test_siglip2__reads_lower_case_filled_up_to_the_right(made):
    teacher = teachers.load("siglip2", str(made("siglip2")))
    read = teacher.tokenize(TEXTS)
    assert read["input_ids"].shape == (2, 32) and (read["input_ids"][0, -5:] == 0).all()
    assert read["input_ids"][0, : int(read["attention_mask"][0].sum())][-1] == 1, "its text ends with <eos>"
    same = teacher.encode_texts(["A RED Circle", "a red circle"])
    assert torch.equal(same["pooled"][0], same["pooled"][1])
    out = teacher.encode_texts(TEXTS)
    assert torch.allclose(out["attention"].sum(dim=1), torch.ones(2))
    assert (out["attention"][out["mask"] == 0] == 0).all()
    alone = teacher.encode_texts(TEXTS[:1])
    assert torch.allclose(alone["pooled"][0], out["pooled"][0], atol=1e-5)


def test_siglip2__a_token_alone_through_the_head_is_what_the_head_makes_of_it(made, images):
    teacher = teachers.load("siglip2", str(made("siglip2")))
    with torch.no_grad():
        hidden = teacher.model.vision_model(teacher.prepare(images)).last_hidden_state
        alone = teacher.model.vision_model.head(hidden[:, 7:8])
    assert torch.allclose(teacher.encode_images(images)["tokens"][:, 7], alone, atol=1e-5)


def test_siglip2__needs_its_tokenizer_its_scale_and_its_bias(made, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(made("siglip2"), tmp_path / "biasless")
    path = tmp_path / "biasless" / "model.safetensors"
    save_file({name: value for name, value in load_file(path).items() if name != "logit_bias"}, path, {"format": "pt"})
    with pytest.raises(TeacherError, match=r"1 weights .*: logit_bias\."):
        teachers.load("siglip2", str(tmp_path / "biasless"))
    shutil.copytree(made("siglip2"), tmp_path / "wordless")
    (tmp_path / "wordless" / "tokenizer.json").unlink()
    with pytest.raises(TeacherError, match=r"has no tokenizer: it needs tokenizer.json"):
        teachers.load("siglip2", str(tmp_path / "wordless"))


def test_clip__in_open_clips_hub_layout_loads_what_transformers_reads(tmp_path):
    """laion's repositories hold the weights twice; of model.safetensors beside open_clip_model.safetensors."""
    import shutil

    shutil.copytree(teachers.resolve("clip", "stand-in"), tmp_path / "laion")
    (tmp_path / "laion" / "open_clip_model.safetensors").write_bytes(b"in open_clip's own layout")
    (tmp_path / "laion" / "open_clip_config.json").write_text('{"model_cfg": {}}')
    assert teachers.load("clip", str(tmp_path / "laion")).untrained == []
    shutil.copytree(tmp_path / "laion", tmp_path / "alone")
    (tmp_path / "alone" / "model.safetensors").unlink()
    with pytest.raises(TeacherError, match=r"SafetensorError|model\.safetensors"):
        teachers.load("clip", str(tmp_path / "alone"))


@pytest.mark.parametrize("family", ["dinov2", "dinov3", "siglip2"])
def test_family__has_no_stand_in_and_says_so(family):
    with pytest.raises(TeacherError, match=f"{family} has no stand-in"):
        teachers.load(family)
