"""What a configuration loads and what identifies it: names, folders, pickles, and code that is never run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPProcessor

from kdlib import teachers
from kdlib.config import RunConfig
from kdlib.teachers import TeacherError


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dina", "no teacher 'dina'. Did you mean dino"),
        ("dinov2", "dinov2 has no toy teacher"),
        ("torch:nn", "no subclass of kdlib.teachers.Teacher"),
    ],
)
def test_name__that_is_no_teacher_is_one_sentence(name, words):
    with pytest.raises((TeacherError, KeyError), match=words):
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


@pytest.mark.parametrize("layout", ["pytorch_model.bin alone", "shards", "processor_config.json"])
def test_folder__of_another_layout_is_the_same_teacher(copy, layout):
    config, folder = copy("clip", pickled=layout.endswith("alone"))
    plain, noise = teachers.load(config.model_copy(update={"checkpoint": "toy"})), Image.effect_noise((80, 60), 90)
    if layout == "shards":
        plain.model.save_pretrained(folder, max_shard_size="200KB")
        (folder / "model.safetensors").unlink()
    elif layout == "processor_config.json":  # as transformers 5 writes it
        CLIPProcessor(plain.preprocess, plain.tokenizer).save_pretrained(folder)
        (folder / "preprocessor_config.json").unlink()
    found, expected = (teacher.encode_images([noise.convert("RGB")]) for teacher in (teachers.load(config), plain))
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_precision__bfloat16_is_near_float32_and_gives_float32(copy):
    config, images = copy("clip")[0], [Image.effect_noise((64, 64), 90).convert("RGB")]
    exact, rough = (
        teachers.load(config.model_copy(update={"teacher_precision": precision})).encode_images(images)["pooled"]
        for precision in ("float32", "bfloat16")
    )
    assert rough.dtype == torch.float32 and not torch.equal(exact, rough)
    assert torch.cosine_similarity(exact, rough).item() > 0.999


class Hostile:
    """Unpickled, it runs a command."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("zipped", [False, True])
def test_bin__a_hostile_pickle_is_refused_and_does_not_run(copy, tmp_path, zipped):
    config, folder = copy("dino", pickled=True)
    content = {"weight": torch.zeros(2), "other": Hostile(tmp_path / "ran")}
    torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(TeacherError, match="its pickle would run code, and it was not read") as caught:
        teachers.load(config)
    assert "weights_only" not in str(caught.value), "torch's own advice is to trust it"
    assert not (tmp_path / "ran").exists()


ASKED = """
import sys
from kdlib import RunConfig, teachers
for folder in sys.argv[1:]:
    try:
        print(f"{folder}: {teachers.load(RunConfig(teacher='clip', dataset='coco', checkpoint=folder)).width}")
    except teachers.TeacherError as error:
        print(error)
"""


def test_auto_map__code_of_a_checkpoint_is_never_run_whatever_is_answered(copy, tmp_path):
    """Of the model, of its image processor and of its tokenizer; a process of its own, whose user says yes."""
    classes = {"AutoConfig": "own.Own", "AutoModel": "own.Own", "AutoImageProcessor": "own.Own"}
    own = {"image_processor_type": "Own", "tokenizer_class": "Own", "architectures": ["Own"]}
    own |= {"auto_map": classes | {"AutoTokenizer": ["own.Own", "own.Own"]}}
    files = ("config.json", "preprocessor_config.json", "tokenizer_config.json")
    for file in files:
        _, folder = copy("clip", file)
        (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: ...\n", encoding="utf-8")
        content = json.loads((folder / file).read_text(encoding="utf-8"))
        (folder / file).write_text(json.dumps(content | own), encoding="utf-8")
    command = [sys.executable, "-c", ASKED, *(str(tmp_path / file) for file in files)]
    done = subprocess.run(command, input="y\n" * 99, capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 3, done.stdout + done.stderr
    assert not (tmp_path / "ran").exists() and "trust_remote_code" not in done.stdout + done.stderr


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
        ("dino", add("config.json", '{"model_type": "clip"}'), "model_type in config.json is clip; .* loads vit"),
        ("dino", add("config.json", "no JSON"), "model_type in config.json is missing"),
        ("dino", remove("model.safetensors"), "no file named model.safetensors"),
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
