"""The teacher's forward pass against transformers' defaults, and building a store against that pass alone."""

import shutil

import torch
import torch.nn.functional as F

from kdlib import features, teachers
from kdlib.bench import fullsize
from kdlib.bench.measure import Row, Setting, in_turns, seconds

BATCH = features.CHUNK
IMAGES = 3 * features.CHUNK


def run(setting: Setting) -> list[Row]:
    """The forward pass, then a store."""
    folder = fullsize.clip_checkpoint(setting)
    dataset = fullsize.photos(setting, IMAGES)
    teacher = teachers.load("clip", str(folder), precision="bfloat16")
    return [forward(teacher, folder, dataset), store(setting, teacher, dataset)]


def forward(teacher, folder, dataset) -> Row:
    """Images/s of the vision side: ours in bfloat16, with the last layer's attention, and transformers' defaults."""
    from transformers import CLIPModel

    default = CLIPModel.from_pretrained(folder).eval()
    pixels = teacher.prepare([dataset.images[row] for row in range(BATCH)])

    def theirs():
        with torch.inference_mode():
            return default.get_image_features(pixel_values=pixels)

    slow, quick = in_turns(theirs, lambda: teacher.encode_pixels(pixels), rounds=3)
    made = theirs()
    made = getattr(made, "pooler_output", made)
    agree = F.cosine_similarity(made, teacher.encode_pixels(pixels)["pooled"]).min().item()
    return Row(
        "the teacher's forward pass in bfloat16 with an attention map",
        "transformers' defaults in float32 without one",
        slow / quick,
        1.8,
        BATCH / quick,
        BATCH / slow,
        "images/s",
        note=f"features agree to cosine {agree:.5f} at least (random weights)",
    )


def store(setting: Setting, teacher, dataset) -> Row:
    """Images/s of building a store, captions included, and of the same passes on tensors that are ready."""
    encoder = features.teacher_encoder(lambda: teacher, "float16", [])
    path = setting.scratch / "store"
    chunks = [range(start, start + BATCH) for start in range(0, IMAGES, BATCH)]
    ready = [teacher.prepare([dataset.images[row] for row in chunk]) for chunk in chunks]

    def bare():
        for chunk, pixels in zip(chunks, ready, strict=True):
            teacher.encode_pixels(pixels)
            teacher.encode_texts([text for row in chunk for text in dataset.captions[row]])

    def build():
        shutil.rmtree(path, ignore_errors=True)
        features.build_store(path, {"bench": "store"}, dataset, encoder)

    slow, quick = in_turns(build, bare, rounds=2)
    decoding = seconds(lambda: [dataset.images[row] for row in range(IMAGES)]) / IMAGES
    preparing = seconds(lambda: [teacher.prepare([dataset.images[0]]) for _ in range(50)]) / 50 - decoding
    return Row(
        "building the store: decode, preprocess, teacher, write",
        "the teacher's passes alone on ready tensors",
        quick / slow,
        0.9,
        IMAGES / slow,
        IMAGES / quick,
        "images/s",
        note=f"decoding {1000 * decoding:.1f} and preprocessing {1000 * preparing:.1f} ms an image on one core",
    )
