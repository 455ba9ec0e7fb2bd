"""What a configuration loads and what identifies it: own families, folders, pickles, and code that is never run."""

import io
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kdlib import teachers
from kdlib.config import RunConfig
from kdlib.teachers import TeacherError

OWN = '''
"""A ResNet-18 of torchvision: its pooled feature, and its last map as tokens."""
import torch
from safetensors.torch import load_file
from torchvision.models import resnet18
from torchvision.transforms import v2
from kdlib.teachers import Teacher

class Resnet(Teacher):
    image_size, grid = 64, (2, 2)

    def load(folder):
        model = resnet18(num_classes=20)
        return model, model.load_state_dict(load_file(folder / "weights.safetensors"), strict=False).missing_keys

    def prepare(self, images):
        steps = v2.Compose([v2.ToImage(), v2.Resize((64, 64)), v2.ToDtype(torch.float32, scale=True)])
        return torch.stack([steps(image) for image in images])

    def forward_image(self, pixels):
        for name, part in self.model.named_children():
            pixels = part(pixels) if name not in ("avgpool", "fc") else pixels
        tokens = pixels.flatten(2).transpose(1, 2)  # (B, N, T)
        return {"pooled": tokens.mean(dim=1), "tokens": tokens, "attention": tokens.square().sum(dim=2)}
'''


def test_own_family__of_another_library_takes_fifteen_lines(tmp_path, monkeypatch):
    from torchvision.models import resnet18

    (tmp_path / "own_resnet.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    save_file(resnet18(num_classes=20).state_dict(), (tmp_path / "weights.safetensors"))
    own = RunConfig(teacher="own_resnet:Resnet", dataset="coco", checkpoint=str(tmp_path))
    teacher, identity = teachers.load(own), teachers.describe(own)
    assert (teacher.width, teacher.grid, teacher.has_text, teacher.untrained) == (512, (2, 2), False, [])
    assert identity["code"] and "weights.safetensors" in identity["files"] and set(identity["probe"]) == {"image"}
    for name, words in {
        "own_resnet:Resnet": "own_resnet:Resnet has no toy teacher",
        "own_resnet:resnet18": r"no subclass of kdlib.teachers.Teacher",
        "dina": r"no teacher 'dina'. Did you mean dino",
        "dinov2": "dinov2 has no toy teacher",
    }.items():
        with pytest.raises(TeacherError, match=words):
            teachers.load(RunConfig(teacher=name, dataset="coco"))


def test_describe__changes_with_content_processors_and_variants_and_not_with_the_place(copy):
    (one, _), (two, folder) = copy("clip", "one"), copy("clip", "two")
    found = teachers.describe(one)
    (folder / "leakage.json").write_text("{}", encoding="utf-8")
    assert teachers.describe(two) == found == teachers.describe(one.model_copy(update={"checkpoint": "toy"}))
    assert teachers.describe(two.model_copy(update={"teacher_precision": "bfloat16"})) != found
    path = folder / "preprocessor_config.json"
    path.write_text(path.read_text(encoding="utf-8").replace("0.5", "0.4"), encoding="utf-8")
    probe = teachers.describe(two)["probe"]
    assert probe["image"] != found["probe"]["image"] and probe["text"] == found["probe"]["text"]


def test_bin__alone_gives_what_safetensors_give(copy):
    found, plain = (teachers.load(copy("dino", str(pickled), pickled)[0]).model for pickled in (True, False))
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in plain.state_dict().items())


class Hostile:
    """Unpickled, it runs a command."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("zipped", [False, True])
def test_bin__a_hostile_pickle_is_refused_by_name_and_does_not_run(copy, tmp_path, zipped):
    config, folder = copy("dino", pickled=True)
    content = {"weight": torch.zeros(2), "other": Hostile(tmp_path / "ran")}
    torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(TeacherError, match=r"would run (posix|nt)\.system, and it was not read") as caught:
        teachers.load(config)
    assert "weights_only" not in str(caught.value), "torch's own advice is to trust it"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "tokenizer_config.json"])
def test_auto_map__its_code_is_never_run_whatever_is_answered(copy, tmp_path, monkeypatch, file):
    config, folder = copy("clip")
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: ...\n", encoding="utf-8")
    classes = {"AutoConfig": "own.Own", "AutoModel": "own.Own", "AutoImageProcessor": "own.Own"}
    classes |= {"AutoTokenizer": ["own.Own", "own.Own"]}
    content = json.loads((folder / file).read_text(encoding="utf-8"))
    own = {"image_processor_type": "Own", "tokenizer_class": "Own", "auto_map": classes}
    (folder / file).write_text(json.dumps(content | own), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 99))
    try:
        teachers.load(config)
    except TeacherError as error:
        assert "trust_remote_code" not in str(error)
    assert not (tmp_path / "ran").exists()


def add(name: str, content: str):
    return lambda folder: (folder / name).write_text(content, encoding="utf-8")


def remove(name: str):
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("family", "damage", "words"),
    [
        ("dino", add("config.json", '{"architecture": "vit_base", "pretrained_cfg": {}}'), "is timm's"),
        ("dino", add("model.safetensors", "version https://git-lfs"), r"git-lfs's pointer .* 'git lfs pull'"),
        ("dino", add("adapter_config.json", "{}"), r"holds an adapter \(PEFT\).*merge_and_unload"),
        ("dino", add("config.json", '{"model_type": "clip"}'), "of model_type clip; dino loads vit.* teacher to clip"),
        ("dino", add("config.json", "no JSON"), "config.json is missing or no JSON"),
        ("dino", remove("model.safetensors"), "holds no weights"),
        ("dino", remove("preprocessor_config.json"), "ImageProcessor cannot be used: .* preprocessor_config.json"),
        ("clip", remove("tokenizer.json"), "lacks tokenizer.json or merges.txt or vocab.txt"),
        ("dino", lambda folder: os.truncate(folder / "model.safetensors", 10_000), "loaded as ViTModel: .*cut off"),
        ("dino", lambda folder: save_file({"layernorm.weight": torch.ones(7)}, folder / "model.safetensors"), "as ViT"),
    ],
)  # fmt: skip
def test_folder__that_is_no_checkpoint_of_the_family_is_one_sentence(copy, family, damage, words):
    config, folder = copy(family)
    damage(folder)
    with pytest.raises(TeacherError, match=words):
        teachers.load(config)
