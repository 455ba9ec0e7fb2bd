"""One cell of a study, from its configuration to its result. A notebook shows; this computes."""

import os
import subprocess
import time
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import kdlib
from kdlib import checkpoints, code, features, students, teachers
from kdlib import data as datasets
from kdlib.config import RunConfig
from kdlib.device import choose, hardware
from kdlib.distiller import OBJECTIVES, Distiller
from kdlib.evaluate import knn, retrieval
from kdlib.evaluate.cost import student_cost
from kdlib.evaluate.embed import embed, teacher_features
from kdlib.loader import Split, TrainLoader
from kdlib.runs import RunDir, digest, file_digest, project_root, read_json, runs_root, write_json
from kdlib.seeding import derive
from kdlib.trainer import train

DEFAULT_OBJECTIVE = ("logit_matching",)
SCHEMA = 1  # of the result record; raised when a field changes its meaning


@dataclass
class Cell:
    """``Cell.open(config)``, then ``train()``, ``evaluate()``, ``finish(...)``. Each can be repeated."""

    config: RunConfig
    run: RunDir
    splits: dict[str, Split]
    data: dict[str, datasets.Dataset]
    keys: dict[str, str]

    @classmethod
    def open(cls, config: RunConfig, splits: tuple[str, ...] | None = None) -> "Cell":
        """Load the data, build or open the feature stores, claim the run's folder."""
        torch.set_num_threads(config.threads)
        data = load_data(config, splits)
        stores = {split: teacher_store(config, dataset) for split, dataset in data.items()}
        if data["fit"].labels is None and "text_pooled" not in stores["fit"]:
            raise ValueError(
                f"The teacher {config.teacher} has no text side and {config.dataset} has captions but no labels: "
                "there is nothing to score. Take a vision-language teacher, or a data set with labels."
            )
        reads_pixels = reads(config.method) == "pixels"
        opened = {}
        for split, dataset in data.items():
            pixels = pixel_store(config, dataset) if reads_pixels else None
            labels = None if dataset.labels is None else dataset.labels[stores[split].rows]
            opened[split] = Split(split, stores[split], pixels, labels)
        keys = cell_keys(config, data, teachers.describe(config.teacher, _source(config), config.revision))
        run = run_dir(config)
        run.claim(config.model_dump(), keys["train"])
        return cls(config, run, opened, data, keys)

    @property
    def has_text(self) -> bool:
        return self.splits["fit"].has_text

    def distiller(self) -> Distiller:
        """Student and losses with the initial weights of this seed."""
        store = self.splits["fit"].store
        spec = students.StudentSpec(
            teacher_width=store["image_pooled"].shape[1],
            width=self.config.width,
            grid=tuple(store.manifest["facts"]["grid"]),
            text=self.has_text,
            bottleneck=self.config.bottleneck,
            heads=self.config.heads,
            convnet=self.config.convnet,
            pretrained=self.config.pretrained,
        )
        torch.manual_seed(derive(self.config.seed, "weights"))
        student = students.build(self.config.method, spec)
        objective = OBJECTIVES.get(self.config.method, DEFAULT_OBJECTIVE)
        return Distiller(student, objective, self.config, self.splits["fit"].teacher_scale)

    @cached_property
    def trained(self) -> Distiller:
        """The distiller as of ``config.epochs``, from its checkpoint. Raises FileNotFoundError before training."""
        folder = checkpoints.latest(self.run, self.keys["train"], up_to=self.config.epochs)
        if folder is None or not folder.name.endswith(f"{self.config.epochs:04d}"):
            raise FileNotFoundError(f"{self.run.path}: no checkpoint of epoch {self.config.epochs}; train() first.")
        distiller = self.distiller()
        checkpoints.restore(folder, distiller)
        return distiller

    def train(self) -> list[dict]:
        """Train, or go on from the last checkpoint; the history, one record an epoch."""
        distiller = self.distiller()
        config = self.config
        loader = TrainLoader(
            self.splits["fit"], distiller.student.reads, config.batch_size, config.seed, config.train_limit
        )
        history = train(distiller, loader, config, self.run, self.keys["train"])
        self.__dict__.pop("trained", None)
        return history

    def embeddings(self, student: students.Student | None) -> dict[str, dict[str, Tensor]]:
        """Per split, what a student (None: the teacher) makes of it."""
        needed = ("test",) if self.has_text else ("fit", "dev", "test")
        if student is None:
            return {name: teacher_features(self.splits[name]) for name in needed}
        return {name: embed(student, self.splits[name], self.config.device) for name in needed}

    def score(self, embedded: dict[str, dict[str, Tensor]]) -> dict[str, float]:
        """Retrieval where there are captions, k-NN where there are labels; shares in [0, 1]."""
        test = embedded["test"]
        if self.has_text:
            return retrieval.evaluate(test["image"], test["text"], self.splits["test"].owner)
        bank = torch.cat([embedded["fit"]["image"], embedded["dev"]["image"]])
        labels = np.concatenate([self.splits["fit"].labels, self.splits["dev"].labels])
        scores = knn.evaluate(bank, labels, test["image"], self.splits["test"].labels)
        # The study's figure for this data: each image looks for itself. Degenerate, and shown as that.
        identity = retrieval.in_batch(test["image"], test["image"])
        return scores | {name: float(values.mean()) for name, values in identity.items()}

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Scores of the teacher, of the student before training, and of the student after it."""
        return self.controls() | {"student": self.score(self.embeddings(self.trained.student))}

    def controls(self) -> dict[str, dict[str, float]]:
        """Scores of the teacher and of the untrained student: the same at every number of epochs, so kept."""
        path = self.run.path / "controls.json"
        key = digest([self.keys["train"], code.digest_of("evaluation")])
        record = read_json(path)
        if record is None or record["key"] != key:
            scores = {
                "teacher": self.score(self.embeddings(None)),
                "untrained": self.score(self.embeddings(self.distiller().student)),
            }
            record = {"key": key, "scores": scores}
            write_json(path, record)
        return record["scores"]

    def finish(self, scores: dict, history: list[dict]) -> dict:
        """Write the result of this cell, last and whole, and return it."""
        device = choose(self.config.device)
        cost = student_cost(self.trained.student, self.splits["test"], self.config.device)
        facts = self.splits["fit"].store.manifest["facts"]
        checkpoint = self.run.checkpoints / f"epoch-{self.config.epochs:04d}"
        result = {
            "schema": SCHEMA,
            "outcome": "ok",
            "config": self.config.model_dump(),
            "keys": self.keys,
            "headline": headline(self.has_text),
            "scores": scores,
            "size": sizes(cost, facts["cost"], self.trained.student.reads, self.has_text),
            "time": times(cost, facts["cost"], self.trained.student.reads, history),
            "history": history,
            "teacher": {name: facts[name] for name in ("family", "source", "revision", "untrained", "grid")}
            | {"store_seconds": sum(split.store.manifest["build_seconds"] for split in self.splits.values())},
            "data": {
                name: {
                    "images": len(split),
                    "skipped": len(split.store.skipped),
                    "ids_sha256": features.identity_hash(split.store.ids),
                    "fingerprint": self.data[name].fingerprint,
                }
                for name, split in self.splits.items()
            },
            "checkpoint": {name: file_digest(checkpoint / name) for name in checkpoints.FILES},
            "hardware": hardware(device),
            "versions": versions(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        write_json(self.run.result_path(self.config.epochs), result)
        self.run.failure_path(self.config.epochs).unlink(missing_ok=True)
        return result


def headline(has_text: bool) -> str:
    """The one score that stands for a cell."""
    return retrieval.HEADLINE if has_text else f"knn@{knn.HEADLINE}_top1"


def sizes(cost: dict, teacher: dict, reads: str, has_text: bool) -> dict[str, float]:
    """MB: ``student_mb`` all that is trained, ``image_mb`` without its text side, ``deployed_mb`` all that runs."""
    needed = (teacher["text_mb"] if has_text else 0.0) + (0.0 if reads == "pixels" else teacher["image_mb"])
    return {
        "student_mb": cost["student_mb"],
        "image_mb": cost["student_mb"] - cost["text_mb"],
        "deployed_mb": cost["student_mb"] + needed,
    }


def times(cost: dict, teacher: dict, reads: str, history: list[dict]) -> dict:
    """Seconds an epoch (median without the first where there are more), milliseconds from pixels to embedding."""
    later = [record["seconds"] for record in history[1:]] or [history[0]["seconds"]]
    record = {
        "seconds_per_epoch": float(np.median(later)),
        "first_epoch_seconds": history[0]["seconds"],
        "data_share": float(np.mean([record["data_share"] for record in history])),
        "teacher": "cached",
    }
    for batch in ("batch_1", "batch_32"):
        backbone = 0.0 if reads == "pixels" else teacher[batch]["p50_ms"]
        record[batch] = {
            "student_ms": cost[batch]["p50_ms"],
            "from_pixels_ms": backbone + cost[batch]["p50_ms"],
        }
    return record


# ---------------------------------------------------------------- what a cell is made of


def run_dir(config: RunConfig) -> RunDir:
    """runs/<study>/<teacher>_<dataset>/<method>/seed<k>."""
    names = (f"{config.teacher}_{config.dataset}", config.method, f"seed{config.seed}")
    return RunDir(runs_root().joinpath(config.study, *(name.replace(":", ".") for name in names)))


def load_data(config: RunConfig, splits: tuple[str, ...] | None = None) -> dict[str, datasets.Dataset]:
    """The splits that a cell reads: all three, but no dev where the scores need none (captions)."""
    first = datasets.load(config.dataset, config.data_root, "fit")
    wanted = splits or (("fit", "test") if first.captions is not None else ("fit", "dev", "test"))
    rest = {name: datasets.load(config.dataset, config.data_root, name) for name in wanted if name != "fit"}
    return {name: first if name == "fit" else rest[name] for name in wanted}


def _source(config: RunConfig) -> str:
    return config.checkpoint or teachers.TEACHERS[config.teacher].DEFAULT


def reads(method: str) -> str:
    """What a student of this method reads of an image: features, tokens or pixels."""
    return students.class_of(method).reads


def teacher_store(config: RunConfig, dataset: datasets.Dataset) -> features.FeatureStore:
    """The teacher's features of one split, computed now if they never were."""
    description = teachers.describe(config.teacher, _source(config), config.revision)
    description |= {"allow_untrained": config.allow_untrained}
    parts = features.teacher_parts(description, dataset, config.feature_dtype)

    def load():
        device = str(choose(config.device))
        return teachers.load(config.teacher, config.checkpoint, config.revision, config.allow_untrained, device)

    encoder = features.teacher_encoder(load, config.feature_dtype)
    return features.ensure(parts, dataset, encoder, config.on_bad_image)


def pixel_store(config: RunConfig, dataset: datasets.Dataset) -> features.FeatureStore:
    """The decoded images of one split at the size that ResNet and DenseNet read."""
    parts = features.pixel_parts(dataset, config.image_size)
    return features.ensure(parts, dataset, features.pixel_encoder(config.image_size), config.on_bad_image)


def cell_keys(config: RunConfig, data: dict[str, datasets.Dataset], teacher: dict) -> dict[str, str]:
    """``features``, ``train`` and ``cell``: SHA-256 over what each stage's numbers depend on."""
    fingerprints = {name: dataset.fingerprint for name, dataset in data.items()}
    stored = digest(
        {
            "teacher": teacher,
            "data": fingerprints,
            "dtype": config.feature_dtype,
            "bad": config.on_bad_image,
            "code": code.digest_of("features"),
        }
    )
    training = {"features": stored, "config": config.training(), "code": code.digest_of("training")}
    trained = digest(training)
    scored = digest({"train": trained, "epochs": config.epochs, "code": code.digest_of("evaluation")})
    return {"features": stored, "train": trained, "cell": scored}


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    names = ("torch", "torchvision", "transformers", "numpy", "safetensors")
    return {"kdlib": kdlib.__version__, "commit": commit(), **{name: version(name) for name in names}}


def commit() -> str:
    """The git commit of the checkout, marked where files differ from it; '' outside a checkout."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        root = Path(os.fspath(project_root()))
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
