"""The four families, on small checkpoints in the official formats, against transformers' own outputs."""

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import BlipForConditionalGeneration, BlipForImageTextRetrieval, BlipModel

from kdlib import teachers
from kdlib.teachers import STANDIN, TeacherError, resolve
from kdlib.teachers.standins.__main__ import RECIPES, build, processor, scores, tokenizer

TEXTS = ["a picture of a red circle", "one star on a plain background, the first of them in the top left"]


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (80, 60, 3), dtype=np.uint8), rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)]


@pytest.fixture(params=["dino", "beit", "clip", "blip"])
def teacher(request):
    return teachers.load(request.param)


def test_load__outputs_have_the_promised_shapes(teacher, images):
    rows, columns = teacher.grid
    out = teacher.encode_images(images)
    assert out["pooled"].shape == (2, 128)
    assert out["tokens"].shape == (2, rows * columns, 128)
    assert out["attention"].shape == (2, rows * columns)
    if teacher.has_text:
        out = teacher.encode_texts(TEXTS)
        length = int(out["mask"].sum(dim=1).max())
        assert out["pooled"].shape == (2, 128)
        assert out["tokens"].shape == (2, length, 128)
        assert out["attention"].shape == out["mask"].shape == (2, length)


def test_attention__sums_to_one_over_the_other_tokens(teacher, images):
    assert torch.allclose(teacher.encode_images(images)["attention"].sum(dim=1), torch.ones(2))
    if teacher.has_text:
        out = teacher.encode_texts(TEXTS)
        assert torch.allclose(out["attention"].sum(dim=1), torch.ones(2))
        assert (out["attention"][out["mask"] == 0] == 0).all()
        pooled = out["mask"].sum(dim=1).long() - 1 if teacher.family == "clip" else torch.zeros(2, dtype=torch.long)
        assert (out["attention"][torch.arange(2), pooled] == 0).all()


def test_encode_texts__padding_changes_nothing(images):
    for family in ("clip", "blip"):
        teacher = teachers.load(family)
        alone, together = teacher.encode_texts(TEXTS[:1]), teacher.encode_texts(TEXTS)
        length = alone["tokens"].shape[1]
        assert torch.allclose(alone["pooled"][0], together["pooled"][0], atol=1e-5)
        assert torch.allclose(alone["tokens"][0], together["tokens"][0, :length], atol=1e-5)


def test_teacher__is_frozen_and_in_eval_mode(teacher):
    assert not teacher.model.training
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())


def test_clip__is_transformers_own_embedding_and_scale(images):
    teacher = teachers.load("clip")
    pixels = teacher.preprocess(images, return_tensors="pt")["pixel_values"]
    tokens = teacher.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = teacher.model(pixel_values=pixels, **tokens)
    seen, read = teacher.encode_images(images)["pooled"], teacher.encode_texts(TEXTS)["pooled"]
    logits = teacher.logit_scale * F.normalize(seen, dim=-1) @ F.normalize(read, dim=-1).T
    assert torch.allclose(logits, output.logits_per_image, atol=1e-4)


def test_blip__is_transformers_own_itc_score(images):
    teacher = teachers.load("blip")
    pixels = teacher.preprocess(images, return_tensors="pt")["pixel_values"]
    tokens = teacher.tokenizer(TEXTS, padding=True, return_tensors="pt")
    ids = {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
    with torch.no_grad():
        expected = teacher.model(pixel_values=pixels, use_itm_head=False, **ids).itm_score
    seen, read = teacher.encode_images(images)["pooled"], teacher.encode_texts(TEXTS)["pooled"]
    assert torch.allclose(F.normalize(seen, dim=-1) @ F.normalize(read, dim=-1).T, expected, atol=1e-5)


@pytest.mark.parametrize("untrained_heads", [False, True])
def test_blip__looks_where_its_last_layer_does_and_keeps_the_maps_of_no_other(images, untrained_heads):
    """At full size the maps of all layers take 12 GB for a batch."""
    teacher = teachers.load("blip", untrained_heads=untrained_heads)
    vision, pixels = teacher.model.vision_model, teacher.prepare(images)
    asked = []
    vision.encoder.register_forward_pre_hook(lambda *given: asked.append(given[-1]), with_kwargs=True)
    with torch.inference_mode():
        found = teacher.look(pixels)["attention"]
        assert not any(given.get("output_attentions") for given in asked)
        maps = vision(pixels, output_attentions=True).attentions[-1].mean(dim=1)[:, 0, 1:]
    assert torch.equal(found, maps / maps.sum(dim=-1, keepdim=True))


def test_dino__is_the_class_token_after_the_last_norm(images):
    teacher = teachers.load("dino")
    pixels = teacher.preprocess(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        hidden = teacher.model(pixels).last_hidden_state
    assert torch.allclose(teacher.encode_images(images)["pooled"], hidden[:, 0], atol=1e-5)


def test_beit__is_the_mean_of_the_patches_through_the_last_norm(images):
    teacher = teachers.load("beit")
    pixels = teacher.preprocess(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = teacher.model(pixels).pooler_output
    assert torch.allclose(teacher.encode_images(images)["pooled"], expected, atol=1e-5)


# ---------------------------------------------------------------- the audit


@pytest.fixture(scope="module")
def blip_parts():
    words = tokenizer("blip", [TEXTS])
    model = build("blip", RECIPES["blip"], words)
    return model.config, words, processor("blip")


def saved(folder, model, words, prepare):
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    prepare.save_pretrained(folder)
    return str(folder)


def test_audit__refuses_a_captioning_checkpoint_as_a_contrastive_teacher(tmp_path, blip_parts):
    config, words, prepare = blip_parts
    folder = saved(tmp_path / "captioner", BlipForConditionalGeneration(config), words, prepare)
    with pytest.raises(TeacherError) as caught:
        teachers.load("blip", folder)
    message = str(caught.value)
    assert "text_proj" in message or "text_encoder" in message
    assert "written by BlipForConditionalGeneration" in message
    assert "BlipForImageTextRetrieval" in message and "allow_untrained" in message


def test_audit__names_exactly_what_is_missing(tmp_path, blip_parts):
    config, words, prepare = blip_parts
    folder = saved(tmp_path / "headless", BlipForImageTextRetrieval(config), words, prepare)
    from safetensors.torch import load_file, save_file

    path = tmp_path / "headless" / "model.safetensors"
    state = {name: value for name, value in load_file(path).items() if not name.startswith("vision_proj")}
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(TeacherError, match=r"2 weights .*: vision_proj.bias, vision_proj.weight\."):
        teachers.load("blip", folder)


def test_audit__allowed_by_name_it_says_which_weights_are_untrained(tmp_path, blip_parts):
    config, words, prepare = blip_parts
    folder = saved(tmp_path / "blip_model", BlipModel(config), words, prepare)
    teacher = teachers.load("blip", folder, allow_untrained=True)
    assert {"text_proj.weight", "vision_proj.weight"} <= set(teacher.untrained)


def test_audit__accepts_what_its_outputs_do_not_use(blip_parts):
    """The BLIP stand-in has no cross-attention and no ITM head: the ITC space needs neither."""
    teacher = teachers.load("blip")
    assert teacher.untrained == []
    itm = sum(p.numel() for name, p in teacher.model.named_parameters() if "crossattention" in name or "itm" in name)
    everything = sum(p.numel() for p in teacher.model.parameters())
    assert 0 < teacher.image_parameters + teacher.text_parameters <= everything - itm


def test_audit__beit_without_its_final_norm_is_refused(tmp_path):
    folder = tmp_path / "beit"
    shutil.copytree(resolve("beit", STANDIN), folder)
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in state.items() if "pooler" not in k}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(TeacherError, match=r"pooler\.layernorm"):
        teachers.load("beit", str(folder))


# ---------------------------------------------------------------- stand-ins


@pytest.mark.parametrize("family", ["dino", "beit", "clip", "blip"])
def test_standin__is_small_and_says_how_it_was_made_and_what_it_scores(family):
    folder = resolve(family, STANDIN)
    assert (folder / "model.safetensors").stat().st_size < 2.7e6
    recipe = json.loads((folder / "recipe.json").read_text())
    recorded = recipe["scores on the study's test split"]
    score, chance = (recorded["mean_recall"], 0.02) if "mean_recall" in recorded else (recorded["knn@20_top1"], 0.05)
    assert 3 * chance < score < 0.95
    assert recipe["minutes"] > 0 and recipe["recipe"]["epochs"] == RECIPES[family]["epochs"]


def test_standin_of_blip__starts_from_weights_that_can_learn():
    """transformers' default draws BLIP's vision tower with a deviation of 1e-10, for weights that are loaded."""
    torch.manual_seed(0)
    model = build("blip", RECIPES["blip"], tokenizer("blip", [["a red disc"] * 5]))
    deviations = {name: value.std().item() for name, value in model.named_parameters() if value.ndim > 1}
    assert deviations == {name: pytest.approx(128**-0.5, rel=0.2) for name in deviations}


@pytest.fixture(scope="module")
def embedded_data(tmp_path_factory):
    """The study's own data, drawn once for the tests that score a stand-in on it."""
    return tmp_path_factory.mktemp("embedded")


@pytest.mark.parametrize("family", ["dino", "beit", "clip", "blip"])
def test_standin__scores_what_its_recipe_says(family, embedded_data, monkeypatch):
    monkeypatch.setenv("KDLIB_RUNS", str(embedded_data))
    folder = resolve(family, STANDIN)
    recorded = json.loads((folder / "recipe.json").read_text())["scores on the study's test split"]
    headline = "mean_recall" if "mean_recall" in recorded else "knn@20_top1"
    assert scores(family, folder)[headline] == pytest.approx(recorded[headline], abs=0.01)


def test_vit_of_real_images__loads_as_a_dino_teacher(shared, images):
    teacher = teachers.load("dino", str(shared / "models" / "vit-tinyimagenet"))
    assert teacher.untrained == [] and teacher.encode_images(images)["pooled"].shape == (2, 192)


def test_untrained_heads__are_blip_as_the_study_probably_had_it():
    """The vision encoder is the checkpoint's; text encoder and projections are random, the same ones each time."""
    teacher = teachers.load("blip", untrained_heads=True)
    trained = BlipForImageTextRetrieval.from_pretrained(resolve("blip", STANDIN))
    vision = dict(trained.vision_model.named_parameters())
    assert all(torch.equal(value, vision[name]) for name, value in teacher.model.vision_model.named_parameters())
    assert "visual_projection.weight" in teacher.untrained and "text_projection.weight" in teacher.untrained
    assert any(name.startswith("text_model.") for name in teacher.untrained)
    again = teachers.load("blip", untrained_heads=True)
    assert torch.equal(teacher.model.text_projection.weight, again.model.text_projection.weight)


def test_untrained_heads__gives_what_blipmodel_gives(images):
    """transformers' own get_image_features and get_text_features, as wide as the configuration's projection."""
    teacher = teachers.load("blip", untrained_heads=True)
    pixels = teacher.preprocess(images, return_tensors="pt")["pixel_values"]
    tokens = teacher.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        image = teacher.model.get_image_features(pixel_values=pixels).pooler_output
        text = teacher.model.get_text_features(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        ).pooler_output
    assert image.shape[1] == teacher.model.config.projection_dim
    assert torch.allclose(teacher.encode_images(images)["pooled"], image, atol=1e-5)
    assert torch.allclose(teacher.encode_texts(TEXTS)["pooled"], text, atol=1e-5)


@pytest.mark.parametrize("family", ["dino", "beit", "clip"])
def test_untrained_heads__is_refused_for_other_families(family):
    with pytest.raises(TeacherError, match=rf"variant of blip; {family}"):
        teachers.load(family, untrained_heads=True)
