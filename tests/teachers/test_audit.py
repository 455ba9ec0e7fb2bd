"""A teacher that cannot be right is refused with the reason, be it a checkpoint or a network of the user's own."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from kdlib import teachers
from kdlib.config import RunConfig
from kdlib.teachers import Teacher, TeacherError


class Small(nn.Module):
    """A convolution with batch norm; 32 pixels to a map of 4 x 4."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.unused = nn.Conv2d(3, 8, 8, stride=8), nn.BatchNorm2d(8), nn.Linear(2, 2)

    def forward(self, pixels):
        return self.norm(self.conv(pixels)).flatten(2).transpose(1, 2)  # (B, 16, 8)


class Own(Teacher):
    image_size, grid = 32, (4, 4)

    @classmethod
    def load(cls, folder):
        model = Small()
        return model, model.load_state_dict(load_file(folder / "weights.safetensors"), strict=False).missing_keys

    def prepare(self, images):
        square = [np.array(image.resize((32, 32))) for image in images]
        return torch.stack([torch.from_numpy(image).permute(2, 0, 1) / 255 for image in square])

    def forward_image(self, pixels):
        tokens = self.model(pixels)
        return {"pooled": tokens.mean(dim=1), "tokens": tokens, "attention": tokens.square().sum(dim=2)}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """``own("conv.bias", grid=(7, 7))``: Own without some weights, with some attributes replaced."""
    torch.manual_seed(0)

    def make(*gone: str, **attributes) -> Teacher:
        state = {name: value for name, value in Small().state_dict().items() if name not in gone}
        save_file(state, tmp_path / "weights.safetensors")
        monkeypatch.setitem(teachers.TEACHERS, "own", type("Changed", (Own,), attributes))
        return teachers.load(RunConfig(teacher="own", dataset="coco", checkpoint=str(tmp_path)))

    return make


def change(path, **fields) -> None:
    """Replace fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")


def rename_weights(folder, names) -> None:
    """Rename weights by ``names`` (None: leave it out)."""
    state = load_file(folder / "model.safetensors")
    kept = {names(name): value for name, value in state.items() if names(name)}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def replaced(**parts):
    """A forward pass that replaces some outputs."""
    return lambda self, pixels: {n: parts.get(n, lambda v: v)(v) for n, v in Own.forward_image(self, pixels).items()}


def test_own__is_counted_without_what_its_outputs_do_not_use(own):
    teacher = own("unused.bias")
    used = [p.numel() for name, p in Small().named_parameters() if "unused" not in name]
    assert (teacher.untrained, teacher.width, teacher.parameters["image"]) == ([], 8, sum(used))
    assert 0 < teacher.audited["largest_pixel"] <= 10  # the result keeps what the audit measured


def test_own__missing_weights_and_buffers_are_named_first_whatever_else_is_wrong(own):
    gone = ("conv.bias", "norm.running_var", "unused.bias")
    for attributes in ({}, {"forward_image": replaced(attention=lambda values: -values)}):
        with pytest.raises(TeacherError, match=r"2 weights .*: conv.bias, norm.running_var\."):
            own(*gone, **attributes)
    with pytest.raises(TeacherError, match=r"3 weights .*: conv.bias, .* unused.bias\..*ZeroDivisionError"):
        own(*gone, forward_image=lambda self, pixels: 1 / 0)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"forward_image": lambda self, pixels: {}}, "it fails with"),
        ({"forward_image": replaced(attention=lambda values: -values)}, "attention is negative or all zero"),
        ({"forward_image": replaced(pooled=lambda values: values / 0)}, "image pooled has NaN or infinity"),
        ({"forward_image": replaced(pooled=lambda values: values * 0 + 1)}, "one answer to two images"),
        ({"forward_image": replaced(pooled=lambda values: values * 0)}, "one answer to two images"),
        ({"forward_image": replaced(tokens=lambda values: values[..., :4])}, r"is \(2, 16, 4\), not \(2, 16, 8\)"),
        ({"grid": (7, 7)}, r"not \(2, 49, 8\) \(grid \(7, 7\)\)"),
        ({"image_size": 40}, r"preprocessing makes .*\(1, 3, 32, 32\).*, not \(1, 3, 40, 40\)"),
        ({"prepare": lambda self, images: 1 / 0}, "ZeroDivisionError"),
        ({"prepare": lambda self, images: 255 * Own.prepare(self, images)}, "values up to 255 of black, grey"),
    ],
)  # fmt: skip
def test_own__outputs_that_cannot_be_right_are_refused(own, attributes, words):
    with pytest.raises(TeacherError, match=words):
        own(**attributes)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"do_rescale": False}, r"values up to 509 of .* correct do_rescale"),
        ({"do_center_crop": False}, r"\(1, 3, 64, 128\).* of a wide, a tall and a square image, .* set both sides"),
    ],
)
def test_audit__refuses_preprocessing_that_keeps_the_ratio_or_does_not_standardise(copy, changed, words):
    config, folder = copy("clip")
    change(folder / "preprocessor_config.json", **changed)
    with pytest.raises(TeacherError, match=words):
        teachers.load(config)


@pytest.mark.parametrize("family", ["clip", "blip"])
def test_load__pads_on_the_right_whatever_the_tokenizer_says(copy, family):
    config, folder = copy(family)
    change(folder / "tokenizer_config.json", padding_side="left", truncation_side="left")
    texts, plain = ["a red circle", "one star on a plain background, the first of them"], {"checkpoint": "toy"}
    found = [teachers.load(each).encode_texts(texts)["pooled"] for each in (config, config.model_copy(update=plain))]
    assert torch.equal(*found)


def test_audit__refuses_a_text_that_changes_beside_a_longer_one(copy, monkeypatch):
    tokenise = teachers.TEACHERS["clip"].tokenise
    flipped = lambda self, texts: {name: values.flip(1) for name, values in tokenise(self, texts).items()}  # noqa: E731
    monkeypatch.setattr(teachers.TEACHERS["clip"], "tokenise", flipped)
    with pytest.raises(TeacherError, match="a text changes beside a longer one; the tokenizer must pad right"):
        teachers.load(copy("clip")[0])


@pytest.mark.parametrize(
    ("family", "part"), [("blip", "vision_proj"), ("beit", "pooler.layernorm"), ("clip", "logit_scale")]
)
def test_audit__names_exactly_what_is_missing(copy, family, part):
    config, folder = copy(family)
    gone = sorted(name for name in load_file(folder / "model.safetensors") if name.startswith(part))
    rename_weights(folder, lambda name: None if name in gone else name)
    with pytest.raises(TeacherError, match=rf"{len(gone)} weights .*: {', '.join(gone)}\."):
        teachers.load(config)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_load__names_a_prefix_that_training_left_in_the_weights(copy, prefix):
    config, folder = copy("dino")
    rename_weights(folder, lambda name: f"{prefix}{name}")
    with pytest.raises(TeacherError, match=rf"begin with '{prefix}', as DataParallel .* Save the model inside"):
        teachers.load(config)
