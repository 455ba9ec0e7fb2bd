"""Reads and validates a study file, and lists its experiments."""

from itertools import product
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdlib.config import RunConfig
from kdlib.files import project_root, reports_root, runs_root

METHODS = ("projection", "bottleneck", "attention", "cbam", "resnet", "densenet")


class StudyError(Exception):
    """A study file that cannot be run; the message names the entry and what it may be."""


class Variant(BaseModel):
    """Further experiments that differ in some parameters, for example the same network without a teacher."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: dict[str, Any]
    notebooks: tuple[str, ...] = Field((), description="all if none is named")
    methods: tuple[str, ...] = Field((), description="all if none is named")
    epochs: tuple[int, ...] = Field((), description="the study's if none is named")
    seeds: tuple[int, ...] = Field((), description="the study's if none is named; others than the study's are ignored")


class StudyConfig(BaseModel):
    """The content of a study file.

    ``notebooks``: notebook name -> parameters for it; ``parameters``: for all experiments; ``by_method``: method ->
    parameters for its experiments; ``variants``: name -> further experiments. Where several set a parameter,
    variants win over by_method, by_method over notebooks, and notebooks over parameters.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str
    title: str
    notebooks: dict[str, dict[str, Any]]
    methods: tuple[str, ...] = METHODS
    epochs: tuple[int, ...] = (5, 10)
    seeds: tuple[int, ...] = (0, 1, 2)
    parameters: dict[str, Any] = {}
    by_method: dict[str, dict[str, Any]] = {}
    variants: dict[str, Variant] = {}
    reports: tuple[str, ...] = Field(
        ("summary", "claims"), description="notebooks of the report; the first is its index"
    )
    memory_gb: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="limit for one experiment; by default its share of the machine"
    )


class ExperimentSpec(BaseModel):
    """One experiment of a study: a notebook and its parameters."""

    model_config = ConfigDict(frozen=True)

    notebook: str
    config: RunConfig

    @property
    def name(self) -> str:
        """The experiment in words, as 'clip_coco cbam 5 epochs'."""
        config = self.config
        variant = f" {config.variant}" if config.variant else ""
        seed = f" seed {config.seed}" if config.seed else ""
        return f"{config.teacher}_{config.dataset} {config.method}{variant} {config.epochs} epochs{seed}"

    @property
    def chain(self) -> tuple[str, str, int]:
        """Experiments with the same chain share checkpoints, so they run one after the other."""
        return self.notebook, self.config.folder, self.config.seed

    @property
    def sources(self) -> tuple[str, str, bool, int]:
        """What the feature stores depend on; experiments with the same value share them."""
        config = self.config
        return self.notebook, config.checkpoint, config.untrained_heads, config.token_grid

    @property
    def page(self) -> Path:
        """Its page: reports/<study>/<teacher>_<dataset>/<method>-seed<k>-epoch-<e>.html."""
        config = self.config
        name = f"{config.folder}-seed{config.seed}-epoch-{config.epochs:04d}.html"
        return reports_root() / config.study / f"{config.teacher}_{config.dataset}" / name

    @property
    def failed_page(self) -> Path:
        """The page of a failed attempt: the notebook up to the error."""
        return self.page.with_suffix(".failed.html")

    @property
    def parameters(self) -> dict[str, Any]:
        """The notebook's parameters: every field of the configuration but teacher and dataset, which name it."""
        return self.config.model_dump(exclude={"teacher", "dataset"})


def load(path: str | Path, data_root: str | None = None, seeds: int | None = None) -> StudyConfig:
    """Read a study file; ``data_root`` and the number of ``seeds`` replace the file's.

    Raises StudyError with the entry and the remedy.
    """
    from kdlib.study import check  # imports students, losses and teachers, which a dask worker does not need

    path = Path(path)
    try:
        content, lines = check.read(path)
    except FileNotFoundError as error:
        known = ", ".join(sorted(file.name for file in studies_folder().glob("*.yaml")))
        raise StudyError(f"There is no study file {path}. In {studies_folder()}: {known}.") from error
    except IsADirectoryError as error:
        raise StudyError(f"{path} is a folder; name the study file.") from error
    except ValueError as error:
        raise StudyError(f"{path}, {error}") from error
    if not isinstance(content, dict):
        raise StudyError(f"{path} holds no study: it must be a mapping with 'study', 'title' and 'notebooks'.")
    for name in ("notebooks", "parameters", "by_method", "variants"):
        if not isinstance(content.get(name) or {}, dict):
            where = check.line_of(lines, (name,))
            raise StudyError(f"{path}, {where}{name}: a list or a word stands where names with values belong ('a: 1').")
    if data_root:
        content["parameters"] = (content.get("parameters") or {}) | {"data_root": _absolute(data_root)}
        for parameters in (content.get("notebooks") or {}).values():
            (parameters or {}).pop("data_root", None)
    if seeds:
        content["seeds"] = list(range(seeds))
    content["notebooks"] = {name: given or {} for name, given in (content.get("notebooks") or {}).items()}
    try:
        study = StudyConfig(**content)
        if not (found := check.problems(study)):
            experiments(study)
    except ValidationError as error:
        found = [(_place(lines, entry["loc"]), entry["msg"]) for entry in error.errors()]
        if any(entry["type"] == "extra_forbidden" for entry in error.errors()):
            found.append(((), f"Known parameters: {', '.join(RunConfig.model_fields)}"))
    except StudyError as error:
        found = [((), str(error))]
    except TypeError as error:  # a name that is no word, as a number
        found = [((), f"an entry's name must be a word: {error}")]
    if found:
        listed = [
            f"{check.line_of(lines, place)}{'.'.join(map(str, place))}{': ' if place else ''}{said}"
            for place, said in found
        ]
        raise StudyError(f"{path}: " + (listed[0] if len(listed) == 1 else "\n  ".join(["", *listed])))
    return study


def _place(lines: dict, place: tuple) -> tuple:
    """The place of an entry in the file; a parameter is looked for in all places that hold parameters."""
    if not place or place[0] in StudyConfig.model_fields:
        return {("epochs",): ("epochs",), ("seed",): ("seeds",)}.get(place, place)
    last = place[0]
    return next((known for known in lines if known and known[-1] == last), {"seed": ("seeds",)}.get(last, place))


def _absolute(root: str) -> str:
    return root if root == "shapes" else str(Path(root).expanduser().resolve())


def _placed(folder: str) -> Path:
    """A relative folder as an absolute one: below the checkout, but ./runs is the folder that KDLIB_RUNS names."""
    first, *rest = Path(folder).parts or (".",)
    return (runs_root().joinpath(*rest) if first == "runs" else project_root() / folder).resolve()


def experiments(study: StudyConfig) -> list[ExperimentSpec]:
    """All experiments, in the order of the tables: notebook, method, seed, epochs.

    The name of a notebook, <teacher>_<dataset>, says its teacher and data set.
    """
    result = _experiments(study, "", study.notebooks, study.methods, {})
    for name, variant in study.variants.items():
        unknown = sorted(set(variant.notebooks) - set(study.notebooks))
        if unknown:
            raise StudyError(f"The variant '{name}' names notebooks that the study lacks: {', '.join(unknown)}.")
        notebooks = variant.notebooks or tuple(study.notebooks)
        given = {notebook: study.notebooks[notebook] for notebook in notebooks}
        seeds = tuple(seed for seed in variant.seeds or study.seeds if seed in study.seeds)
        own = study.model_copy(update={"seeds": seeds, "epochs": variant.epochs or study.epochs})
        result += _experiments(own, name, given, variant.methods or study.methods, variant.parameters)
    return result


def _experiments(
    study: StudyConfig, variant: str, notebooks: dict, methods: tuple[str, ...], own: dict
) -> list[ExperimentSpec]:
    result = []
    for (notebook, given), method, seed in product(notebooks.items(), methods, study.seeds):
        teacher, _, dataset = notebook.partition("_")
        if not dataset:
            raise StudyError(f"The notebook '{notebook}' is not named <teacher>_<dataset>.")
        parameters = study.parameters | given | study.by_method.get(method, {}) | own
        for field in ("checkpoint", "data_root"):
            value = parameters.get(field, "")
            if isinstance(value, str) and value.startswith("."):
                parameters[field] = str(_placed(value))
        for epochs in sorted(study.epochs):
            config = RunConfig(
                **parameters,
                study=study.study,
                variant=variant,
                teacher=teacher,
                dataset=dataset,
                method=method,
                seed=seed,
                epochs=epochs,
            )
            result.append(ExperimentSpec(notebook=notebook, config=config))
    return result


def notebooks_folder() -> Path:
    """Where the parameterised notebooks lie."""
    return project_root() / "notebooks"


def studies_folder() -> Path:
    """Where the study files lie."""
    return notebooks_folder() / "studies"
