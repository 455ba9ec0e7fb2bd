"""A teacher that cannot be right is refused, with the reason: also one of the user's own, of another library."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from kdlib import teachers
from kdlib.teachers import STANDIN, TeacherError
from kdlib.teachers.teacher import Teacher, normalised


class Small(nn.Module):
    """A convolution with batch norm; 32 pixels to a map of 4 x 4."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 8, stride=8)
        self.norm = nn.BatchNorm2d(8)
        self.unused = nn.Linear(2, 2)

    def forward(self, pixels):
        return self.norm(self.conv(pixels)).flatten(2).transpose(1, 2)  # (B, 16, 8)


class Own(Teacher):
    """As docs/add_a_teacher.md has it."""

    DEFAULT = "somebody/small"
    image_size = 32
    grid = (4, 4)

    def prepare(self, images):
        return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 for image in images])

    def look(self, pixels):
        tokens = self.model(pixels)
        return {
            "pooled": tokens.mean(dim=1),
            "tokens": tokens,
            "attention": normalised(tokens.square().sum(dim=2)),
        }

    @classmethod
    def load(cls, folder):
        model = Small()
        missing = model.load_state_dict(load_file(folder / "weights.safetensors"), strict=False).missing_keys
        return cls, model.eval(), missing, None, None


@pytest.fixture
def folder(tmp_path):
    """Weights of Small in a layout of the user's own."""
    torch.manual_seed(0)
    path = tmp_path / "small"
    path.mkdir()
    save_file(Small().state_dict(), path / "weights.safetensors")
    return path


@pytest.fixture
def load(folder, monkeypatch):
    """``load(look=...)``: Own with some attributes replaced."""

    def make(**attributes):
        kind = type("Changed", (Own,), attributes)
        monkeypatch.setitem(teachers.TEACHERS, "own", kind)
        return teachers.load("own", str(folder))

    return make


def without(folder, *names):
    state = load_file(folder / "weights.safetensors")
    save_file({name: value for name, value in state.items() if name not in names}, folder / "weights.safetensors")


def test_own__a_model_that_is_not_transformers_loads_and_is_counted(load):
    teacher = load()
    assert teacher.untrained == [] and teacher.width == 8
    assert teacher.image_parameters == sum(p.numel() for name, p in Small().named_parameters() if "unused" not in name)


def test_own__a_missing_weight_is_named(load, folder):
    without(folder, "conv.bias", "unused.bias")
    with pytest.raises(TeacherError, match=r"1 weights that its outputs use .*: conv.bias\. Take a checkpoint"):
        load()


def test_own__a_missing_buffer_that_is_used_is_named(load, folder):
    without(folder, "norm.running_mean", "norm.running_var", "norm.num_batches_tracked")
    with pytest.raises(TeacherError, match=r"2 weights .*: norm.running_mean, norm.running_var\."):
        load()


def test_own__says_that_it_must_give_its_size_and_grid(folder, monkeypatch):
    bare = type("Bare", (Teacher,), {"load": classmethod(Own.load.__func__), "look": Own.look, "prepare": Own.prepare})
    monkeypatch.setitem(teachers.TEACHERS, "own", bare)
    with pytest.raises(TeacherError, match=r"says neither image_size nor grid.*image_size = 224; grid = \(7, 7\)"):
        teachers.load("own", str(folder))


def changed(**parts):
    """A look that replaces some outputs."""

    def look(self, pixels):
        out = Own.look(self, pixels)
        replaced = out | {name: replace(out) for name, replace in parts.items()}
        return {name: value for name, value in replaced.items() if value is not None}

    return look


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"look": changed(attention=lambda out: None)}, "must give a dict with pooled, tokens and attention"),
        ({"look": lambda self, pixels: self.model(pixels)}, "and gives Tensor"),
        ({"look": changed(attention=lambda out: 2 * out["attention"])}, "sums to 2, not to 1"),
        (
            {"look": changed(attention=lambda out: out["attention"] * 3 - 2 / 16)},
            "not to 1 without a negative",
        ),
        ({"look": changed(pooled=lambda out: out["pooled"] / 0)}, "NaN or infinity in pooled"),
        ({"look": changed(pooled=lambda out: out["pooled"] * 0 + 1)}, "one answer to two different images"),
        ({"look": changed(tokens=lambda out: out["tokens"].transpose(1, 2).unflatten(2, (4, 4)))}, "tokens of shape"),
        ({"look": changed(tokens=lambda out: out["tokens"][..., :4])}, r"tokens of shape \(2, 16, 4\)"),
        ({"grid": (7, 7)}, r"not \(2, 49, 8\) \(grid is 7 x 7"),
        ({"image_size": 40}, "fails with|of shape"),
        ({"prepare": lambda self, images: torch.zeros(2, 3, 48, 48)}, r"makes \(2, 3, 48, 48\) of two images"),
        ({"prepare": lambda self, images: 1 / 0}, "prepare fails with ZeroDivisionError"),
        ({"look": lambda self, pixels: self.missing_method(pixels)}, "look fails with AttributeError"),
    ],
)
def test_audit__refuses_outputs_that_cannot_be_right(load, attributes, words):
    with pytest.raises(TeacherError, match=words):
        load(**attributes)


def test_audit__refuses_a_model_in_train_mode(load):
    def training(cls, folder):
        parts = list(Own.load.__func__(cls, folder))
        parts[1].norm.train()
        return tuple(parts)

    with pytest.raises(TeacherError, match=r"train mode \(norm\).*model.eval\(\)"):
        load(load=classmethod(training))


# ---------------------------------------------------------------- transformers' checkpoints


@pytest.fixture
def copy(tmp_path):
    """``copy("clip")``: a stand-in's folder, to be damaged."""

    def make(family: str):
        shutil.copytree(teachers.resolve(family, STANDIN), tmp_path / family)
        return tmp_path / family

    return make


def test_load__a_folder_of_another_family_is_refused_by_both_names(copy):
    with pytest.raises(TeacherError, match=r"written by CLIPModel \(model_type clip\).*ViTModel \(model_type vit\)"):
        teachers.load("dino", str(copy("clip")))


@pytest.mark.parametrize(
    ("family", "gone", "words"),
    [
        ("clip", "tokenizer.json", "has no tokenizer: it needs tokenizer.json or vocab.json with merges.txt"),
        ("blip", "tokenizer.json", "has no tokenizer"),
        ("dino", "preprocessor_config.json", "has no preprocessor_config.json"),
        ("beit", "config.json", "config.json is missing or no JSON"),
        ("dino", "model.safetensors", "holds no weights"),
    ],
)
def test_load__a_file_that_is_missing_is_named(copy, family, gone, words):
    folder = copy(family)
    (folder / gone).unlink()
    with pytest.raises(TeacherError, match=words):
        teachers.load(family, str(folder))


def test_load__weights_of_another_shape_and_a_cut_off_file_are_sentences(copy):
    folder = copy("dino")
    whole = (folder / "model.safetensors").read_bytes()
    state = load_file(folder / "model.safetensors")
    save_file(state | {"layernorm.weight": torch.ones(7)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(TeacherError, match=r"do not have the shapes.*layernorm.weight is \(7,\), not \(128,\)"):
        teachers.load("dino", str(folder))
    for cut in (0, 100, len(whole) // 2):
        (folder / "model.safetensors").write_bytes(whole[:cut])
        with pytest.raises(TeacherError, match=r"cannot be loaded as ViTModel: .*cut off"):
            teachers.load("dino", str(folder))


@pytest.mark.parametrize(("value", "words"), [(0.0, "one answer to two"), (float("nan"), "NaN or inf")])
def test_load__weights_that_are_all_zero_or_nan_are_refused(copy, value, words):
    folder = copy("dino")
    state = {name: torch.full_like(tensor, value) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(TeacherError, match=words):
        teachers.load("dino", str(folder))


def test_load__another_models_vocabulary_is_refused(copy, tmp_path):
    """BLIP's words under CLIP: every word is unknown to one of them, or its number lies outside the table."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = copy("clip")
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<end>": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<end>")
    made.save_pretrained(folder)
    with pytest.raises(TeacherError, match="one answer to two different texts"):
        teachers.load("clip", str(folder))
