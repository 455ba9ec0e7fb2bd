"""Train the stand-in teachers: ``python -m kdlib.teachers.standins [dino beit clip blip]``.

The data is drawn from another seed than the study's, so no image of the study was seen.

- dino: cross-entropy of the class on the class token, and of each patch's class on its token (token
  labelling, Jiang et al., arXiv:2104.10858). Labelled, unlike the real DINO: minutes on two cores are too few
  for self-distillation, and without the patches' labels a ViT this small was still at chance after two
  epochs of cross-entropy and after seven of a supervised contrastive loss.
- beit: the same with the mean of the patch tokens, as BEiT's ft22k stage.
- clip: symmetric contrastive loss between scene and caption. blip: the same in its ITC space.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlib.data import drawing
from kdlib.files import write_json

SEED = 1  # the study's data has seed 0
WIDTH, HEADS, PATCH, SIDE = 128, 4, 8, 64
BATCH = 128
LONGEST_TEXT = 32
VISION = {
    "hidden_size": WIDTH,
    "intermediate_size": 4 * WIDTH,
    "num_attention_heads": HEADS,
    "image_size": SIDE,
    "patch_size": PATCH,
}
# images drawn, epochs, layers, peak learning rate
RECIPES = {
    "dino": {"images": 24_000, "epochs": 8, "layers": 5, "lr": 7e-4},
    "beit": {"images": 24_000, "epochs": 8, "layers": 5, "lr": 7e-4},
    "clip": {"images": 24_000, "epochs": 10, "layers": 4, "text_layers": 2, "lr": 1e-3},
    "blip": {"images": 24_000, "epochs": 10, "layers": 4, "text_layers": 2, "lr": 1e-3},
}


def draw_classes(count: int) -> tuple[list, Tensor, Tensor]:
    """Images, their classes, and the class of each patch (20: background), (count, 8, 8)."""
    classes = [(outline, fill) for outline in drawing.OUTLINES for fill in drawing.FILLS]
    labels = torch.arange(count) % len(classes)
    images, patches = [], []
    for number, label in enumerate(labels.tolist()):
        image, mask = drawing.draw_object(np.random.default_rng([SEED, 0, label, number]), *classes[label])
        images.append(image)
        covered = np.asarray(mask).reshape(SIDE // PATCH, PATCH, SIDE // PATCH, PATCH).mean(axis=(1, 3)) > 64
        patches.append(np.where(covered, label, len(classes)))
    return images, labels, torch.from_numpy(np.stack(patches))


def draw_scenes(count: int) -> tuple[list, list[list[str]]]:
    """``count`` scenes of another seed than the study's, and their captions."""
    images, captions = [], []
    for number in range(count):
        rng = np.random.default_rng([SEED, 2, number])
        image, things, _ = drawing.draw_scene(rng)
        images.append(image)
        captions.append(drawing.captions(rng, things))
    return images, captions


def processor(family: str):
    """The preprocessing of a family, at the stand-ins' size."""
    from transformers import BeitImageProcessor, BlipImageProcessor, CLIPImageProcessor, ViTImageProcessor

    square = {"height": SIDE, "width": SIDE}
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return {
        "dino": lambda: ViTImageProcessor(size=square, **half),
        "beit": lambda: BeitImageProcessor(size=square, do_center_crop=False, **half),
        "clip": lambda: CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=square, **half),
        "blip": lambda: BlipImageProcessor(size=square, **half),
    }[family]()


def tokenizer(family: str, captions: list[list[str]]):
    """A tokenizer of the family's class, trained on the captions."""
    from transformers import BertTokenizer, CLIPTokenizer

    base = BertTokenizer() if family == "blip" else CLIPTokenizer()
    texts = ((text for text in five) for five in captions)
    trained = base.train_new_from_iterator(texts, vocab_size=400, show_progress=False)
    trained.model_max_length = LONGEST_TEXT
    return trained


def build(family: str, recipe: dict, words=None) -> nn.Module:
    """An untrained model of a family's class, as large as its recipe says; ``words`` is its tokenizer."""
    from transformers import (
        BeitConfig,
        BeitModel,
        BlipConfig,
        BlipForImageTextRetrieval,
        CLIPConfig,
        CLIPModel,
        ViTConfig,
        ViTModel,
    )

    vision = VISION | {"num_hidden_layers": recipe["layers"]}
    if family == "dino":
        return ViTModel(ViTConfig(**vision), add_pooling_layer=False)
    if family == "beit":
        return BeitModel(
            BeitConfig(
                **vision,
                use_relative_position_bias=True,
                use_mean_pooling=True,
                use_mask_token=False,
                layer_scale_init_value=0.1,
                drop_path_rate=0.0,
            )
        )
    text = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": HEADS,
        "num_hidden_layers": recipe["text_layers"],
        "max_position_embeddings": LONGEST_TEXT,
        "vocab_size": len(words),
    }
    if family == "clip":
        ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
        text |= ends | {"pad_token_id": words.pad_token_id}
        return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))
    text |= {
        "encoder_hidden_size": WIDTH,
        "bos_token_id": words.cls_token_id,
        "eos_token_id": words.sep_token_id,
        "sep_token_id": words.sep_token_id,
        "pad_token_id": words.pad_token_id,
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
        "is_decoder": True,
    }
    # The vision tower's default of 1e-10 suits only weights that are loaded, and 0.02 suits a width of 768: from
    # either, this small model learns late.
    start = {"initializer_range": WIDTH**-0.5}
    return BlipForImageTextRetrieval(
        BlipConfig(
            text_config=text | start,
            vision_config=vision | start,
            image_text_hidden_size=WIDTH,
            projection_dim=WIDTH,
            **start,
        )
    )


def rate(step: int, steps: int, peak: float) -> float:
    """Learning rate of a step: a twentieth of warm-up, then half a cosine to zero."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


class Classes(nn.Module):
    """The loss of dino and beit: cross-entropy of the image's class and of each patch's; half are mirrored."""

    def __init__(self, family: str, count: int):
        super().__init__()
        self.family = family
        self.images, self.labels, self.patches = draw_classes(count)
        self.words = None

    def add_heads(self) -> list[nn.Parameter]:
        """What is trained beside the model."""
        self.head, self.patch_head = nn.Linear(WIDTH, 20), nn.Linear(WIDTH, 21)
        return [*self.head.parameters(), *self.patch_head.parameters()]

    def forward(self, model: nn.Module, pixels: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of the images ``rows``, whose ``pixels`` (B, 3, H, W) are given."""
        flip = torch.rand(len(rows), generator=generator) < 0.5
        pixels = torch.where(flip[:, None, None, None], pixels.flip(-1), pixels)
        target = torch.where(flip[:, None, None], self.patches[rows].flip(-1), self.patches[rows]).flatten()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(pixels)
        feature = outputs.last_hidden_state[:, 0] if self.family == "dino" else outputs.pooler_output
        tokens = self.patch_head(outputs.last_hidden_state[:, 1:].float()).flatten(0, 1)
        return F.cross_entropy(self.head(feature.float()), self.labels[rows]) + F.cross_entropy(tokens, target)


class Pairs(nn.Module):
    """The loss of clip and blip: symmetric contrastive between an image and one of its captions, drawn each time."""

    def __init__(self, family: str, count: int):
        super().__init__()
        self.family = family
        self.images, captions = draw_scenes(count)
        self.words = tokenizer(family, captions)
        texts = self.words([text for five in captions for text in five], padding=True, return_tensors="pt")
        self.ids = texts["input_ids"].reshape(count, 5, -1)
        self.masks = texts["attention_mask"].reshape(count, 5, -1)

    def add_heads(self) -> list[nn.Parameter]:
        """What is trained beside the model: CLIP has its own scale."""
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        return [self.log_scale] if self.family == "blip" else []

    def forward(self, model: nn.Module, pixels: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of the images ``rows``, whose ``pixels`` (B, 3, H, W) are given."""
        which = torch.randint(0, 5, (len(rows),), generator=generator)
        ids, mask = self.ids[rows, which], self.masks[rows, which]
        with torch.autocast("cpu", torch.bfloat16):
            if self.family == "clip":
                seen = model.get_image_features(pixels).pooler_output
                read = model.get_text_features(ids, attention_mask=mask).pooler_output
            else:
                seen = model.vision_proj(model.vision_model(pixels).last_hidden_state[:, 0])
                read = model.text_proj(model.text_encoder(ids, mask).last_hidden_state[:, 0])
        scale = (model.logit_scale if self.family == "clip" else self.log_scale).exp().clamp(max=100)
        logits = scale * F.normalize(seen.float(), dim=-1) @ F.normalize(read.float(), dim=-1).T
        target = torch.arange(len(rows))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


LOSSES = {"dino": Classes, "beit": Classes, "clip": Pairs, "blip": Pairs}


def train(family: str, folder: Path) -> None:
    """Train one stand-in and write it, its preprocessing, tokenizer and recipe into ``folder``."""
    recipe = RECIPES[family]
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    started = time.perf_counter()
    prepare, loss_of = processor(family), LOSSES[family](family, recipe["images"])
    images = loss_of.images
    batches = [prepare(images[i : i + 500], return_tensors="pt")["pixel_values"] for i in range(0, len(images), 500)]
    pixels = torch.cat(batches)
    print(f"{family}: {len(images)} images drawn in {time.perf_counter() - started:.0f} s", flush=True)

    model = build(family, recipe, loss_of.words).train()
    parameters = [*model.parameters(), *loss_of.add_heads()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.05, betas=(0.9, 0.98))
    steps = recipe["epochs"] * (len(images) // BATCH)
    step = 0
    for epoch in range(recipe["epochs"]):
        total = 0.0
        order = torch.randperm(len(images), generator=generator)
        for rows in order[: len(images) // BATCH * BATCH].split(BATCH):
            loss = loss_of(model, pixels[rows], rows, generator)
            for group in optimizer.param_groups:
                group["lr"] = rate(step, steps, recipe["lr"])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.item()
            step += 1
        print(
            f"{family}: epoch {epoch + 1}/{recipe['epochs']} loss {total / (steps // recipe['epochs']):.3f} "
            f"{time.perf_counter() - started:.0f} s",
            flush=True,
        )

    save(model, family, folder, prepare, loss_of.words)
    minutes = (time.perf_counter() - started) / 60
    write_json(
        folder / "recipe.json",
        {
            "made by": "python -m kdlib.teachers.standins",
            "data": f"{recipe['images']} images of kdlib.data.shapes, seed {SEED} (the embedded study's have seed 0)",
            "recipe": recipe | {"batch": BATCH, "width": WIDTH, "optimizer": "AdamW, cosine, weight decay 0.05"},
            "minutes": round(minutes, 1),
            "threads": torch.get_num_threads(),
            "scores on the study's test split": scores(family, folder),
        },
    )


def save(model: nn.Module, family: str, folder: Path, prepare, words) -> None:
    """Write the checkpoint in float16; a BLIP one without its cross-attention and ITM head, never trained here."""
    unused = ("crossattention", "itm_head")
    state = {
        name: value.half().contiguous()
        for name, value in model.state_dict().items()
        if not any(part in name for part in unused)
    }
    model.half().save_pretrained(folder, state_dict=state)
    prepare.save_pretrained(folder)
    if words is not None:
        words.save_pretrained(folder)


def scores(family: str, folder: Path) -> dict:
    """The saved teacher's own figures on the embedded study's test split, by the project's own metrics."""
    from kdlib.data import load as load_data
    from kdlib.evaluate import knn, retrieval
    from kdlib.teachers import load

    teacher = load(family, str(folder))
    if family in ("dino", "beit"):
        bank, query = (load_data("tinyimagenet", "shapes", split) for split in ("fit", "test"))
        features = [teacher.encode_images(list(split.images))["pooled"] for split in (bank, query)]
        return knn.evaluate(features[0], bank.labels, features[1], query.labels)
    data = load_data("coco", "shapes", "test")
    images = teacher.encode_images(list(data.images))["pooled"]
    texts = teacher.encode_texts([text for five in data.captions for text in five])["pooled"]
    owner = np.repeat(np.arange(len(data)), [len(five) for five in data.captions])
    return retrieval.evaluate(images, texts, owner)


def main() -> None:
    """Train the stand-ins that the command names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("families", nargs="*", default=list(RECIPES), help="dino beit clip blip; all if none")
    parser.add_argument("--into", type=Path, default=Path(__file__).parent, help="folder for the checkpoints")
    arguments = parser.parse_args()
    for family in arguments.families:
        train(family, arguments.into / family)


if __name__ == "__main__":
    main()
