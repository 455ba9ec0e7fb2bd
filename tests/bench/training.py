"""Training: epochs and steps of heads from features and of networks from pixels; a study with two workers."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import torch
import yaml
from common import SCRATCH, THREADS, clip, compared, config, photos, random_features, row, seconds, size
from torch.utils.data import DataLoader

from kdlib import features, run, students, study
from kdlib.config import RunConfig
from kdlib.distiller import build
from kdlib.experiment import Experiment
from kdlib.loader import Split, TrainLoader
from kdlib.trainer import make_optimizer, train
from kdlib.utils import project_root

BATCH, SIDE, CLASSES = 64, 64, 20
CLIP = 512, 49, 13  # width, tokens of an image and of a text, as its ViT-B/32 has of COCO
BARS = {"projection": "≤ 1.5", "bottleneck": "≤ 1.5", "attention": "≤ 1.15", "cbam": "≤ 1.15"}  # of a step
PIXELS = {"dataset": "tinyimagenet", "image_size": SIDE, "lr_peak": 1e-3}


class Epoch:
    """``Epoch(config, split)()``: seconds of the trainer's last epoch, without its checkpoint."""

    def __init__(self, config: RunConfig, split: Split, kind: type[TrainLoader] = TrainLoader):
        self.config, self.split = config, split
        self.loader = kind(split, config, students.class_of(config.method).reads)

    def distiller(self):
        return build(self.config, self.split, CLASSES if self.split.labels is not None else 0)

    def __call__(self) -> float:
        shutil.rmtree(SCRATCH / "run", ignore_errors=True)
        return train(self.distiller(), self.loader, self.config, SCRATCH / "run", "bench")[-1]["seconds"]

    def bare(self, batches) -> Callable:
        """The same training as the shortest loop over ``batches``, which may lie ready."""
        model = self.distiller().train()
        optimizer = make_optimizer(model, self.config)

        def loop() -> None:
            for batch in batches:
                if not isinstance(batch, dict):  # of torchvision's data
                    batch = {"pixels": batch[0], "label": batch[1], "image": torch.ones(len(batch[1]), 2)}
                loss, _ = model(batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        return loop


class LiveLoader(TrainLoader):
    """Batches without stored features: each step decodes images and runs the teacher on them and their captions."""

    def epoch(self, epoch: int) -> Iterator[dict[str, torch.Tensor]]:
        for first in range(0, len(self) * BATCH, BATCH):
            rows = range(first, first + BATCH)
            seen = self.teacher.encode_images([self.photos.images[row] for row in rows])
            words = self.teacher.tokenise([self.photos.captions[row][0] for row in rows])
            read = self.teacher.encode_text(words["input_ids"], words["attention_mask"])
            made = {f"{side}_{n}": v for side, parts in (("image", seen), ("text", read)) for n, v in parts.items()}
            yield made | {"image": seen["pooled"], "text": read["pooled"], "text_mask": words["attention_mask"].bool()}


def live() -> Iterator[dict]:
    """An image of the second epoch from features, and of an epoch with the teacher in the loop."""
    split, few = Split(random_features(size(4096, 512), *CLIP)), size(2, 1) * BATCH
    LiveLoader.teacher, LiveLoader.photos = clip()[1], photos(few)
    for method, bar in (("projection", "≥ 300"), ("attention", "≥ 20")):
        cached = Epoch(config(method), split)
        slow = Epoch(config(method, epochs=1), Split(split.features.head(few)), LiveLoader)
        what, against = f"an image of an epoch of {method} from features", "with CLIP's ViT-B/32 live in the loop"
        yield compared(what, against, lambda c=cached: c() / len(split), lambda s=slow: s() / few, bar, rounds=1)


def step() -> Iterator[dict]:
    """An epoch of the trainer, and a bare loop over the same batches, which lie ready in memory."""
    split = Split(random_features(size(4096, 512), *CLIP))
    for method, bar in BARS.items():
        ours = Epoch(config(method, epochs=1), split)
        bare = ours.bare(list(ours.loader.epoch(1)))
        what, against = f"a step of {method}, loading included", "the same on tensors in memory, in a bare loop"
        yield compared(what, against, ours, bare, bar, each=len(ours.loader))


def pictures(config: RunConfig, count: int) -> tuple[Split, Path]:
    """Labelled images of SIDE pixels as stored pixels with random features, and their folder, one of JPEGs a class."""
    images = photos(count, (SIDE, SIDE))
    stored, larger = (features.pixels(config, images, side) for side in (SIDE, 77))  # 77 for crops of 0.7
    split = Split(random_features(count, 384), stored, images.labels, source=larger)
    return split, Path(images.paths[0]).parents[1]


def convnet() -> Iterator[dict]:
    """An epoch of full-size networks at 64 pixels, from labels, so that neither side has a teacher."""
    from torchvision import datasets, transforms

    for method in ("resnet", "densenet"):
        ours = config(method, teacher="dino", precision="bfloat16", objective="supervised", **PIXELS)
        split, folder = pictures(ours, size(512, 128))
        data = datasets.ImageFolder(folder, transforms.Compose([transforms.CenterCrop(SIDE), transforms.ToTensor()]))
        bare = Epoch(ours, split).bare(DataLoader(data, BATCH, shuffle=True, drop_last=True, num_workers=THREADS))
        what, against = f"an epoch of full-size {method}", "a float32 loop with torchvision's ImageFolder"
        yield compared(what, against, Epoch(ours, split), bare, "≥ 1.4", rounds=1)


def workers() -> Iterator[dict]:
    """A part of the demo study from features to the pages of its experiments, in seconds."""
    content = yaml.safe_load((project_root() / "notebooks/studies/mini.yaml").read_text(encoding="utf-8"))
    content |= {"notebooks": dict.fromkeys(["clip_coco", "dino_tinyimagenet"][: size(2, 1)]), "epochs": [1, 2]}
    content |= {"methods": ["projection", "attention", "resnet", "cbam"][: size(4, 2)], "variants": {}}
    taken, found, path = [], {}, SCRATCH / "bench.yaml"
    for count in (2, 1):
        path.write_text(yaml.safe_dump(content | {"study": f"bench-{count}"}), encoding="utf-8")
        planned = study.load(path)
        for one in planned.experiments():
            Experiment.open(one.config)
        with patch("kdlib.report.report", return_value="not made"):
            taken.append(seconds(lambda: found.update(run.run(planned, workers=count))))  # noqa: B023
        assert not any(found.values()), found
    yield row(f"{len(found)} experiments with two workers", "with one", taken[1] / taken[0], "≥ 1.8", *taken, "s")
