"""ResNet-18 and DenseNet-121 at 64 pixels: an epoch of the trainer against a plain training loop."""

import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from kdlib import data as datasets
from kdlib import features
from kdlib.bench import fullsize
from kdlib.bench.measure import Row, Setting, seconds
from kdlib.config import RunConfig
from kdlib.distiller import Distiller, build
from kdlib.features.encoders import Encoder
from kdlib.features.loader import Split, TrainLoader
from kdlib.features.store import FeatureStore
from kdlib.files import RunDir
from kdlib.trainer import make_optimizer, train

IMAGES, BATCH, SIZE = 512, 64, 64
BAR = 1.4


def run(setting: Setting) -> list[Row]:
    """An epoch of each network, and whether bfloat16 costs accuracy."""
    dataset = datasets.load("tinyimagenet", setting.data_root, "fit")
    rows = np.random.default_rng(0).choice(len(dataset), min(IMAGES, len(dataset)), replace=False)
    folder = _image_folder(setting, dataset, rows)
    split = _split(setting, folder)
    made = [_epoch(setting, folder, split, method) for method in ("resnet", "densenet")]
    made.append(_precision(setting, split, "mobilenet"))
    shutil.rmtree(folder)
    return [*made, *(agreement(method) for method in ("resnet", "densenet"))]


def _image_folder(setting: Setting, dataset, rows: np.ndarray) -> Path:
    """The images as class folders of JPEGs, as Tiny ImageNet's."""
    folder = setting.scratch / "imagefolder"
    shutil.rmtree(folder, ignore_errors=True)
    for row in rows:
        place = folder / f"{dataset.labels[row]:03d}" / f"{row}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        dataset.images[row].save(place, quality=95)
    return folder


def _split(setting: Setting, folder: Path) -> Split:
    from torchvision.datasets import ImageFolder

    found = ImageFolder(folder)
    paths = [Path(path) for path, _ in found.samples]
    data = _Files(paths, np.array(found.targets))
    stores = []
    pooled = Encoder(lambda image, name: 0, _random_pooled, {"grid": [1, 1], "logit_scale": 14.0})
    made = {"pixels": features.pixel_encoder(SIZE), "pooled": pooled}
    for name, encoder in made.items():
        path = setting.scratch / name
        shutil.rmtree(path, ignore_errors=True)
        features.build_store(path, {"bench": name}, data, lambda encoder=encoder: encoder)
        stores.append(FeatureStore.open(path))
    return Split("fit", stores[1], stores[0], data.labels)


def _random_pooled(prepared: list, texts) -> dict[str, np.ndarray]:
    random = np.random.default_rng(len(prepared))
    return {"image_pooled": random.standard_normal((len(prepared), fullsize.WIDTH)).astype(np.float16)}


class _Files:
    """Images by their paths, as a data set."""

    name, split, captions = "files", "fit", None

    def __init__(self, paths: list[Path], labels: np.ndarray):
        self.paths, self.labels, self.ids = paths, labels, tuple(path.name for path in paths)
        self.images = self

    def __len__(self) -> int:
        return len(self.paths)

    def at_least(self, row: int, least: int):
        from kdlib.data.dataset import decode

        return decode(self.paths[row].read_bytes(), self.paths[row].name, least)


def _config(setting: Setting, method: str, precision: str) -> RunConfig:
    """Training from labels, so that neither side has a teacher."""
    given = {"width": 256, "batch_size": BATCH, "threads": setting.threads, "device": "cpu", "lr_peak": 1e-3}
    return RunConfig(study="bench", teacher="dino", dataset="tinyimagenet", method=method, epochs=2, convnet="full",
                     image_size=SIZE, precision=precision, objective="no_teacher", **given)  # fmt: skip


def _speed(setting: Setting, split: Split, config: RunConfig) -> float:
    """Images a second of the trainer's second epoch."""
    run = RunDir(setting.scratch / "run")
    shutil.rmtree(run.path, ignore_errors=True)
    loader = TrainLoader(split, "pixels", BATCH, seed=0)
    history = train(build(config, split, int(split.labels.max()) + 1), loader, config, run, "bench")
    shutil.rmtree(run.path)
    return len(loader) * BATCH / history[-1]["seconds"]


def _precision(setting: Setting, split: Split, method: str) -> Row:
    """Whether a network with grouped convolutions is faster in float32, as sample_standalone.yaml trains it."""
    single, half = (_speed(setting, split, _config(setting, method, name)) for name in ("float32", "bfloat16"))
    return Row(
        f"an epoch of {method} (full size) at {SIZE} pixels in float32",
        "the same in bfloat16",
        single / half,
        None,
        single,
        half,
        "images/s",
    )


def _epoch(setting: Setting, folder: Path, split: Split, method: str) -> Row:
    """An epoch of each side, after one epoch of warm-up each."""
    config = _config(setting, method, "bfloat16")
    ours = _speed(setting, split, config)
    classes = int(split.labels.max()) + 1
    plain = PlainLoop(build(config, split, classes), config, folder, setting.threads)
    plain.epoch()
    theirs = len(plain.loader) * BATCH / seconds(plain.epoch)
    return Row(
        f"an epoch of {method} (full size) at {SIZE} pixels: bfloat16, channels-last, decoded images",
        "a plain float32 loop with torchvision's ImageFolder and a DataLoader",
        ours / theirs,
        BAR,
        ours,
        theirs,
        "images/s",
        note=f"{setting.threads} threads and as many loading processes there",
    )


class PlainLoop:
    """The same network and loss in float32, images decoded in each epoch by the standard loader's processes."""

    def __init__(self, distiller: Distiller, config: RunConfig, folder: Path, workers: int):
        from torchvision import transforms
        from torchvision.datasets import ImageFolder

        steps = [transforms.Resize(SIZE), transforms.CenterCrop(SIZE), transforms.ToTensor()]
        self.distiller, self.optimizer = distiller, make_optimizer(distiller, config)
        data = ImageFolder(folder, transforms.Compose(steps))
        self.loader = DataLoader(data, BATCH, shuffle=True, drop_last=True, num_workers=workers)

    def epoch(self) -> None:
        """One pass over the images."""
        self.distiller.train()
        for pixels, labels in self.loader:
            batch: dict[str, Tensor] = {"pixels": pixels, "label": labels, "image": torch.ones(len(labels), 2)}
            loss, _ = self.distiller(batch)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


def agreement(method: str) -> Row:
    """Whether bfloat16 costs accuracy: the embedded study's network from CLIP's stand-in, in both precisions."""
    from kdlib.evaluate.uncertainty import compare
    from kdlib.experiment import Experiment

    scores = {}
    for precision in ("bfloat16", "float32"):
        config = RunConfig(study="bench", teacher="clip", dataset="coco", method=method, epochs=5,
                           variant=precision, precision=precision, device="cpu", timed_calls=5)  # fmt: skip
        experiment = Experiment.open(config)
        experiment.train()
        scores[precision] = experiment.score(experiment.trained)
    name = experiment.exam.headline
    both = [part for side in scores.values() for part in ([side.values[name]], side.replicates[name][None])]
    found = compare([("bfloat16", "float32", *both)])[0]
    values = [side.values[name] for side in scores.values()]
    return Row(
        f"mean recall of the narrow {method} trained in bfloat16 (5 epochs, drawn shapes)",
        "the same trained in float32",
        values[0] / values[1],
        None,
        *values,
        "",
        note=f"difference {found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}], {found.verdict}",
    )
