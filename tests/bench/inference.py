"""Forward passes: of the teacher, of building features from it, of exported files; and the search of an evaluation."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from common import SCRATCH, clip, compared, config, photos, row, size
from torch import nn

from kdlib import features as store
from kdlib.data.base import Dataset
from kdlib.evaluate import knn, retrieval
from kdlib.evaluate.metrics import unit_rows
from kdlib.export import ExportedStudent
from kdlib.export.graph import quantise, session, write
from kdlib.utils import runs_root


def teacher() -> Iterator[dict]:
    """CLIP's vision side on a batch: ours in bfloat16, with the last layer's attention, and transformers' default."""
    from transformers import CLIPModel

    given, ours = clip(teacher_precision="bfloat16")
    default = CLIPModel.from_pretrained(given.checkpoint).eval()
    pixels = ours.prepare(list(photos(size(store.CHUNK, 8)).images))
    theirs = torch.inference_mode()(lambda: default.get_image_features(pixel_values=pixels))
    what, against = "a forward pass in bfloat16 with an attention map", "transformers' default, float32, without one"
    yield compared(what, against, lambda: ours.encode_image(pixels), theirs, "≥ 1.8", rounds=3, each=len(pixels))


def features() -> Iterator[dict]:
    """An image of CLIP's features, captions included, and of the same passes on tensors that are ready."""
    (given, model), images = clip(teacher_precision="bfloat16"), photos(size(3, 1) * store.CHUNK)
    parts = [images.take(range(first, first + store.CHUNK)) for first in range(0, len(images), store.CHUNK)]
    ready = [(model.prepare(list(part.images)), [text for own in part.captions for text in own]) for part in parts]

    def build() -> None:
        shutil.rmtree(runs_root() / "features", ignore_errors=True)
        with patch("kdlib.teachers.load", return_value=model):
            store.teacher_features(given, images, tokens=True)

    def bare() -> None:
        for pixels, texts in ready:
            model.encode_image(pixels)
            model.encode_texts(texts)

    yield compared("building features", "the teacher's passes alone", build, bare, "≤ 1.11", rounds=2, each=len(images))


def memory() -> Iterator[dict]:
    """The peak of resident memory of building the toy teacher's features, each in a process of its own."""
    counts, peaks = [size(count, count // 50) for count in (100_000, 10_000)], []
    for count in counts:
        command = [sys.executable, __file__, str(count)]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 2**10)
    what, against = f"building features of {counts[0]:,} images", f"of {counts[1]:,}"
    yield row(what, against, peaks[0] / peaks[1], "≤ 1.1", *peaks, "MB")


def peak(count: int) -> int:
    """KB that building the features of ``count`` images, which are 64 files, holds at most."""
    paths, names = photos(64, (64, 64)).paths, [str(number) for number in range(count)]
    many = Dataset("many", "fit", names, [paths[number % 64] for number in range(count)])
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # from here on the peak counts
    store.teacher_features(config("projection", teacher="dino", dataset="tinyimagenet"), many, tokens=False)
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))[1])


def search() -> Iterator[dict]:
    """k-NN at Tiny ImageNet's size and retrieval at COCO's, and the float64 products that they contain."""
    counts, draw = (10_000, 100_000, 5_000, 25_000), torch.Generator().manual_seed(0)
    queries, bank, images, texts = (torch.randn(size(count, count // 10), 256, generator=draw) for count in counts)
    labels, owner = [np.arange(len(rows)) % 200 for rows in (bank, queries)], np.arange(len(texts)) // 5
    nearest = partial(knn.credits, bank, labels[0], queries, labels[1])
    both_ways = partial(retrieval.credits, images, texts, owner)
    for name, whole, first, second in (("k-NN", nearest, queries, bank), ("retrieval", both_ways, images, texts)):
        parts, others = unit_rows(first).split(256), unit_rows(second).T
        bare = lambda parts=parts, others=others: [len(rows @ others) for rows in parts]  # noqa: E731
        yield compared(f"{name}, {len(first)} x {len(second)}", "the product alone", whole, bare, "≤ 2", rounds=3)


class ImageSide(nn.Module):
    """A teacher's image side as a student's is exported: from uint8 pixels (B, 3, S, S) to features of length 1."""

    def __init__(self, teacher):
        super().__init__()
        self.teacher, self.model, self.look = teacher, teacher.model, teacher.preprocess

    def forward(self, pixels):
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.look.image_mean, self.look.image_std))
        seen = self.teacher.forward_image((pixels.float() * self.look.rescale_factor - mean) / std)
        return nn.functional.normalize(seen["pooled"], dim=-1)


def export() -> Iterator[dict]:
    """An image through a student and through CLIP at 224 pixels, exported by the same code, on one thread; and int8."""
    random = np.random.default_rng(0)
    pixels = {side: random.integers(0, 256, (8, 3, side, side), dtype=np.uint8) for side in (64, 224)}
    write(ImageSide(clip()[1]), "image", {"pixels": pixels[224][:2]}, large := SCRATCH / "clip.onnx")
    theirs = partial(session(large, 1), {"pixels": pixels[224][:1]})
    for method, side in (("resnet", 64), ("resnet", 224), ("mobilenet", 224)):
        fields = config(method, image_size=side).training(), {"teacher_width": 512, "grid": [7, 7]}
        file, small = (SCRATCH / f"{method}-{side}{end}.onnx" for end in ("", ".int8"))
        write(ExportedStudent(*fields).eval(), "image", {"pixels": pixels[side][:2]}, file)
        quantise(file, small, iter([{"pixels": pixels[side]}]))
        for name, path in (("float32", file), ("int8", small)):
            ours = partial(session(path, 1), {"pixels": pixels[side][:1]})
            what = f"exported {method} at {side} pixels, {name}"
            yield compared(what, "exported CLIP ViT-B/32, float32", ours, theirs, "≥ 20", rounds=15)
        mb = [path.stat().st_size / 2**20 for path in (file, small)]
        yield row(f"MB of {method}'s float32 file", "of its int8 file", mb[0] / mb[1], "≥ 3.7", *mb, "MB")


if __name__ == "__main__":
    print(peak(int(sys.argv[1])))
