"""Train the toy teachers again: ``python -m kdlib.teachers.toy.train [dino beit clip blip]``, 20 minutes each.

dino (on the class token) and beit (on the mean of the patches) learn labels, since minutes are too few for
self-distillation, of patches too (arXiv:2104.10858), or a ViT this small stays at chance. clip and blip learn pairs;
blip's config.json has a wide initial deviation, since its default of 1e-10 suits loaded weights.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import nn

from kdlib.data import drawing
from kdlib.data.shapes import CLASSES
from kdlib.teachers.checkpoint import load_part

SEED, IMAGES, BATCH, WIDTH = 1, 24_000, 128, 128  # the study's data has seed 0
RECIPES = {"dino": (8, 7e-4), "beit": (8, 7e-4), "clip": (10, 1e-3), "blip": (10, 1e-3)}  # epochs, peak learning rate


def classes(family: str, folder: Path, count: int):
    """Images, weights beside the model, and the loss of dino and beit; half of the images are mirrored."""
    images, patches, labels = [], [], torch.arange(count) % len(CLASSES)
    for number, label in enumerate(labels.tolist()):
        image, mask = drawing.draw_object(np.random.default_rng([SEED, 0, label, number]), *CLASSES[label])
        images.append(image)
        covered = np.asarray(mask).reshape(8, 8, 8, 8).mean(axis=(1, 3)) > 64  # of 8 x 8 patches
        patches.append(np.where(covered, label, len(CLASSES)))  # 20: background
    patches = torch.from_numpy(np.stack(patches))  # (images, 8, 8)
    head, patch_head = nn.Linear(WIDTH, 20), nn.Linear(WIDTH, 21)

    def loss(model, pixels, rows, generator):
        flip = torch.rand(len(rows), generator=generator) < 0.5
        pixels = torch.where(flip[:, None, None, None], pixels.flip(-1), pixels)
        target = torch.where(flip[:, None, None], patches[rows].flip(-1), patches[rows]).flatten()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(pixels)
        feature = outputs.last_hidden_state[:, 0] if family == "dino" else outputs.pooler_output
        tokens = patch_head(outputs.last_hidden_state[:, 1:].float()).flatten(0, 1)
        return F.cross_entropy(head(feature.float()), labels[rows]) + F.cross_entropy(tokens, target)

    return images, [*head.parameters(), *patch_head.parameters()], loss


def pairs(family: str, folder: Path, count: int):
    """Images, weights beside the model, and the loss of clip and blip; a caption of each image is chosen each time."""
    images, captions = [], []
    for number in range(count):
        rng = np.random.default_rng([SEED, 2, number])
        image, things = drawing.draw_scene(rng)
        images.append(image)
        captions += drawing.captions(rng, things)
    texts = load_part("AutoTokenizer", folder)(captions, padding=True, return_tensors="pt")
    all_ids, all_masks = (texts[name].reshape(count, 5, -1) for name in ("input_ids", "attention_mask"))
    own_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # of BLIP; CLIP has one

    def loss(model, pixels, rows, generator):
        which = torch.randint(0, 5, (len(rows),), generator=generator)
        ids, mask = all_ids[rows, which], all_masks[rows, which]
        with torch.autocast("cpu", torch.bfloat16):
            if family == "clip":
                image = model.get_image_features(pixels).pooler_output
                text = model.get_text_features(ids, attention_mask=mask).pooler_output
            else:
                image = model.vision_proj(model.vision_model(pixels).last_hidden_state[:, 0])
                text = model.text_proj(model.text_encoder(ids, mask).last_hidden_state[:, 0])
        scale = (model.logit_scale if family == "clip" else own_scale).exp().clamp(max=100)
        logits = scale * F.normalize(image.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T
        target = torch.arange(len(rows))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    return images, [own_scale] if family == "blip" else [], loss


def train(family: str, folder: Path, count: int = IMAGES) -> None:
    """Train a toy teacher with the files in ``folder``, and write its weights there in float16."""
    epochs, peak = RECIPES[family]
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    kind = getattr(transformers, config.architectures[0])
    model = (kind(config, add_pooling_layer=False) if family == "dino" else kind(config)).train()
    images, beside, loss_of = (classes if family in ("dino", "beit") else pairs)(family, folder, count)
    prepare = load_part("AutoImageProcessor", folder)
    parts = (images[start : start + 500] for start in range(0, count, 500))
    pixels = torch.cat([prepare(part, return_tensors="pt")["pixel_values"] for part in parts])
    optimizer = torch.optim.AdamW([*model.parameters(), *beside], peak, weight_decay=0.05, betas=(0.9, 0.98))
    steps = epochs * (count // BATCH)
    warmup = max(1, steps // 20)  # a twentieth, then half a cosine to zero
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, (1 + math.cos(math.pi * max(0, step - warmup) / (steps - warmup))) / 2),
    )
    for epoch in range(epochs):
        order = torch.randperm(count, generator=generator)
        for rows in order[: count // BATCH * BATCH].split(BATCH):
            loss = loss_of(model, pixels[rows], rows, generator)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        print(f"{family}: epoch {epoch + 1} of {epochs}, loss {loss:.3f}", flush=True)
    unused = ("crossattention", "itm_head")  # of BLIP, never trained here
    kept = {name: value for name, value in model.state_dict().items() if not any(part in name for part in unused)}
    model.half().save_pretrained(folder, state_dict={name: value.half().contiguous() for name, value in kept.items()})


if __name__ == "__main__":
    for name in sys.argv[1:] or RECIPES:
        train(name, Path(__file__).parent / name)
