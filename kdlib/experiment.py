"""One run, from its configuration to its result: ``Experiment.open(config)``, ``train()``, ``evaluate()``."""

import copy
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from kdlib import data as datasets
from kdlib import distiller as distilling
from kdlib import features, keys, loader, result, students, tables, teachers, trainer
from kdlib.config import RunConfig
from kdlib.evaluate.protocol import Evaluation, embed, embed_teacher
from kdlib.losses import LOSSES
from kdlib.machine import choose, keep_memory
from kdlib.utils import digest, find, locked, read_json, register, runs_root

# What the splits of a run depend on.
DATA = ("dataset", "data_root", "on_bad_image", "on_overlap", "on_missing", "train_limit", "extra_images", "score_on")


def open_data(config: RunConfig) -> dict[str, datasets.Dataset]:
    """The splits of a run, read once in a process for all runs on the same data."""
    fields = {name: getattr(config, name) for name in DATA} | {"cooldown": bool(config.cooldown)}
    return _data(*fields.items())


@lru_cache(maxsize=4)
def _data(*fields: tuple) -> dict[str, datasets.Dataset]:
    return datasets.open_data(RunConfig(teacher="dino", **dict(fields)))


def features_key_of(config: RunConfig) -> str:
    """What the teacher's features of the training images depend on; equal keys share one cache."""
    data = open_data(config)
    return features.features_key(config, data.get("train", data["fit"]))


def keys_of(config: RunConfig, changes: dict | None = None) -> dict[str, str]:
    """``features``, ``train``, ``evaluation`` and ``images``: what each stage's numbers depend on.

    Runs with equal ``images`` are scored on the same images: their scores are paired.
    """
    prints = {name: dataset.fingerprint for name, dataset in open_data(config).items() if name != "train"}
    student = find(students.STUDENTS, config.method, "student")
    own = {"student": keys.own_code(student)} | {
        name: keys.own_code(find(LOSSES, name, "loss"))
        for name in distilling.objective_of(config)
        if name != "supervised"
    }
    cached = features_key_of(config)
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


def is_done(config: RunConfig, folder: Path) -> str:
    """'' where every budget has a result of the current evaluation; else the reason, in words."""
    record = read_json(folder / "result.json")
    if record is None or not (folder / "scores.npz").exists():
        return "not run yet"
    evaluation = keys_of(config)["evaluation"]
    for epochs in config.epochs:
        budget = record["budgets"].get(str(epochs))
        if budget is None:
            return f"{epochs} epochs are not scored yet"
        if budget["evaluation"] != evaluation:
            return "the evaluation has changed"
    return ""


def _result(run: str | Path) -> dict:
    if (record := read_json(Path(run) / "result.json")) is None:
        raise FileNotFoundError(f"{run} has no result.json: it is no finished run, as .../seed0-1a2b3c4d.")
    return record


def build_features(config: RunConfig) -> None:
    """Build what is missing of the features that a run reads."""
    loader.open_splits(config, open_data(config), students.class_of(config.method).reads)


class Experiment:
    """``Experiment.open(config)``, then ``train()`` and ``evaluate()``. Each can be repeated.

    ``edited``: a line for each change made by hand to the distiller that was trained. If there is one, ``run`` and
    ``keys`` belong to the edited training, not to the configuration.
    """

    def __init__(self, config: RunConfig, run: Path | None = None, own_keys: dict | None = None):
        torch.set_num_threads(config.threads)
        keep_memory()
        self.config, self.data = config, open_data(config)
        self.splits = loader.open_splits(config, self.data, students.class_of(config.method).reads)
        if self.splits["fit"].labels is None and not self.has_text:
            raise ValueError(
                f"The teacher {config.teacher} has no text side and {config.dataset} has captions but no labels: "
                "there is nothing to score. Take a vision-language teacher, or a data set with labels."
            )
        self.keys = own_keys or keys_of(config)
        self.run = run or run_folder(config, self.keys["train"])
        self.edited: list[str] = []
        self._began = None

    @classmethod
    def open(
        cls,
        config: RunConfig,
        *,
        student: Any = None,
        losses: Sequence[str | Callable] = (),
        teacher: Any = None,
        dataset: Any = None,
    ) -> "Experiment":
        """Read the data and build or open the features.

        ``student``, ``losses``, ``teacher`` and ``dataset`` replace the configuration's: names, or a user's own
        classes and functions, which are registered under their own names.
        """
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
        record = _result(run)
        if record["edited"]:
            raise ValueError(f"{run} was trained from a module that a notebook edited: open it in that notebook.")
        return cls(RunConfig(**record["config"]), Path(run), record["keys"])

    @property
    def has_text(self) -> bool:
        """Whether teacher and data have a text side."""
        return self.splits["fit"].has_text

    @property
    def result(self) -> dict:
        """The record of the finished run; see docs/results.md."""
        return _result(self.run)

    @cached_property
    def evaluation(self) -> Evaluation:
        """All scores that this data allows, on the split that the configuration names."""
        return Evaluation(self.splits, self.config.score_on)

    # ---------------------------------------------------------------- training

    def distiller(self) -> distilling.Distiller:
        """Student and losses with the initial weights of this seed."""
        made = self._build()
        made.__dict__["_made_from"] = self.config
        return made

    def _build(self, **changed) -> distilling.Distiller:
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
        """Train to the largest budget, or continue from the last checkpoint. A row an epoch: loss, terms, seconds.

        ``distiller``: one from :meth:`distiller`, which may have been edited (a layer, initial weights, what is
        frozen, a loss, its settings). An edited training has a key and a folder of its own, and its result lists the
        edits.
        """
        fresh = self.distiller()
        distiller = fresh if distiller is None else distiller
        made, now = getattr(distiller, "_made_from", self.config).training(), self.config.training()
        if other := [f"{name} was {made[name]!r} and is {now[name]!r}" for name in now if made[name] != now[name]]:
            raise ValueError(f"This distiller is of another configuration ({', '.join(other)}): make it again.")
        self._began = began = keys.as_it_began(distiller)
        changes = keys.changes(fresh, began)
        self.edited, self.keys = keys.in_words(changes), keys_of(self.config, changes)
        self.run = run_folder(self.config, self.keys["train"])
        distiller.load_state_dict(began.state_dict())
        # The distiller's own settings decide how it is trained, the configuration all else.
        config = self.config.model_copy(update=distiller.config.training())
        try:
            with locked(self.run / ".lock"):  # a second notebook on the same run waits
                history = trainer.train(distiller, self.loader(distiller), config, self.run, self.keys["train"])
        finally:
            keys.mark(distiller, began)
        return pd.DataFrame(history)

    def initial(self) -> distilling.Distiller:
        """The distiller before its first training step."""
        return self._build() if self._began is None else copy.deepcopy(self._began)

    def trained(self, epochs: int = 0) -> distilling.Distiller:
        """The distiller after a budget, by default the largest, from its checkpoint."""
        epochs = epochs or max(self.config.epochs)
        path = trainer.checkpoint_of(self.run, self.keys["train"], epochs, self.config)
        if path is None:
            raise FileNotFoundError(f"{self.run}: there is no checkpoint of {epochs} epochs; train() first.")
        # Its weights are the checkpoint's: pretrained ones need not be downloaded for it.
        distiller = self._build(pretrained=False) if self._began is None else copy.deepcopy(self._began)
        trainer.restore(path, distiller)
        return distiller.eval()

    # ---------------------------------------------------------------- what came of it

    def evaluate(self) -> pd.DataFrame:
        """Score every budget that is not scored yet, write the result, return its rows as ``kdlib.results`` does."""
        with locked(self.run / ".lock"):  # a second notebook on the same run waits
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
            arrays = embed(self.trained().student, part, choose(self.config.device))
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
