"""One experiment of a study, from its configuration to its result. Notebooks only show what is computed here."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdlib import checkpoints, edits, sources, students, teachers
from kdlib import data as datasets
from kdlib.config import RunConfig
from kdlib.distiller import LOSSES, Distiller, build, objective_of
from kdlib.evaluate import controls
from kdlib.evaluate.controls import wire
from kdlib.evaluate.embed import embed
from kdlib.evaluate.exam import Exam, Scores
from kdlib.features.loader import Split, TrainLoader, with_shuffled_words
from kdlib.files import (
    RunDir,
    digest,
    read_record,
    runs_root,
    seal,
    write_arrays,
    write_json,
)
from kdlib.keys import edited_keys, experiment_keys
from kdlib.machine import choose
from kdlib.progress import Progress
from kdlib.result import result_of
from kdlib.trainer import cooldown_epochs, train

BATCHES, BATCH_ROWS, BATCH_SLACK = (1, 32, 256), 256, 1e-4  # for _batch_changes_nothing


def teacher_folder(config: RunConfig):
    """The folder that the experiments of one teacher and data set share: runs/<study>/<teacher>_<dataset>."""
    return runs_root().joinpath(config.study, f"{config.teacher}_{config.dataset}".replace(":", "."))


def run_dir(config: RunConfig) -> RunDir:
    """The folder of a run: runs/<study>/<teacher>_<dataset>/<method>[+<variant>]/seed<k>."""
    return RunDir(teacher_folder(config) / config.folder / f"seed{config.seed}")


def _with_own(config: RunConfig, student: Any, losses: Sequence, teacher: Any) -> RunConfig:
    """Register a user's own student, losses and teacher. Returns the configuration with their names."""
    given = {
        "method": students.STUDENTS.name_of(student) if student else "",
        "objective": "+".join(map(LOSSES.name_of, losses)),
        "teacher": teachers.TEACHERS.name_of(teacher) if teacher else "",
    }
    return RunConfig(**config.model_dump() | {name: value for name, value in given.items() if value})


@dataclass
class Experiment:
    """``Experiment.open(config)``, then ``train()``, ``evaluate()``, ``finish(...)``. Each can be repeated.

    ``edited``: one line for each change that was made by hand to the trained distiller. If there is one, ``run`` and
    ``keys`` belong to the edited training, not to the configuration.
    """

    config: RunConfig
    run: RunDir
    splits: dict[str, Split]
    data: dict[str, datasets.Dataset]
    keys: dict[str, str]
    edited: list[str] = field(default_factory=list)

    def __post_init__(self):
        self._opened, self._began = (self.run, self.keys), None

    @classmethod
    def open(
        cls,
        config: RunConfig,
        *,
        student: type[students.Student] | None = None,
        losses: Sequence[str | Callable] = (),
        teacher: Any = None,
    ) -> "Experiment":
        """Load the data, build or open the feature stores, claim the run's folder.

        ``student``, ``losses`` and ``teacher`` replace the configuration's. They are names, or a user's own classes
        and functions, which are registered under their own names.
        """
        config = _with_own(config, student, losses, teacher)
        torch.set_num_threads(config.threads)
        data = sources.load_data(config)
        opened = sources.open_splits(config, data)
        if opened["fit"].labels is None and not opened["fit"].has_text:
            raise ValueError(
                f"The teacher {config.teacher} has no text side and {config.dataset} has captions but no labels: "
                "there is nothing to score. Take a vision-language teacher, or a data set with labels."
            )
        described = teachers.describe(config.teacher, sources.source(config), config.revision)
        keys = experiment_keys(config, data, described)
        opened_here = cls(config, run_dir(config), opened, data, keys)
        with opened_here._writing("opening"):
            return opened_here

    def _writing(self, doing: str):
        """Lock the run's folder for this training; see :meth:`kdlib.files.RunDir.writing`."""
        return self.run.writing(self.config.model_dump(), self.keys["train"], doing)

    @property
    def has_text(self) -> bool:
        """Whether teacher and data have a text side."""
        return self.splits["fit"].has_text

    @cached_property
    def exam(self) -> Exam:
        """All scores of this experiment's data and split; see :class:`kdlib.evaluate.exam.Exam`."""
        return Exam(self.splits, self.config.score_on, self.config.linear_probe)

    @property
    def objective(self) -> tuple[str, ...]:
        """The losses that train this experiment: the configuration's, else the method's."""
        return objective_of(self.config)

    def distiller(self) -> Distiller:
        """Student and losses with the initial weights of this seed."""
        made = build(self.config, self.splits["fit"], len(self.data["fit"].class_names))
        made.__dict__["_made_from"] = self.config
        return made

    @property
    def checkpoint(self) -> Path | None:
        """The folder of the checkpoint that is scored; None before training."""
        return checkpoints.scored(self.run, self.keys["train"], self.config.epochs, cooldown_epochs(self.config))

    @cached_property
    def trained(self) -> Distiller:
        """The distiller after ``config.epochs`` epochs, from its checkpoint. FileNotFoundError before training."""
        folder = self.checkpoint
        if folder is None:
            raise FileNotFoundError(f"{self.run.path}: no checkpoint of epoch {self.config.epochs}; train() first.")
        distiller = self.untrained()
        checkpoints.restore(folder, distiller)
        return distiller

    def loader(self, distiller: Distiller) -> TrainLoader:
        """The training batches: ``for batch in experiment.loader(distiller).epoch(1)``."""
        config, student = distiller.config, distiller.student
        return TrainLoader(
            sources.training_split(config, self.splits, set(distiller.objective)),
            student.reads,
            config.batch_size,
            config.seed,
            config.train_limit,
            text_reads=student.text_reads,
            attention=student.attends,
            anchors=config.anchors if "anchor_kl" in distiller.objective else 0,
            views=sources.views_of(config),
            device=choose(config.device),
        )

    def train(self, distiller: Distiller | None = None) -> list[dict]:
        """Train, or go on from the last checkpoint. Returns the history, one record per epoch.

        ``distiller``: one from :meth:`distiller`, which may have been edited (a layer, initial weights, what is
        frozen, a loss or its settings). An edited training has a folder and keys of its own, which depend on the edit,
        and its result lists the edits. Training with the same edit goes on from its own checkpoints.
        """
        if distiller is not None:
            self._check_made_here(distiller)
        fresh = self.distiller()
        self._take(fresh, fresh if distiller is None else edits.as_it_began(distiller))
        if distiller is None:
            distiller = fresh
        else:
            distiller.load_state_dict(self._began.state_dict())
        # The distiller's own parameters decide how it is trained, the experiment's decide all else.
        config = self.config.model_copy(update=distiller.config.training())
        try:
            with self._writing("training"):
                history = train(distiller, self.loader(distiller), config, self.run, self.keys["train"])
        finally:
            edits.mark(distiller, self._began)
        return history

    def _check_made_here(self, distiller: Distiller) -> None:
        """Raise ValueError for a distiller that was made before the notebook's parameters were changed."""
        made, now = getattr(distiller, "_made_from", self.config).training(), self.config.training()
        if other := [f"{name} was {made[name]!r} and is {now[name]!r}" for name in now if made[name] != now[name]]:
            raise ValueError(
                f"This distiller was made from another configuration: {', '.join(other)}. Make it again: "
                "distiller = experiment.distiller()"
            )

    def _take(self, fresh: Distiller, began: Distiller) -> None:
        """Set ``run`` and ``keys`` to those of a training that starts from ``began``."""
        changes = {} if began is fresh else edits.changes(fresh, began)
        self.run, self.keys = self._opened
        self.__dict__.pop("trained", None)
        self._began, self.edited = copy.deepcopy(began), edits.in_words(changes)
        if changes:
            self.keys = edited_keys(self.keys, self.config, changes)
            method, seed = self.run.path.parent, self.run.path.name
            self.run = RunDir(method.with_name(f"{method.name}+edited-{self.keys['train'][:8]}") / seed)

    def untrained(self) -> Distiller:
        """The distiller before its first training step."""
        return self.distiller() if self._began is None else copy.deepcopy(self._began)

    def embeddings(self, student: students.Student) -> dict[str, dict[str, Tensor]]:
        """A student's embeddings of the splits that the scores need: split -> side -> (N, D)."""
        return {name: embed(student, self.splits[name], self.config.device) for name in self.exam.needed}

    def score(self, distiller: Distiller, embedded: dict[str, dict[str, Tensor]] | None = None) -> Scores:
        """All scores of a distiller's student; ``embedded``: its :meth:`embeddings`, where they exist already."""
        return self.exam.score(embedded or self.embeddings(distiller.student))

    def controls(self) -> dict:
        """What this student is compared with: the controls of its teacher, and the student before training.

        See :func:`kdlib.evaluate.controls.ensure`; the row 'untrained' is added.
        """
        record = controls.ensure(teacher_folder(self.config), self.keys["exam"], self.exam, self.config.width)
        path = self.run.path / "untrained.json"
        key = digest([self.keys["train"], self.keys["exam"]])
        untrained = read_record(path)
        if untrained is None or untrained.get("key") != key or not path.with_suffix(".npz").exists():
            with self._writing("scoring"):
                scores = self.score(self.untrained())
                write_arrays(path.with_suffix(".npz"), scores.arrays("untrained"))
                untrained = {"key": key, "scores": scores.values, "facts": scores.facts}
                write_json(path, untrained)
        return record | {
            "scores": record["scores"] | {"untrained": untrained["scores"]},
            "facts": record["facts"] | {"untrained": untrained["facts"]},
        }

    def evaluate(self) -> dict:
        """Scores of the controls and of the trained student; its embeddings and credits go to the run's folder.

        Returns {"scores": row -> name -> number, "facts", "wires", "degenerate"}.
        """
        with self._writing("scoring"), Progress("scoring", 4, every_seconds=0) as bar:
            bar.update(0, "controls and the untrained student")
            record = self.controls()
            bar.update(1, "embedding images and texts")
            embedded = self.embeddings(self.trained.student)
            write_arrays(self.run.embeddings_path(self.config.epochs), self._flat(embedded))
            bar.update(2, "scores and their intervals")
            scores, on_dev = self.score(self.trained, embedded), self._on_dev(embedded)
            arrays = scores.arrays("student") | (on_dev.arrays("dev") if on_dev else {})
            write_arrays(self.run.scores_path(self.config.epochs), arrays)
            bar.update(3, "checks")
            shuffled, wires = self._words_shuffled(embedded), [*record["wires"], self._batch_changes_nothing()]
            bar.update(4)
        untrained = record["scores"]["untrained"]
        return {
            "scores": record["scores"]
            | {"student": scores.values}
            | ({"dev": on_dev.values} if on_dev else {})
            | shuffled,
            "facts": record["facts"] | {"student": scores.facts},
            "wires": wires,
            "degenerate": sorted(name for name, value in untrained.items() if _is_degenerate(name, value)),
            "controls": record["arrays"],
        }

    def _words_shuffled(self, embedded: dict[str, dict[str, Tensor]]) -> dict:
        """The row 'words shuffled' of a student with its own text encoder: its scores on captions in random order."""
        if self.trained.student.text_reads != "ids":
            return {}
        on = self.exam.on
        mixed = with_shuffled_words(self.splits[on])
        text = embed(self.trained.student, mixed, self.config.device)["text"]
        return {"words shuffled": self.score(self.trained, embedded | {on: embedded[on] | {"text": text}}).values}

    def _on_dev(self, embedded: dict[str, dict[str, Tensor]]) -> Scores | None:
        """The scores on dev of a student that was cooled down. They decide whether it has converged."""
        if not self.config.cooldown or self.config.score_on == "dev":
            return None
        exam = Exam(self.splits, "dev")
        student, missing = self.trained.student, [name for name in exam.needed if name not in embedded]
        embedded = embedded | {name: embed(student, self.splits[name], self.config.device) for name in missing}
        return exam.score(embedded)

    def _flat(self, embedded: dict[str, dict[str, Tensor]]) -> dict:
        """Arrays by '<split>/<name>': embeddings, labels, categories, and the image that each caption belongs to."""
        arrays = {
            f"{split}/{side}": values.numpy() for split, sides in embedded.items() for side, values in sides.items()
        }
        for name in embedded:
            split = self.splits[name]
            owner = split.owner if split.has_text else None
            given = {"owner": owner, "labels": split.labels, "relevant": split.relevant}
            arrays |= {f"{name}/{kind}": values for kind, values in given.items() if values is not None}
        return arrays

    def _batch_changes_nothing(self) -> dict:
        """The trip-wire that embeddings must not depend on the batch size; checked on the first scored images."""
        student, split = self.trained.student, self.exam.scored
        made = [embed(student, split, self.config.device, batch, limit=BATCH_ROWS) for batch in BATCHES]
        away = max((other[name] - made[0][name]).abs().max().item() for other in made[1:] for name in other)
        sizes = ", ".join(map(str, BATCHES))
        return wire(f"evaluation batches of {sizes} embed alike", away < BATCH_SLACK, f"differs by {away:.1e}")

    def finish(self, evaluation: dict, history: list[dict]) -> dict:
        """Write the result of this experiment, after all files that it refers to, and return it."""
        with self._writing("measuring cost"):
            result = seal(result_of(self, evaluation, history))
            write_json(self.run.result_path(self.config.epochs), result)
            self.run.failure_path(self.config.epochs).unlink(missing_ok=True)
        return result


def _is_degenerate(name: str, untrained: float) -> bool:
    """Whether the untrained student already has nearly the full score, which then says nothing about training."""
    return untrained > 0.99 and not name.endswith(("_rank", "_kl"))
