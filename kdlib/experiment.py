"""One run, from its configuration to its result: ``Experiment.open(config)``, ``train()``, ``evaluate()``."""

import copy
import json
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from kdlib import data as datasets
from kdlib import distiller as distilling
from kdlib import features, keys, loader, result, students, tables, teachers, trainer
from kdlib.config import RunConfig
from kdlib.evaluate.protocol import Evaluation, embed, embed_teacher
from kdlib.losses import LOSSES
from kdlib.machine import keep_memory
from kdlib.utils import digest, find, locked, register, runs_root

DATA = {"dataset", "data_root", "on_overlap", "on_missing", "train_limit", "extra_images", "score_on", "cooldown"}


def open_data(config: RunConfig) -> dict[str, datasets.Dataset]:
    """The splits of a run, read once in a process for all runs on the same data."""
    return _data(config.model_dump_json(include=DATA))


@lru_cache(maxsize=4)
def _data(fields: str) -> dict[str, datasets.Dataset]:
    return datasets.open_data(RunConfig(teacher="dino", **json.loads(fields)))


def keys_of(config: RunConfig, changes: dict | None = None) -> dict[str, str]:
    """What each stage's numbers depend on. The scores of runs with equal ``images`` are paired."""
    data = open_data(config)
    prints = {name: dataset.fingerprint for name, dataset in data.items() if name != "train"}
    named = [name for name in distilling.objective_of(config) if name != "supervised"]
    own = {name: keys.own_code(find(LOSSES, name, "loss")) for name in named}
    own["student"] = keys.own_code(students.class_of(config.method))
    cached = features.features_key(config, data.get("train", data["fit"]))
    return {
        "features": cached,
        "train": keys.train_key(config, cached, own, changes),
        "evaluation": keys.evaluation_key(config, prints, cached),
        "images": digest([prints[config.score_on], config.on_bad_image]),
    }


def run_folder(config: RunConfig, key: str = "") -> Path:
    """runs/<study>/<teacher>_<dataset>/<method>[+<variant>]/seed<k>-<key8>, named by the key of the training."""
    pair = f"{config.teacher}_{config.dataset}".replace(":", ".")
    key = key or keys_of(config)["train"]
    return runs_root() / config.study / pair / config.folder / f"seed{config.seed}-{key[:8]}"


class Experiment:
    """``Experiment.open(config)``, then ``train()`` and ``evaluate()``. Each can be repeated."""

    def __init__(self, config: RunConfig):
        torch.set_num_threads(config.threads)
        keep_memory()
        self.config, self.data = config, open_data(config)
        print(datasets.summary(self.data))
        self.splits = loader.open_splits(config, self.data, students.class_of(config.method).reads)
        if self.splits["fit"].labels is None and not self.has_text:
            without = f"The teacher {config.teacher} has no text side, and {config.dataset} has no labels"
            raise ValueError(f"{without}: there is nothing to score. Take a vision-language teacher.")
        self.keys = keys_of(config)
        self.run = run_folder(config, self.keys["train"])
        self.edited: list[str] = []  # a line for each change by hand to the distiller; its run and keys are others
        self._began = None  # the distiller before its training

    @classmethod
    def open(cls, config: RunConfig, *, student=None, losses=(), teacher=None, dataset=None) -> "Experiment":
        """Read the data and build or open the features. The others are names, or a user's own classes and functions."""
        own = {
            "method": student and register(students.STUDENTS, student, "student"),
            "objective": "+".join(register(LOSSES, loss, "loss") for loss in losses),
            "teacher": teacher and register(teachers.TEACHERS, teacher, "teacher"),
            "dataset": dataset and register(datasets.DATASETS, dataset, "data set"),
        }
        return cls(RunConfig(**config.model_dump() | {name: value for name, value in own.items() if value}))

    @classmethod
    def from_run(cls, run: str | Path) -> "Experiment":
        """A finished run opened again, from its folder: nothing is trained, and no other folder is taken."""
        record = result.read(Path(run))
        if record["edited"]:
            raise ValueError(f"{run} was trained from a module that a notebook edited: open it in that notebook.")
        experiment = cls(RunConfig(**record["config"]))
        experiment.run, experiment.keys = Path(run), record["keys"]
        return experiment

    @property
    def has_text(self) -> bool:
        """Whether teacher and data have a text side."""
        return self.splits["fit"].has_text

    @property
    def result(self) -> dict:
        """The record of the finished run; see docs/results.md."""
        return result.read(self.run)

    @cached_property
    def evaluation(self) -> Evaluation:
        """All scores that this data allows, on the split that the configuration names."""
        return Evaluation(self.splits, self.config.score_on)

    def distiller(self, **changed) -> distilling.Distiller:
        """Student and losses with the initial weights of this seed; ``changed``: fields of the configuration."""
        config = self.config.model_copy(update=changed)
        return distilling.build(config, self.splits["fit"], len(self.data["fit"].class_names))

    def loader(self, distiller: distilling.Distiller) -> loader.TrainLoader:
        """The training batches: ``for batch in experiment.loader(distiller).epoch(1)``."""
        student, objective = distiller.student, set(distiller.objective)
        split = self.splits.get("train", self.splits["fit"])
        loader.check(split, objective, distiller.config, student.reads)
        anchors = distiller.config.anchors if "anchor_kl" in objective else 0
        return loader.TrainLoader(split, distiller.config, student.reads, student.text_reads, student.attends, anchors)

    def train(self, distiller: distilling.Distiller | None = None) -> pd.DataFrame:
        """Train to the largest budget, from the last checkpoint; an edited ``distiller`` has a folder of its own."""
        fresh = self.distiller()
        distiller = fresh if distiller is None else distiller
        began, then = distiller.__dict__.pop("_trained", (None, None))
        if began is None or then != keys.description(distiller):  # else the cell is run again: that is no edit
            began = copy.deepcopy(distiller)
        distiller.load_state_dict(began.state_dict())
        changes = keys.changes(fresh, began)
        self._began, self.edited, self.keys = began, keys.in_words(changes), keys_of(self.config, changes)
        self.run = run_folder(self.config, self.keys["train"])
        # The distiller's own settings decide how it is trained, the configuration all else.
        config = self.config.model_copy(update=distiller.config.training())
        try:
            with locked(self.run / ".lock"):  # a second notebook on the same run waits
                history = trainer.train(distiller, self.loader(distiller), config, self.run, self.keys["train"])
        finally:
            distiller.__dict__["_trained"] = began, keys.description(distiller)
        return pd.DataFrame(history)

    def initial(self, **changed) -> distilling.Distiller:
        """The distiller before its first training step, with what was edited; else as :meth:`distiller` makes it."""
        return self.distiller(**changed) if self._began is None else copy.deepcopy(self._began)

    def trained(self, epochs: int = 0) -> distilling.Distiller:
        """The distiller after a budget, by default the largest, from its checkpoint."""
        epochs = epochs or max(self.config.epochs)
        path = trainer.checkpoint_of(self.run, self.keys["train"], epochs, self.config)
        if path is None:
            raise FileNotFoundError(f"{self.run}: there is no checkpoint of {epochs} epochs; train() first.")
        # Its weights are the checkpoint's: pretrained ones need not be downloaded for it.
        distiller = self.initial(pretrained=False)
        trainer.restore(path, distiller)
        return distiller.eval()

    def evaluate(self) -> pd.DataFrame:
        """Score every budget that is not scored yet, write the result, return its rows as ``kdlib.results`` does."""
        with locked(self.run / ".lock"):
            record = result.write(self)
        rows = [row for epochs in self.config.epochs for row in tables.scores_of(record, self.run, epochs)]
        return tables.ordered(pd.DataFrame(rows))

    def embed(self, split: str = "", who: str = "student") -> dict[str, np.ndarray]:
        """Embeddings of a split, by the student of the last budget or the 'teacher': image (N, D), text (M, D),
        and image_attention (N, grid places) where there is a map. Captions are in the order of :meth:`captions`.
        """
        part = self.splits[split or self.config.score_on]
        if who == "teacher":
            looks = torch.from_numpy(np.array(part.features["image_attention"]))
            arrays = embed_teacher(part) | {"image_attention": looks}
        else:
            arrays = embed(self.trained().student, part, self.config.device)
        return {name: values.float().numpy() for name, values in arrays.items()}

    def captions(self, split: str = "") -> list[str]:
        """The captions of a split, in the order of its texts."""
        split = split or self.config.score_on
        return [text for row in self.splits[split].features.rows for text in self.data[split].captions[row]]

    def photo(self, split: str, row: int):
        """Image ``row`` of a split's features, as a PIL image."""
        return self.data[split].images[int(self.splits[split].features.rows[row])]

    @property
    def cost(self) -> pd.Series:
        """Sizes in MB of 2^20 bytes, seconds of training, milliseconds of inference (medians), multiply-accumulates."""
        size, time = self.result["size"], self.result["time"]
        speed = {f"{name}_ms": value["p50_ms"] for name, value in time.items() if name.split("_")[-1] in ("1", "32")}
        macs = {f"{side}_macs": value for side, value in time["macs"].items()}
        return pd.Series(size | {"epoch_s": time["epoch_s"]} | speed | macs)
