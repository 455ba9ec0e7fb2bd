"""Reads a study file (notebooks/studies/*.yaml), and lists its experiments."""

import json
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError

from kdlib.config import Budgets, RunConfig, nearest
from kdlib.utils import absolute, project_root

PATHS = ("data_root", "checkpoint", "extra_images")  # parameters that may be relative to the study file
# Fields that are no parameters -> the entry that sets them.
ELSEWHERE = {"teacher": "notebooks", "epochs": "epochs", "study": "study"}
ELSEWHERE |= {"method": "methods", "seed": "seeds", "variant": "variants"}


def _known(parameters: dict[str, Any]) -> dict[str, Any]:
    for name in parameters:
        if name in ELSEWHERE:
            raise ValueError(f"'{name}' is no parameter: the entry '{ELSEWHERE[name]}' sets it")
        if name not in RunConfig.model_fields:
            raise ValueError(f"there is no parameter '{name}'.{nearest(name, RunConfig.model_fields)}")
    return parameters


Parameters = Annotated[dict[str, Any], AfterValidator(_known)]


class Variant(BaseModel, frozen=True, extra="forbid"):
    """Further experiments that differ in some parameters; what it does not name is the study's."""

    parameters: Parameters = {}
    notebooks: list[str] = []
    methods: list[str] = []
    epochs: Budgets | None = None
    seeds: list[int] = Field([], description="others than the study's are left out")


class Study(BaseModel, frozen=True, extra="forbid"):
    """A study file. Where several set a parameter: variants, then by_method, then notebooks, then parameters."""

    study: str = Field(pattern=r"^\w[\w.-]*$", description="name of its folders below runs/ and reports/")
    title: str
    notebooks: dict[str, Parameters | None] = Field(min_length=1, description="name of a notebook -> parameters for it")
    methods: list[str] = Field(["projection", "bottleneck", "attention", "cbam", "resnet", "densenet"], min_length=1)
    epochs: Budgets = [5, 10]
    seeds: list[int] = Field([0, 1, 2], min_length=1)
    parameters: Parameters = {}
    by_method: dict[str, Parameters] = {}
    variants: dict[str, Variant] = {}
    reports: list[str] = Field(["report", "claims"], min_length=1, description="its pages; the first is the index")
    memory_gb: float | None = Field(None, gt=0, allow_inf_nan=False, description="most memory of one experiment")
    file: Path

    def notebook(self, name: str) -> Path:
        """The notebook of this name: beside the study file, or in notebooks/."""
        places = [place / f"{name}.ipynb" for place in (self.file.parent, project_root() / "notebooks")]
        if found := [path for path in places if path.is_file()]:
            return found[0]
        raise ValueError(f"there is no notebook {' or '.join(map(str, places))}")

    def experiments(self) -> list["Planned"]:
        """All experiments, in the order of the tables: notebook, method, seed; then the variants'."""
        found = []
        for name, variant in {"": Variant(), **self.variants}.items():
            if unknown := set(variant.notebooks) - set(self.notebooks):
                raise ValueError(f"variants.{name}: the study lacks {min(unknown)}; it has {', '.join(self.notebooks)}")
            seeds = [seed for seed in variant.seeds or self.seeds if seed in self.seeds]
            order = product(variant.notebooks or self.notebooks, variant.methods or self.methods, seeds)
            found += [self._planned(name, variant, *place) for place in order]
        if unknown := set(self.by_method) - {one.config.method for one in found}:
            raise ValueError(f"by_method: the study has no method '{min(unknown)}'; it has {', '.join(self.methods)}")
        return found

    def _planned(self, name: str, variant: Variant, notebook: str, method: str, seed: int) -> "Planned":
        path = self.notebook(notebook)
        given = dict(zip(("teacher", "dataset"), notebook.split("_", 1), strict=False))
        given |= json.loads(path.read_text(encoding="utf-8"))["metadata"].get("kdlib", {})
        given |= self.parameters | (self.notebooks[notebook] or {})
        given |= self.by_method.get(method, {}) | variant.parameters
        given |= {name: absolute(given[name], self.file.parent) for name in PATHS if isinstance(given.get(name), str)}
        given |= {"study": self.study, "variant": name, "method": method, "seed": seed}
        try:
            return Planned(path, RunConfig(**given, epochs=variant.epochs or self.epochs))
        except ValidationError as error:
            raise ValueError(f"{notebook} {method}{name and f'+{name}'}: {said(error)}") from None


class Planned(NamedTuple):
    """One experiment of a study: a notebook, and the configuration that it gets."""

    notebook: Path
    config: RunConfig

    @property
    def name(self) -> str:
        """As 'clip_coco cbam' or 'dino_tinyimagenet resnet+supervised seed 2'."""
        config = self.config
        return f"{config.teacher}_{config.dataset} {config.folder}{f' seed {config.seed}' if config.seed else ''}"


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node, deep=False):
        """YAML itself would keep the last of two equal names."""
        names = [key.value for key, _ in node.value if key.value != "<<"]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.MarkedYAMLError(problem=f"'{twice[0]}' is there twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def said(error: Exception) -> str:
    """An error in a sentence; of what pydantic refused the name, the value and the choices."""
    if not isinstance(error, ValidationError):
        words = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        expected = isinstance(error, KeyError | OSError | ValueError | RuntimeError | yaml.YAMLError)
        known = expected or type(error).__module__.startswith("kdlib.")
        return words if known and words else f"{type(error).__name__}: {words} (--debug says where)"
    found = []
    for entry in error.errors():
        name, message = ".".join(map(str, entry["loc"])), entry["msg"].removeprefix("Value error, ").rstrip(".")
        if entry["type"] == "extra_forbidden":
            model = {"RunConfig": RunConfig}.get(error.title, Variant if name.startswith("variants.") else Study)
            message = f"there is no such entry.{nearest(str(entry['loc'][-1]), set(model.model_fields) - {'file'})}"
        elif entry["type"] not in ("missing", "value_error"):
            message = f"{message[0].lower()}{message[1:]}, not {entry['input']!r:.80}"
        found.append((f"{name}: {message}" if name else message).rstrip("."))
    return "; ".join(found) + "."


def load(path: str | Path, data_root: str | None = None, seeds: int | None = None) -> Study:
    """Read a study file; ``data_root`` and the number of ``seeds`` replace the file's. Errors name the choices."""
    path = Path(path).expanduser().absolute()
    if not path.is_file():
        known = ", ".join(sorted(file.name for file in (project_root() / "notebooks/studies").glob("*.yaml")))
        raise ValueError(f"There is no study file {path}. In notebooks/studies: {known}.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        if not isinstance(content, dict):
            raise ValueError("it is no study: it needs the entries 'study', 'title' and 'notebooks'")
        study = Study.model_validate(content | {"file": path})
        changed = {"seeds": list(range(seeds))} if seeds else {}
        if data_root:
            root = {"data_root": absolute(data_root)}
            changed["notebooks"] = {name: (given or {}) | root for name, given in study.notebooks.items()}
        study = study.model_copy(update=changed)
        names = [one.name for one in study.experiments()]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two experiments are '{twice[0]}': list each notebook, method and seed once")
        for name in study.reports:
            study.notebook(name)
    except (ValueError, KeyError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {' '.join(said(error).split())}") from error
    return study
