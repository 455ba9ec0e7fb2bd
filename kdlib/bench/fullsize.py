"""Full-size teachers and stores for the benches. Weights are random: speed does not depend on them."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from kdlib import data as datasets
from kdlib import features, teachers
from kdlib.bench.measure import Setting
from kdlib.data.dataset import Dataset
from kdlib.data.tree import Tree
from kdlib.features.encoders import Encoder
from kdlib.features.store import FeatureStore

PHOTO = (640, 480)  # what most images of COCO measure
TOKENS, WIDTH, TEXT_TOKENS = 49, 512, 13  # CLIP ViT-B/32 on COCO


def clip_checkpoint(setting: Setting) -> Path:
    """A folder in the official format: CLIP ViT-B/32 with random weights and the stand-in's vocabulary."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    folder = setting.scratch / "clip-vit-base-patch32"
    if (folder / "model.safetensors").exists():
        return folder
    standin = teachers.resolve("clip", teachers.STANDIN)
    scratch = folder.with_name(f".{folder.name}")
    shutil.rmtree(scratch, ignore_errors=True)
    small = CLIPConfig.from_pretrained(standin)
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
              "patch_size": 32, "image_size": 224}  # fmt: skip
    text = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8,
            "vocab_size": small.text_config.vocab_size, "eos_token_id": small.text_config.eos_token_id}  # fmt: skip
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)).save_pretrained(scratch)
    for file in standin.iterdir():
        if file.suffix in (".json", ".txt") and file.name not in ("config.json", "preprocessor_config.json"):
            shutil.copy(file, scratch)
    from transformers import CLIPImageProcessor

    CLIPImageProcessor().save_pretrained(scratch)  # its defaults are the published checkpoint's
    scratch.rename(folder)
    return folder


def dino_checkpoint(setting: Setting) -> Path:
    """A folder in the official format: DINO's ViT-B/16 with random weights; its sizes are transformers' defaults."""
    import torch
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    folder = setting.scratch / "dino-vitb16"
    if not (folder / "model.safetensors").exists():
        scratch = folder.with_name(f".{folder.name}")
        shutil.rmtree(scratch, ignore_errors=True)
        torch.manual_seed(0)
        ViTModel(ViTConfig()).save_pretrained(scratch)
        ViTImageProcessor().save_pretrained(scratch)
        scratch.rename(folder)
    return folder


def photos(setting: Setting, count: int) -> Dataset:
    """``count`` photographs of COCO (or drawn images of their size), each with five drawn captions.

    The captions are those of the drawn data, since the vocabulary is theirs.
    """
    drawn = datasets.load("coco", "shapes", "fit")
    if setting.data_root == "shapes":
        folder = setting.scratch / "photos"
        folder.mkdir(exist_ok=True)
        names = [f"{row:05d}.jpg" for row in range(count)]
        for row, name in enumerate(names):
            if not (folder / name).exists():
                drawn.images[row].resize(PHOTO, Image.Resampling.BICUBIC).save(folder / name, quality=90)
        tree = Tree(folder, "the folder of the bench")
    else:
        real = datasets.load("coco", setting.data_root, "fit")
        tree, names = real.tree, [real.image_names[row % len(real)] for row in range(count)]
    ids = tuple(f"{row:05d}" for row in range(count))
    captions = tuple((drawn.captions[row % len(drawn)] * 5)[:5] for row in range(count))
    return Dataset("photos", "fit", tree, ids, tuple(names), captions=captions)


class _Blank:
    """A data set of ``count`` images that nobody decodes."""

    name, split, image_names = "blank", "fit", ()

    def __init__(self, count: int, captions: int):
        self.ids = tuple(str(row) for row in range(count))
        self.captions = tuple(("",) * captions for _ in self.ids) if captions else None
        self.images = self

    def __len__(self) -> int:
        return len(self.ids)

    def at_least(self, row: int, least: int) -> None:
        return None


def random_store(path: Path, images: int, tokens: int = TOKENS, width: int = WIDTH, captions: int = 1) -> FeatureStore:
    """A finished store of random features, written by the code that writes a teacher's."""
    random = np.random.default_rng(0)

    def encode(prepared: list, texts: list | None) -> dict[str, np.ndarray]:
        count = len(prepared)
        arrays = _features(random, "image", count, tokens, width)
        if captions:
            arrays |= _features(random, "text", count * captions, TEXT_TOKENS, width, ragged=True)
            arrays["caption_count"] = np.full(count, captions, dtype=np.int32)
        return arrays

    side = round(tokens**0.5)
    facts = {"family": "clip", "grid": [side, side], "logit_scale": 100.0, "centre_crop": True, "text": captions > 0}
    shutil.rmtree(path, ignore_errors=True)
    encoder = Encoder(lambda image, name: 0, encode, facts)
    features.build_store(path, {"bench": "random"}, _Blank(images, captions), lambda: encoder)
    return FeatureStore.open(path)


def _features(random, kind: str, count: int, tokens: int, width: int, ragged: bool = False) -> dict[str, np.ndarray]:
    block = random.standard_normal((count, tokens + 1, width), dtype=np.float32).astype(np.float16)
    arrays = {
        f"{kind}_pooled": block[:, 0],
        f"{kind}_tokens": block[:, 1:].reshape(-1, width) if ragged else block[:, 1:],
        f"{kind}_attention": np.full((count * tokens,) if ragged else (count, tokens), 1 / tokens, dtype=np.float16),
    }
    if ragged:
        arrays["text_length"] = np.full(count, tokens, dtype=np.int32)
    return arrays
