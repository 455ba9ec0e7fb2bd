"""Each family's outputs against transformers' own, on the toy teachers and on small random checkpoints."""

import json
import shutil
from pathlib import Path

import numpy as np
import papermill
import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from PIL import Image

from kdlib import teachers
from kdlib.config import RunConfig
from kdlib.teachers.checkpoint import TeacherError
from kdlib.utils import project_root

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
TEXTS = ["a picture of a red circle", "one star on a plain background, the first of them in the top left"]
RECIPE = project_root() / "notebooks/toy_teachers.ipynb"
TOY = ("dino", "beit", "clip", "blip")
RANDOM = {"dinov2": "dinov2", "registers": "dinov2", "dinov3": "dinov3", "siglip2": "siglip2"}  # checkpoint -> family


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in ((80, 60), (64, 64))]


def gemma_tokenizer(folder: Path) -> None:
    """Of whole words, with <pad> 0, <eos> 1, and an <eos> at the end as SigLIP 2's."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokens = ["<pad>", "<eos>", "<unk>", "a", "picture", "of", "red", "blue", "circle", "square", "one", "star"]
    tokenizer = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFC(), pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    # As published: the class is Gemma's, and the model's own class would ask for sentencepiece.
    path.write_text(json.dumps(config | {"tokenizer_class": "GemmaTokenizer"}), encoding="utf-8")


def write(name: str, folder: Path) -> None:
    """A small checkpoint with random weights, as save_pretrained writes it."""
    torch.manual_seed(0)
    square = {"height": 56, "width": 56}
    if name == "dinov3":
        config = hf.DINOv3ViTConfig(**SIZES, intermediate_size=64, image_size=64, patch_size=16, num_register_tokens=4)
        hf.DINOv3ViTModel(config).save_pretrained(folder)
        hf.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    elif name == "siglip2":
        text = SIZES | {"intermediate_size": 64, "vocab_size": 40, "max_position_embeddings": 32, "projection_size": 32}
        vision = SIZES | {"intermediate_size": 64, "image_size": 48, "patch_size": 8}
        model = hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=vision))
        with torch.no_grad():
            model.logit_scale.fill_(float(np.log(112.0)))
            model.logit_bias.fill_(-16.5)
        model.save_pretrained(folder)
        hf.SiglipImageProcessor(size={"height": 48, "width": 48}, image_mean=[0.5] * 3).save_pretrained(folder)
        gemma_tokenizer(folder)
    else:
        sizes = SIZES | {"image_size": 70, "patch_size": 14, "mlp_ratio": 2}
        kind = "Dinov2WithRegisters" if name == "registers" else "Dinov2"
        config = getattr(hf, f"{kind}Config")(**sizes, **({"num_register_tokens": 3} if name == "registers" else {}))
        getattr(hf, f"{kind}Model")(config).save_pretrained(folder)
        hf.BitImageProcessor(size={"shortest_edge": 64}, crop_size=square).save_pretrained(folder)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """``load("dinov3")``: the teacher of a toy or of a small random checkpoint, loaded once."""
    root, loaded = tmp_path_factory.mktemp("families"), {}

    def make(name: str, **fields):
        if name in RANDOM:
            if not (root / name).is_dir():
                write(name, root / name)
            fields |= {"checkpoint": str(root / name)}
        config = RunConfig(teacher=RANDOM.get(name, name), dataset="coco", **fields)
        key = config.model_dump_json()
        loaded[key] = loaded.get(key) or teachers.load(config)
        return loaded[key]

    return make


@pytest.mark.parametrize("name", [*TOY, *RANDOM])
def test_outputs__have_a_row_an_input_and_attention_that_sums_to_one(load, images, name):
    teacher = load(name)
    rows, columns = teacher.grid
    image = teacher.encode_images(images)
    assert image["pooled"].shape == (2, teacher.width) and teacher.untrained == []
    assert image["tokens"].shape == (2, rows * columns, teacher.width)
    assert image["attention"].shape == (2, rows * columns)
    assert torch.allclose(image["attention"].sum(dim=1), torch.ones(2))
    assert not teacher.model.training and not any(weight.requires_grad for weight in teacher.model.parameters())
    if not teacher.has_text:
        return
    text = teacher.encode_texts(TEXTS)
    mask = teacher.tokenise(TEXTS)["attention_mask"]
    length = mask.shape[1]
    assert text["tokens"].shape == (2, length, teacher.width) and text["attention"].shape == (2, length)
    assert torch.allclose(text["attention"].sum(dim=1), torch.ones(2))
    assert (text["attention"][mask == 0] == 0).all()


@pytest.mark.parametrize(
    ("name", "kind", "registers"),
    [("dino", "ViT", 0), ("dinov2", "Dinov2", 0), ("registers", "Dinov2WithRegisters", 3), ("dinov3", "DINOv3ViT", 4)],
)
def test_class_token__is_transformers_own_and_no_register_is_a_token(load, images, name, kind, registers):
    teacher = load(name)
    folder = teachers.resolve(RunConfig(teacher=name, dataset="coco")) if name == "dino" else teacher.source
    plain = getattr(hf, f"{kind}Model").from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        expected = plain(teacher.prepare(images), output_attentions=True)
    found, first = teacher.encode_images(images), 1 + registers
    assert torch.allclose(found["pooled"], expected.last_hidden_state[:, 0], atol=1e-5)
    assert torch.allclose(found["tokens"], expected.last_hidden_state[:, first:], atol=1e-5)
    looked = expected.attentions[-1].mean(dim=1)[:, 0, first:]
    assert torch.allclose(found["attention"], looked / looked.sum(dim=1, keepdim=True), atol=1e-5)


def test_beit__is_the_mean_of_the_patches_through_the_last_norm(load, images):
    teacher = load("beit")
    with torch.no_grad():
        expected = teacher.model(teacher.prepare(images)).pooler_output
    assert torch.allclose(teacher.encode_images(images)["pooled"], expected, atol=1e-5)


@pytest.mark.parametrize(("name", "bias"), [("clip", 0), ("siglip2", -16.5), ("blip", 0)])
def test_joint_space__gives_transformers_own_scores(load, images, name, bias):
    teacher = load(name)
    words, own = teacher.tokenise(TEXTS), {"use_itm_head": False} if name == "blip" else {}
    own |= {} if name == "siglip2" else {"attention_mask": words["attention_mask"]}  # SigLIP reads the padding too
    with torch.no_grad():
        output = teacher.model(pixel_values=teacher.prepare(images), input_ids=words["input_ids"], **own)
    parts = (teacher.encode_images(images), teacher.encode_texts(TEXTS))
    image, text = (F.normalize(part["pooled"], dim=-1) for part in parts)
    scale, expected = (1, output.itm_score) if name == "blip" else (teacher.logit_scale, output.logits_per_image)
    assert torch.allclose(scale * image @ text.T + bias, expected, atol=1e-5 * scale)


@pytest.mark.parametrize("untrained_heads", [False, True])
def test_blip__keeps_the_attention_of_its_last_layer_alone(load, images, untrained_heads):
    """At full size the maps of all layers take 12 GB for a batch."""
    teacher = load("blip", untrained_heads=untrained_heads)
    vision, asked = teacher.model.vision_model, []
    hook = vision.encoder.register_forward_pre_hook(lambda *call: asked.append(call[-1]), with_kwargs=True)
    found = teacher.encode_images(images)["attention"]
    hook.remove()
    assert not any(options.get("output_attentions") for options in asked)
    with torch.no_grad():
        maps = vision(teacher.prepare(images), output_attentions=True).attentions[-1].mean(dim=1)[:, 0, 1:]
    assert torch.allclose(found, maps / maps.sum(dim=-1, keepdim=True), atol=1e-6)


def test_untrained_heads__are_blipmodels_with_the_checkpoints_vision_encoder(load, images):
    teacher, trained = load("blip", untrained_heads=True), load("blip")
    vision = dict(trained.model.vision_model.named_parameters())
    assert all(torch.equal(value, vision[name]) for name, value in teacher.model.vision_model.named_parameters())
    assert {"visual_projection.weight", "text_projection.weight"} <= set(teacher.untrained)
    assert any(name.startswith("text_model.") for name in teacher.untrained)
    again = teachers.load(RunConfig(teacher="blip", dataset="coco", untrained_heads=True))
    assert torch.equal(teacher.model.text_projection.weight, again.model.text_projection.weight)
    words = teacher.tokenise(TEXTS)
    ids = {"input_ids": words["input_ids"], "attention_mask": words["attention_mask"]}
    with torch.no_grad():
        image = teacher.model.get_image_features(pixel_values=teacher.prepare(images)).pooler_output
        text = teacher.model.get_text_features(**ids).pooler_output
    assert torch.allclose(teacher.encode_images(images)["pooled"], image, atol=1e-5)
    assert torch.allclose(teacher.encode_texts(TEXTS)["pooled"], text, atol=1e-5)
    with pytest.raises(TeacherError, match="variant of blip; clip"):
        load("clip", untrained_heads=True)


def test_siglip2__reads_lower_case_and_fills_up_to_the_right(load):
    teacher = load("siglip2")
    words = teacher.tokenise(["a red circle", "A RED Circle"])
    length = int(words["attention_mask"][0].sum())
    assert words["input_ids"].shape == (2, 32) and torch.equal(*words["input_ids"])
    assert words["input_ids"][0, length - 1] == 1 and (words["input_ids"][0, length:] == 0).all(), "<eos>, then <pad>"


@pytest.mark.parametrize("name", ["beit", "blip"])
def test_toy__is_trained_again_from_the_files_beside_its_weights(tmp_path, name):
    """128 images are a batch: a step an epoch."""
    shutil.copytree(teachers.resolve(RunConfig(teacher=name, dataset="coco")), tmp_path / name)
    before = (tmp_path / name / "model.safetensors").read_bytes()
    given = {"families": [name], "count": 128, "root": str(tmp_path)}
    papermill.execute_notebook(RECIPE, tmp_path / "out.ipynb", given, kernel_name="python3", progress_bar=False)
    assert (tmp_path / name / "model.safetensors").read_bytes() != before
    assert teachers.load(RunConfig(teacher=name, dataset="coco", checkpoint=str(tmp_path / name))).untrained == []
