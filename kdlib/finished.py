"""Opens a finished run from its files: record, scored data, features, embeddings and student.

It trains nothing and loads no teacher: the teacher's features come from the store that the run was scored with.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image
from torch import Tensor, from_numpy

from kdlib import data as datasets
from kdlib.config import RunConfig
from kdlib.distiller import Distiller
from kdlib.evaluate.embed import teacher_features
from kdlib.evaluate.metrics import unit_rows
from kdlib.evaluate.uncertainty import interval
from kdlib.experiment import Experiment
from kdlib.features.loader import Split
from kdlib.features.npy import StoreError
from kdlib.features.store import FeatureStore, is_built, store_path
from kdlib.features.vocabulary import Vocabulary
from kdlib.files import RunDir, project_root, runs_root
from kdlib.keys import SCHEMA, experiment_keys, own_code
from kdlib.students import Student

SIDES = ("image", "text")


@dataclass(frozen=True, eq=False)
class Finished:
    """One run after ``config.epochs`` epochs. Rows of images and captions are those of the scored split's store."""

    run: RunDir
    result: dict

    @cached_property
    def config(self) -> RunConfig:
        """The configuration that the run was made with."""
        return RunConfig(**self.result["config"])

    @property
    def name(self) -> str:
        """Method and variant: 'resnet', 'resnet, no teacher', 'resnet, edited by hand'."""
        facts = self.config.variant.replace("_", " "), "edited by hand" if self.result["edited"] else ""
        return ", ".join(filter(None, (self.config.method, *facts)))

    @property
    def headline(self) -> str:
        """The name of the student's main score."""
        return self.result["headline"]

    @property
    def teacher_name(self) -> str:
        """'clip on coco'."""
        return f"{self.config.teacher} on {self.config.dataset}"

    # ------------------------------------------------------------ numbers

    def score(self, who: str = "student", score: str = "") -> float:
        """A score, the headline if ``score`` is ''. ``who``: student, untrained, teacher, pca, ..."""
        return self.result["scores"][who][score or self.headline]

    def interval(self, who: str = "student", score: str = "") -> tuple[float, float]:
        """The 95 % interval of a score over the scored images."""
        return interval(self._array(who, "replicates", score or self.headline))

    def interval_of_difference(self, first: str, second: str) -> tuple[float, float]:
        """The 95 % interval of the difference of two encoders' headline scores, paired on the same images."""
        return interval(
            self._array(first, "replicates", self.headline) - self._array(second, "replicates", self.headline)
        )

    def queries(self, who: str, score: str) -> np.ndarray:
        """The value of each query, whose mean is the score. A query is an image; for t2i scores it is a caption."""
        return self._array(who, "queries", score)

    @property
    def answered(self) -> tuple[str, str]:
        """The score by which a single image is right or wrong, and what 'right' means by it."""
        if self.has_text:
            return "i2t_r@1", "one of its own captions nearest"
        return self.headline, "its class by k-NN"

    def _array(self, who: str, kind: str, score: str) -> np.ndarray:
        own = {"student": self.run.scores_path(self.config.epochs), "untrained": self.run.path / "untrained.npz"}
        path = own.get(who, self.run.path.parents[1] / self.result["controls"])
        with np.load(path) as arrays:
            return arrays[f"{who}/{kind}/{score}"].astype(np.float64)

    @cached_property
    def embeddings(self) -> dict[str, np.ndarray]:
        """The arrays of the evaluation: '<split>/image' (N, D), '<split>/text' (M, D), '<split>/labels' (N,), ..."""
        with np.load(self.run.embeddings_path(self.config.epochs)) as arrays:
            return dict(arrays)

    @cached_property
    def attention(self) -> np.ndarray | None:
        """(N, h * w) the student's attention map of each scored image; None if it has none."""
        return self.embeddings.get(f"{self.config.score_on}/image_attention")

    @cached_property
    def teacher_attention(self) -> np.ndarray:
        """(N, h * w) the teacher's attention map of each scored image."""
        return self.split.store["image_attention"].astype(np.float32)

    @cached_property
    def student_space(self) -> dict[str, Tensor]:
        """The student's embeddings at length 1, float64: 'image' (N, D) and, if there is text, 'text' (M, D)."""
        on = self.config.score_on
        return {
            side: unit_rows(from_numpy(self.embeddings[f"{on}/{side}"]))
            for side in SIDES
            if f"{on}/{side}" in self.embeddings
        }

    @property
    def teacher_space(self) -> dict[str, Tensor]:
        """The teacher's features at length 1, float64: 'image' (N, T) and, if there is text, 'text' (M, T)."""
        return _teacher_space(self.split.store.path)

    # ------------------------------------------------------------ what was scored

    @cached_property
    def split(self) -> Split:
        """The scored split with the teacher's store. Raises StoreError when the store is gone."""
        vocabulary = self.vocabulary if self.config.text_side != "teacher" else None
        return Split(self.config.score_on, self.store(self.config.score_on), vocabulary=vocabulary)

    def store(self, split: str) -> FeatureStore:
        """The store of the teacher's features that this result was made with; the result holds its name.

        It needs neither the teacher's files nor the code of that time. Raises StoreError with the remedy.
        """
        path = store_path(self.result["stores"][split])
        if not is_built(path):
            raise StoreError(
                f"{path}: the features that {self.run.path} was scored with are not there any more. "
                "'kdlib run' on its study file builds them again."
            )
        return FeatureStore.open(path)

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        """The tokens of the training texts, which a student with a text side of its own reads; None without text."""
        stores = [self.store(name) for name in ("fit", "extra") if name in self.result["stores"]]
        texts = [store["text_ids"] for store in stores if "text_ids" in store]
        return Vocabulary.of(*texts) if texts else None

    @cached_property
    def outdated(self) -> bool:
        """Whether the code has changed since, so that the same run would now give other numbers.

        False also if that is unknown, since the teacher's features or a user's own student or loss are gone.
        """
        try:
            described = self.split.store.manifest["key"]["teacher"]
            own_code("student", self.config.method)
            for name in filter(lambda name: ":" in name, self.config.objective.split("+")):
                own_code("loss", name)
        except (StoreError, ImportError, AttributeError, KeyError):
            return False
        teacher = {name: described[name] for name in ("family", "files")}
        prints = {name: SimpleNamespace(**facts) for name, facts in self.result["data"].items()}
        now, then = experiment_keys(self.config, prints, teacher), self.result["keys"]
        return (now["train"], now["exam"]) != (then.get("configured", then["train"]), then["exam"])

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the attention maps."""
        return tuple(self.split.store.manifest["facts"]["grid"])

    @property
    def has_text(self) -> bool:
        """Whether teacher and student read captions."""
        return self.split.has_text

    @cached_property
    def data(self) -> datasets.Dataset:
        """The scored split's images and annotations. Raises DataError when they are not there."""
        config = self.config
        return _dataset(config.dataset, config.data_root, config.score_on, runs_root())

    @cached_property
    def rows(self) -> np.ndarray:
        """(N,) the row of ``data`` that each scored image is, by its id."""
        place = {name: row for row, name in enumerate(self.data.ids)}
        missing = [name for name in self.split.store.ids if name not in place]
        if missing:
            raise datasets.DataError(
                f"{self.data.tree.where}: {len(missing)} images that were scored are not there, as {missing[0]}. "
                "Give the data that the study was run on."
            )
        return np.array([place[name] for name in self.split.store.ids])

    def __len__(self) -> int:
        """The number of scored images."""
        return len(self.split.store)

    def image(self, index: int) -> Image.Image:
        """The decoded image of a row of the scored split."""
        return self.data.images[self.rows[index]]

    def captions(self, index: int) -> tuple[str, ...]:
        """The captions of a row of the scored split."""
        return self.data.captions[self.rows[index]]

    @cached_property
    def texts(self) -> list[str]:
        """All captions, in the order of the embeddings' 'text'."""
        return [text for index in range(len(self)) for text in self.captions(index)]

    @cached_property
    def owner(self) -> np.ndarray:
        """(M,) the image that each caption belongs to."""
        return self.split.owner

    @cached_property
    def labels(self) -> np.ndarray | None:
        """(N,) the class of each image, where the data has classes."""
        return None if self.data.labels is None else self.data.labels[self.rows]

    def describe(self, index: int) -> str:
        """An image in words: its class, or its first caption."""
        return self.captions(index)[0] if self.labels is None else self.data.class_names[self.labels[index]]

    # ------------------------------------------------------------ the student

    @property
    def student(self) -> Student:
        """The trained student, from its checkpoint, on the CPU.

        Raises FileNotFoundError if its checkpoint is gone, or if only a notebook has its class or its layers.
        """
        return self.trained.student.eval()

    @cached_property
    def trained(self) -> Distiller:
        """The trained distiller: the student with its logit scale and the trained parts of its losses."""
        if any(line.startswith("layer ") for line in self.result["edited"]):
            raise FileNotFoundError(f"{self.run.path}: edited by hand, and only its notebook has its layers.")
        config = self.config.model_copy(update={"device": "cpu"})
        # Of 'fit' a student's shape needs only the teacher's width and grid, which each split's store holds.
        experiment = Experiment(config, self.run, {"fit": self.split}, {"fit": self.data}, self.result["keys"])
        try:
            return experiment.trained
        except (KeyError, ImportError) as error:
            raise FileNotFoundError(f"{self.run.path}: student or loss are not known here: {error.args[0]}") from error


def studies() -> list[str]:
    """Studies with a finished run, by name."""
    return sorted({path.parts[-5] for path in _result_paths("*")})


def find(
    study: str,
    teacher: str = "",
    dataset: str = "",
    methods: Sequence[str] = (),
    seed: int | None = None,
    epochs: int | None = None,
) -> list[Finished]:
    """The finished runs of a study that fit the arguments, in the order of their folders.

    ``methods``: folder names, as 'resnet' or 'resnet+no_teacher'; all if none is named.
    """
    found = [Finished(RunDir(path.parent), record) for path in _result_paths(study) if (record := _record(path))]
    return [
        one
        for one in found
        if (not teacher or one.config.teacher == teacher)
        and (not dataset or one.config.dataset == dataset)
        and (not methods or one.config.folder in methods)
        and (seed is None or one.config.seed == seed)
        and (epochs is None or one.config.epochs == epochs)
    ]


def at(path: Path) -> Finished:
    """The finished run in a folder, after its most epochs, or that of a result-EEEE.json; or FileNotFoundError."""
    paths = [path] if path.is_file() else sorted(path.glob("result-*.json"))
    found = [Finished(RunDir(one.parent), record) for one in paths if _is_whole(one) and (record := _record(one))]
    if not found:
        raise FileNotFoundError(
            f"{path} holds no finished run of this version of kdlib; one is runs/<study>/<teacher>_<dataset>/<student>/"
            f"seed<k>. {what_to_do()}"
        )
    return found[-1]


OUTDATED = "The code has changed since this result was made; 'kdlib status' says how, 'kdlib run' makes it anew."


def what_to_do(study: str = "") -> str:
    """A message that there is no finished run, and which command makes one."""
    known = studies()
    file = f"notebooks/studies/{study or 'mini'}.yaml"
    where = f"of the study '{study}' " if study else ""
    others = f" Finished runs are there of: {', '.join(known)}." if study and known else ""
    text = f"There is no finished run {where}in {runs_root()}.{others}"
    if (project_root() / file).exists():
        return f"{text} Run 'kdlib run {file}' (the embedded study: 'make study'), then open this again."
    return f"{text} Run 'kdlib run STUDY.yaml' on its study file, or set the parameter 'study' to another one."


def _result_paths(study: str) -> list[Path]:
    """The paths of complete results, without those of runs that were set aside."""
    paths = runs_root().glob(f"{study}/*/*/seed*/result-*.json")
    return sorted(path for path in paths if re.fullmatch(r"seed\d+", path.parent.name) and _is_whole(path))


def _is_whole(path: Path) -> bool:
    """Whether the files that belong to a result are there."""
    return all(path.with_name(f"{kind}-{path.stem[7:]}.npz").exists() for kind in ("embeddings", "scores"))


def _record(path: Path) -> dict | None:
    """The result in a file; None if it is altered, failed, or of another version."""
    record = RunDir(path.parent).result(int(path.stem.removeprefix("result-")))
    return record if record and record.get("schema") == SCHEMA and record["outcome"] == "ok" else None


@lru_cache(maxsize=2)  # COCO's test set in CLIP's space is 120 MB
def _teacher_space(path: Path) -> dict[str, Tensor]:
    features = teacher_features(Split("", FeatureStore.open(path)))
    return {side: unit_rows(features[side]) for side in SIDES if side in features}


@lru_cache(maxsize=8)
def _dataset(name: str, root: str, split: str, runs: Path) -> datasets.Dataset:
    return datasets.load(name, root, split)
